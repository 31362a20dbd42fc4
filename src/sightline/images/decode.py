"""The bytes of a file into an open picture of checked size, and that into upright RGB pixels."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from math import ceil
from typing import Any, cast

from PIL.ExifTags import Base
from PIL.Image import DecompressionBombError, Image, Transpose
from PIL.ImageFile import ImageFile

from sightline.errors import ImageError, ImageTooLarge
from sightline.images.formats import recognise
from sightline.images.modes import to_rgb
from sightline.images.scale import exact

LIMIT_MEGAPIXELS = 256.0
"""Passes the 200 megapixels of a telephone and panoramas; decoded, it is 1 GiB (Pillow keeps 4 bytes a pixel)."""

OVERSAMPLING = 2
"""How much larger than asked a picture is decoded at least.

Smallest cosine of SqueezeNet's outputs to those of a full decode, at 224 pixels: 0.9958 at 1, 0.9998 at 2.
"""

_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""EXIF 2.32, tag 0x0112: how the stored picture must be turned to stand upright."""

_ENDS_EARLY = re.compile(
    r"truncat|unexpected end|end of file|requires a buffer|too small|insufficient|no more images|cannot load",
    re.IGNORECASE,
)


@contextmanager
def opened(data: bytes, limit_megapixels: float | None) -> Iterator[ImageFile]:
    """The picture with its header read and its size checked, no pixel decoded; all errors inside are `ImageError`."""
    name, opener = recognise(data)
    with _errors_of(name, data), _without_warnings(), opener(BytesIO(data)) as file:
        _check_size(file.size, limit_megapixels)
        yield file


def decode(file: ImageFile, at_least: tuple[int, int]) -> Image:
    """The pixels of an open file, upright and RGB, each side `OVERSAMPLING` times `at_least` or more, if it has them.

    `at_least` is width and height as stored, before the picture is turned upright.
    """
    target = (OVERSAMPLING * at_least[0], OVERSAMPLING * at_least[1])
    extent: tuple[float, float] = file.size
    if file.format == "JPEG":  # fewer coefficients per block; for HEIC, `draft` would mean the embedded thumbnail
        drafted = file.draft(None, target)
        extent = drafted[1][2:] if drafted else extent
    file.load()
    shrink = max(1, min(file.width // target[0], file.height // target[1]))
    image = exact(to_rgb(file, shrink), (extent[0] / shrink, extent[1] / shrink), at_least)
    turn = _UPRIGHT.get(orientation(file))
    return image if turn is None else image.transpose(turn)


def orientation(file: ImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, it is broken, or Pillow applies it by itself (TIFF)."""
    if file.format == "TIFF":
        return 1
    with suppress(Exception):  # the EXIF block of a sound picture may be arbitrarily broken
        value = file.getexif().get(Base.Orientation, 1)
        return value if value in _UPRIGHT else 1
    return 1


def _check_size(size: tuple[int, int], limit_megapixels: float | None) -> None:
    megapixels = size[0] * size[1] / 1e6
    if limit_megapixels is not None and megapixels > limit_megapixels:
        raise ImageTooLarge(
            f"a picture of {size[0]} x {size[1]} pixels, {megapixels:,.0f} megapixels: expected at most "
            f"{limit_megapixels:g}; if you trust the file, allow it with --max-megapixels {ceil(megapixels)}"
        )


@contextmanager
def _errors_of(name: str, data: bytes) -> Iterator[None]:
    """Whatever a decoder raises on damaged bytes becomes an `ImageError` with a short reason."""
    try:
        yield
    except ImageError:
        raise
    except DecompressionBombError as error:
        raise ImageTooLarge(
            f"a {name} picture that is too large: {error}; store it smaller or in another format"
        ) from error
    except MemoryError as error:
        raise ImageError(f"not enough memory for this {name} picture: expected room for it; make it smaller") from error
    except Exception as error:  # Pillow's parsers let through OSError, SyntaxError, struct.error, KeyError and others
        kind = "truncated" if _ends_early(name, data, error) else "damaged or of an unsupported kind"
        detail = str(error) or type(error).__name__
        raise ImageError(
            f"{kind} {name} picture ({detail}): expected a whole file; copy or download it again, or leave it out"
        ) from error


def _ends_early(name: str, data: bytes, error: Exception) -> bool:
    if name == "webp":  # its decoder gives no reason, its header (RIFF) the length of what follows
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return bool(_ENDS_EARLY.search(str(error)))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Pillow warns of odd metadata, which is no news to a user.

    `warnings.catch_warnings` swaps the filters of the whole process and is unsafe in threads; one entry that each
    call adds and removes is safe, since list operations are atomic.
    """
    filters = cast(list[Any], warnings.filters)
    filters.insert(0, _IGNORE_PILLOW)
    try:
        yield
    finally:
        with suppress(ValueError):  # someone else has swapped the filters meanwhile
            filters.remove(_IGNORE_PILLOW)


_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\.|pillow_heif\."), 0)
