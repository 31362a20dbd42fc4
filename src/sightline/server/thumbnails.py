"""Thumbnails as small WebP files, made once and kept in a folder of bounded size."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from sightline.files import DiskCache
from sightline.images.read import thumbnail
from sightline.types import Hit, Record

SIDES = (160, 320, 640, 1280, 2048)
"""The longer sides in pixels that are made; a request gets the next larger one."""

_LIMIT_BYTES = 2 * 2**30  # about 100,000 thumbnails of 320 pixels


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
        self._kept = DiskCache(folder, limit_bytes=limit_bytes)

    def kept(self, record: Record, side: int) -> bytes | None:
        """The thumbnail if it was made before."""
        return self._kept.get(_name(record, side))

    def get(self, record: Record, side: int, read: Callable[[], bytes]) -> bytes:
        """The thumbnail, made from the file's bytes if need be; raises what `read` raises, or `ImageError`."""
        if (data := self.kept(record, side)) is not None:
            return data
        data = thumbnail(read(), side)
        self._kept.put(_name(record, side), data)
        return data


def _name(record: Record, side: int) -> str:
    return f"{version(record)}-{side}.webp"
