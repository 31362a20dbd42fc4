"""Encode the pictures and texts of an evaluation, with a cache so that a second run takes seconds."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.encoders.base import Encoder, picture_fingerprint
from sightline.errors import SourceError
from sightline.files import replacing
from sightline.ingest import Options, ingest
from sightline.sources.base import open_source
from sightline.stores.base import Store, open_store
from sightline.types import FAILURE, Vectors, record_id

_SPEED = "speed"  # the note that keeps pictures/s as measured when they were encoded
_ENOUGH_TO_TIME = 32
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of the pictures (n, dim) that could be read, at `positions` (n,) of those asked for, and pictures/s."""

    vectors: Vectors
    positions: Sequence[int]
    images_per_s: float | None


def image_vectors(encoder: Encoder, images: Sequence[Path], cache: Path, *, options: Options | None = None) -> Encoded:
    """The vectors of picture files, from the cache where they are in it: models with one image tower share them."""
    store = open_store(str(cache / f"pictures-{_safe(picture_fingerprint(encoder))}.index"), dim=encoder.dim)
    try:
        items = (item for image in images for item in open_source(image))
        summary = ingest(items, encoder, store, options=options or Options(), seen=set())
        if summary.encoded >= _ENOUGH_TO_TIME:
            store.write_notes(_SPEED, {_SPEED: {"images_per_s": summary.encoded / summary.seconds}})
        return _fetched(store, images)
    finally:
        store.close()


def text_vectors(encoder: Encoder, texts: Sequence[str], cache: Path) -> Vectors:
    """The vectors of texts, shape (n, dim), from the cache where they are in it.

    Its key is the whole model: another text tower beside the same image tower gives other vectors.
    """
    words = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = cache / f"{_safe(encoder.name)}-{encoder.fingerprint}-{words}.npy"
    if path.exists():
        return np.asarray(np.load(path), np.float32)
    parts = [
        encoder.encode_texts(texts[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(texts), _TEXTS_AT_ONCE)
    ]
    vectors = np.concatenate(parts)  # of (64, dim) -> (n, dim)
    with replacing(path) as part:
        np.save(part, vectors)
    return vectors


def _fetched(store: Store, images: Sequence[Path]) -> Encoded:
    ids = [record_id(Path(os.path.abspath(image)).as_uri()) for image in images]  # noqa: PTH100  as sources name them
    records = {record.id: record.vector for record in store.fetch(ids)}
    positions = [position for position, identity in enumerate(ids) if identity in records]
    if not positions:
        reasons = {note["reason"] for note in store.notes(FAILURE).values()}
        raise SourceError(f"none of {len(images)} pictures could be read ({'; '.join(sorted(reasons)[:3])})")
    speed = store.notes(_SPEED).get(_SPEED, {}).get("images_per_s")
    return Encoded(np.stack([records[ids[position]] for position in positions]), positions, speed)


def _safe(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in name)
