"""Decode a picture file to upright RGB pixels, at reduced scale where that is enough; its size is checked first."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from math import ceil
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL.ExifTags import Base
from PIL.Image import DecompressionBombError, Image, Resampling, Transpose, fromarray, new
from PIL.ImageFile import ImageFile

from sightline.errors import ImageError, ImageTooLarge
from sightline.images.formats import recognise

LIMIT_MEGAPIXELS = 256.0
"""Passes the 200 megapixels of a telephone and panoramas; decoded, it is 1 GiB (Pillow keeps 4 bytes a pixel)."""

OVERSAMPLING = 2
"""How much larger than asked a picture is decoded at least.

Smallest cosine of SqueezeNet's outputs to those of a full decode, at 224 pixels: 0.9958 at 1, 0.9998 at 2.
"""

MISFIT_PIXELS = 0.02
"""By how much of a pixel of the wanted size a reduced picture may be off; the loss of cosine grows with its square."""

_DEEP_GREY = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_REDUCIBLE = ("L", "RGB", "RGBA", "CMYK")

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
    image = _without_partial_pixels(_to_rgb(file, shrink), (extent[0] / shrink, extent[1] / shrink), at_least)
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


def _to_rgb(image: Image, shrink: int) -> Image:
    """The picture in RGB, transparent parts over white, each side divided by `shrink` (box average, rounded up)."""
    plain = _plain(image)
    if shrink > 1:  # before the costlier conversions: they then touch a fraction of the pixels
        plain = plain.reduce(shrink)
    if plain.mode == "RGBA":
        return _over_white(plain)
    return plain if plain.mode == "RGB" else plain.convert("RGB")


def _plain(image: Image) -> Image:
    if image.mode in _DEEP_GREY:
        return _eight_bits(np.asarray(image))
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else _straight_alpha(image).convert("RGBA")
    return image if image.mode in _REDUCIBLE else image.convert("L" if image.mode == "1" else "RGB")


def _straight_alpha(image: Image) -> Image:
    """Premultiplied modes know one conversion only, to their plain twin."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]) if image.mode in ("La", "RGBa") else image


def _over_white(image: Image) -> Image:
    background = new("RGB", image.size, "white")
    background.paste(image, mask=image.getchannel("A"))
    return background


def _eight_bits(grey: NDArray[np.generic]) -> Image:
    """Greys of 10 to 32 bits or floats, (height, width), scaled to 0..255; Pillow itself would clip them to white."""
    values = np.nan_to_num(grey.astype(np.float32), posinf=0.0, neginf=0.0)
    black, white = _range(float(values.min()), float(values.max()), is_integer=grey.dtype.kind in "iu")
    values -= black
    values *= 255 / (white - black)
    return fromarray(values.round().astype(np.uint8))


def _range(lowest: float, highest: float, *, is_integer: bool) -> tuple[float, float]:
    """Which values are black and white.

    Integers take the sensor depth that holds their maximum (scans of 12 bits come in files of 16 and are not night
    pictures); floats are 0 to 1 by custom; whatever fits neither is stretched.
    """
    if is_integer and lowest >= 0:
        for bits in (8, 10, 12, 14, 16):
            if highest < 2**bits:
                return 0.0, 2.0**bits - 1
    if lowest >= 0 and highest <= 1:
        return 0.0, 1.0
    return (lowest, highest) if highest > lowest else (lowest, lowest + 1)


def _without_partial_pixels(image: Image, extent: tuple[float, float], wanted: tuple[int, int]) -> Image:
    """The same picture without the part of a pixel by which its last column and row stick out.

    Reduced decoding rounds sides up: 573 rows halved are 287, the last of them half empty, where `extent` says 286.5.
    Squeezed to 112 rows, the picture is then off by a fifth of a row at its lower edge, and the cosine falls to 0.997.
    Pictures of most cameras have sides that are multiples of 8 and pass unchanged.
    """
    sides = zip(image.size, extent, wanted, strict=True)
    if max((side - true_side) / true_side * pixels for side, true_side, pixels in sides) <= MISFIT_PIXELS:
        return image
    return image.resize(_faithful_size(*extent), Resampling.BICUBIC, box=(0, 0, *extent))


def _faithful_size(width: float, height: float) -> tuple[int, int]:
    """Whole sides up to a tenth larger whose ratio is nearest to the given one, for encoders that crop to a square."""
    short, ratio = ceil(min(width, height)), max(width, height) / min(width, height)
    short = min(range(short, short * 11 // 10 + 1), key=lambda side: abs(round(side * ratio) - side * ratio) / side)
    long = round(short * ratio)
    return (long, short) if width > height else (short, long)


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
