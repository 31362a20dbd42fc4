"""Pictures turned into small WebP files, made once and kept in a folder of bounded size."""

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from sightline.images.read import thumbnail
from sightline.types import Hit, Record

SIDES = (160, 320, 640, 1280, 2048)
"""The longer sides in pixels that are made; a request gets the next larger one."""

_LIMIT_BYTES = 2 * 2**30  # about 100,000 thumbnails of 320 pixels
_CHECK_EVERY = 1000  # new thumbnails


def side_for(size: int) -> int:
    """The side that serves a wanted size."""
    return next((side for side in SIDES if side >= size), SIDES[-1])


def version(record: Hit | Record) -> str:
    """Changes with the picture's content: names the thumbnail's file, its ETag, and the end of its address."""
    content = record.payload.get("sha256") or f"{record.id}-{record.payload.get('stamp')}"
    return hashlib.sha256(str(content).encode("utf-8", "surrogateescape")).hexdigest()[:20]


class Thumbnails:
    """Thumbnails by content: a copy of a picture shares them, and they outlive the picture's file."""

    def __init__(self, folder: Path, *, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._lock, self._made = threading.Lock(), 0

    def kept(self, record: Record, side: int) -> bytes | None:
        """The thumbnail if it was made before."""
        with suppress(OSError):
            return self._path(record, side).read_bytes()
        return None

    def get(self, record: Record, side: int, read: Callable[[], bytes]) -> bytes:
        """The thumbnail, made from the file's bytes if need be; raises what `read` raises, or `ImageError`."""
        if (data := self.kept(record, side)) is not None:
            return data
        data = thumbnail(read(), side)
        with suppress(OSError):  # a full disk makes it slow, not wrong
            self._keep(self._path(record, side), data)
        return data

    def _path(self, record: Record, side: int) -> Path:
        name = version(record)
        return self._folder / name[:2] / f"{name}-{side}.webp"

    def _keep(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(data)
        os.replace(file.name, path)  # noqa: PTH105  whole or not at all, whoever else makes the same one
        with self._lock:
            self._made += 1
            is_due = self._made % _CHECK_EVERY == 1
        if is_due:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        files = [
            (status.st_mtime, status.st_size, path) for path in self._folder.glob("*/*") if (status := path.stat())
        ]
        excess = sum(size for _, size, _ in files) - self._limit_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size
