"""Pictures to search by, kept for a while under an id, so that the address of a search can name them."""

import hashlib
import re
from io import BytesIO
from pathlib import Path

from PIL import Image

from sightline.files import DiskCache
from sightline.images.read import thumbnail
from sightline.server.problems import Problem

PREFIX = "q-"
_ID = re.compile(r"q-[0-9a-f]{40}")
_SIDE = 640  # more than any model of the catalog sees
_LIMIT_BYTES = 60 << 20  # about 1,000 of them


class QueryPictures:
    """A folder of small copies, named by their content; the oldest are forgotten."""

    def __init__(self, folder: Path) -> None:
        self._kept = DiskCache(folder, limit_bytes=_LIMIT_BYTES, check_every=50)

    def add(self, data: bytes, *, max_megapixels: float) -> tuple[str, tuple[int, int]]:
        """The id and the size of a picture's small copy; `ImageError` if it is none."""
        small = thumbnail(data, _SIDE, limit_megapixels=max_megapixels)
        identity = PREFIX + hashlib.sha256(small).hexdigest()[:40]
        self._kept.put(f"{identity}.webp", small)
        with Image.open(BytesIO(small)) as image:
            return identity, image.size

    def read(self, identity: str) -> bytes:
        """The small copy as WebP."""
        data = self._kept.get(f"{identity}.webp") if _ID.fullmatch(identity) else None
        if data is not None:
            return data
        raise Problem(404, f"there is no query picture {identity[:60]!r} any more: drop or paste the picture again")
