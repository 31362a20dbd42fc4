"""Pictures to search by, kept for a while under an id, so that the address of a search can name them."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from PIL import Image

from sightline.images.read import thumbnail
from sightline.server.problems import Problem

PREFIX = "q-"
_ID = re.compile(r"q-[0-9a-f]{40}")
_SIDE = 640  # more than any model of the catalog sees
_MOST = 1000  # about 60 MB


class QueryPictures:
    """A folder of small copies, named by their content; the oldest are forgotten."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, data: bytes, *, max_megapixels: float) -> tuple[str, tuple[int, int]]:
        """The id and the size of a picture's small copy; `ImageError` if it is none."""
        small = thumbnail(data, _SIDE, limit_megapixels=max_megapixels)
        identity = PREFIX + hashlib.sha256(small).hexdigest()[:40]
        self._folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as file:
            file.write(small)
        os.replace(file.name, self._path(identity))  # noqa: PTH105
        self._forget_oldest()
        with Image.open(self._path(identity)) as image:
            return identity, image.size

    def read(self, identity: str) -> bytes:
        """The small copy as WebP."""
        if _ID.fullmatch(identity):
            with suppress(OSError):
                path = self._path(identity)
                data = path.read_bytes()
                path.touch()
                return data
        raise Problem(404, f"there is no query picture {identity[:60]!r} any more: drop or paste the picture again")

    def _path(self, identity: str) -> Path:
        return self._folder / f"{identity}.webp"

    def _forget_oldest(self) -> None:
        with suppress(OSError):
            files = sorted(self._folder.glob("*.webp"), key=lambda path: path.stat().st_mtime)
            for path in files[:-_MOST]:
                path.unlink(missing_ok=True)
