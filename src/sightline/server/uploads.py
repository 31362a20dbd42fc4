"""Uploads: checked, written to the uploads folder, and indexed."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import SourceError
from sightline.files import replacing
from sightline.images.decode import decode, opened
from sightline.index import Index
from sightline.server.problems import Problem
from sightline.sources.files import path_of
from sightline.sources.folder import open_path
from sightline.types import Record, record_id

_SUFFIXES = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif"}


@dataclass(frozen=True, slots=True)
class Upload:
    """Bytes that are a picture: `suffix` comes from what they are, the name they came with is ignored."""

    data: bytes
    suffix: str


def check(data: bytes, max_megapixels: float) -> Upload:
    """What the bytes are, by looking into them; `ImageError` if they are no picture that can be decoded."""
    with opened(data, max_megapixels) as file:
        kind = str(file.format).lower()
        decode(file, (64, 64))
    return Upload(data, _SUFFIXES.get(kind, kind))


def add(uploads: Sequence[Upload], folder: Path, index: Index) -> list[Record]:
    """Store and index pictures; returns when files and records are on the disk. Known content is not stored again."""
    paths = [_store(upload, folder) for upload in uploads]
    index.add([item for path in paths for item in open_path(path)])
    ids = [record_id(path.as_uri()) for path in paths]
    records = {record.id: record for record in index.store.fetch(ids)}
    if missing := [identity for identity in ids if identity not in records]:
        raise Problem(422, f"{len(missing)} of {len(ids)} pictures could not be indexed: see /api/failures")
    return [records[identity] for identity in ids]


def remove(record: Record, folder: Path | None, index: Index) -> None:
    """Take a picture out of the index; its file goes too if it was uploaded."""
    index.remove([record.id])
    try:
        path = path_of(record.uri)
    except SourceError:
        return
    # A record from elsewhere may name anything: neither `..` nor a link leads out of the folder.
    if folder is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        path.unlink(missing_ok=True)


def _store(upload: Upload, folder: Path) -> Path:
    name = hashlib.sha256(upload.data).hexdigest()
    path = folder / name[:2] / f"{name}.{upload.suffix}"
    if path.exists():
        return path
    with replacing(path) as part, part.open("wb") as file:
        file.write(upload.data)
        file.flush()
        os.fsync(file.fileno())
    for directory in (path.parent, folder):  # else the name may be lost, though the bytes are safe
        _sync(directory)
    return path


def _sync(directory: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
