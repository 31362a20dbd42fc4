"""What people give as a picture (a path, a URL, bytes, an open file, decoded pixels), into RGB and into items."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ImageError, SightlineError, SourceError, UsageError
from sightline.sources.files import bytes_in, is_data_url
from sightline.types import Item

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | Image | NDArray[Any]"
"""A path, a URL (file:, http:, https:, data:), the bytes of a picture file, an open file, a Pillow image, or an array.

Arrays are (height, width), or (height, width, 3 or 4) with RGB or RGBA: 8 or 16 bits, or floats from 0 to 1.
"""

Region: TypeAlias = tuple[float, float, float, float]
"""A part of a picture: x, y, width and height as shares of it, 0 to 1."""

_WHOLE = 1 << 20  # pixels that no picture has: it comes at its own size
_URL = re.compile(r"(?:https?|file|data):\S+", re.IGNORECASE)
_EXPECTED = (
    "expected a path, a URL (file:, http:, https: or data:), the bytes of a picture file, an open binary file, "
    "a Pillow image, or an array of (height, width) or (height, width, 3 or 4)"
)


def is_url(text: str) -> bool:
    """Whether a text is a URL that a picture can be read from."""
    return bool(_URL.fullmatch(text))


def is_picture(value: object) -> bool:
    """Whether a value can only be meant as a picture: not a text, nor an array of one dimension."""
    if isinstance(value, np.ndarray):
        return value.ndim != 1
    return isinstance(value, bytes | bytearray | memoryview | os.PathLike) or hasattr(value, "read") or _is_image(value)


def pixels_of(picture: Picture, *, image_size: int, limit_megapixels: float | None = None) -> Image:
    """Any picture, upright, in sRGB, as `images.read.read` gives those of files; `UsageError` says why it is none."""
    from sightline.images.decode import LIMIT_MEGAPIXELS  # 25 ms that a search by words does not need
    from sightline.images.read import read, read_decoded, read_values

    name = _name_of(picture)
    try:
        if isinstance(picture, np.ndarray):
            return read_values(picture, image_size=image_size)
        if _is_image(picture) and (data := _unread(picture)) is None:
            return read_decoded(picture, image_size=image_size)  # type: ignore[arg-type]
        data = data if _is_image(picture) else _bytes_of(picture)
        return read(data or b"", image_size=image_size, limit_megapixels=limit_megapixels or LIMIT_MEGAPIXELS)
    except ImageError as error:
        raise UsageError(f"cannot use {name} as a query: {error}") from error
    except (OSError, ValueError) as error:
        if isinstance(error, SightlineError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(f"cannot use {name} as a query: it cannot be read ({reason})") from error


def check_region(region: Region) -> Region:
    """A part of a picture; `UsageError` where it is none, or not within the picture."""
    is_valid = len(region) == 4 and all(isinstance(one, int | float) for one in region)
    if is_valid:
        x, y, width, height = region
        is_valid = 0 <= x < 1 and 0 <= y < 1 and 0 < width <= 1.0001 - x and 0 < height <= 1.0001 - y
    if not is_valid:
        raise UsageError(
            f"the region is {','.join(map(str, region))}, expected x,y,width,height as shares of the picture, 0 to 1, "
            "that lie within it: 0.5,0,0.5,1 is its right half"
        )
    return region


def cropped(picture: Picture, region: Region, *, image_size: int, limit_megapixels: float | None = None) -> Image:
    """That part of a picture, as `pixels_of` gives the whole, read as large as the part needs."""
    x, y, width, height = check_region(region)
    side = math.ceil(image_size / min(width, height, 1))
    image = pixels_of(picture, image_size=min(side, _WHOLE), limit_megapixels=limit_megapixels)
    left, top = min(int(x * image.width), image.width - 1), min(int(y * image.height), image.height - 1)
    right, bottom = round((x + width) * image.width), round((y + height) * image.height)
    return image.crop((left, top, max(left + 1, min(right, image.width)), max(top + 1, min(bottom, image.height))))


def picture_at(uri: str) -> Image:
    """The picture that an index knows by that URI, whole, upright and in RGB; `SourceError` or `ImageError`."""
    from sightline.images.read import read
    from sightline.sources.base import read_uri

    return read(read_uri(uri), image_size=_WHOLE)


def items_of(pictures: Iterable[Item | Picture]) -> Iterator[Item]:
    """Pictures of any kind as items: files by their own URIs, what has none by its content (`sha256:...`)."""
    from sightline.sources.base import open_source

    for picture in pictures:
        if isinstance(picture, Item):
            yield picture
        elif isinstance(picture, os.PathLike) or (isinstance(picture, str) and not is_data_url(picture)):
            yield from open_source(picture if isinstance(picture, str) else Path(picture))
        else:
            data = _file_of(picture)
            name = f"sha256:{hashlib.sha256(data).hexdigest()}"
            yield Item(name, name, partial(bytes, data), {"name": name[:20], "size_bytes": len(data)})


def _file_of(picture: Picture) -> bytes:
    """The bytes of a picture file; a PNG of what is decoded already."""
    if not (_is_image(picture) or isinstance(picture, np.ndarray)):
        return _bytes_of(picture)
    data = _unread(picture)
    if data is None:
        from io import BytesIO

        buffer = BytesIO()
        pixels_of(picture, image_size=_WHOLE).save(buffer, "PNG", compress_level=1)
        data = buffer.getvalue()
    return data


def _bytes_of(picture: Any) -> bytes:
    """The bytes of a file that is named or given."""
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str) and is_data_url(picture):
        try:
            return bytes_in(picture) or b""
        except SourceError as error:
            raise UsageError(str(error)) from error
    if isinstance(picture, str) and is_url(picture):
        from sightline.sources.base import read_uri

        try:
            return read_uri(picture)
        except SourceError as error:
            raise UsageError(f"cannot use {_name_of(picture)} as a query: {error}") from error
    if isinstance(picture, str | os.PathLike):
        path = Path(picture).expanduser()
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise UsageError(f"there is no picture at {path}, expected a picture file: check the path") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"cannot read {path} ({reason}): expected a picture file that you may read") from error
    if hasattr(picture, "read"):
        data = picture.read()
        if isinstance(data, bytes):
            return data
        raise UsageError(f"a file that gives {type(data).__name__}, expected bytes: open it with mode 'rb'")
    raise UsageError(f"cannot use {_name_of(picture)} as a picture: {_EXPECTED}")


def _unread(picture: Any) -> bytes | None:
    """The file behind a Pillow image of which no pixel was decoded yet, so that our own rules read it."""
    file = getattr(picture, "fp", None)
    if not getattr(picture, "tile", None) or file is None or getattr(picture, "tell", int)() != 0:
        return None
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    if getattr(picture, "_exclusive_fp", False) and picture.format != "TIFF":  # of which Pillow may make garbage
        with suppress(Exception):  # closes the file that Pillow opened, as its other calls do
            picture.load()
    return bytes(data)


def _is_image(value: object) -> bool:
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def _name_of(picture: Any) -> str:
    if isinstance(picture, str):
        return picture if not is_data_url(picture) else "a data: URL"
    if isinstance(picture, os.PathLike):
        return str(os.fspath(picture))
    if isinstance(picture, np.ndarray):
        return f"an array of shape {picture.shape} and type {picture.dtype}"
    return f"{'an' if type(picture).__name__[0] in 'aeiouAEIOU' else 'a'} {type(picture).__name__}"
