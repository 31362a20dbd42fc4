"""Decode a picture file to upright RGB pixels, at reduced scale where that is enough; its size is checked first."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from math import ceil
from threading import Lock
from typing import Any, cast

import PIL.Image
from PIL.ExifTags import Base
from PIL.Image import DecompressionBombError, Image, Resampling, Transpose, new
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from sightline.errors import ImageError, ImageTooLarge, summary
from sightline.images.colours import in_srgb, over_ground
from sightline.images.deep import DEEP_GREY, Samples, bands, eight_bits, samples_of
from sightline.images.formats import recognise
from sightline.images.jpeg import without_end
from sightline.images.tiff import TiffPicture

LIMIT_MEGAPIXELS = 256.0
"""Passes the 200 megapixels of a telephone and panoramas; decoded, it is 1 GiB (Pillow keeps 4 bytes a pixel).

Formats whose decoders take more than that a pixel are refused from as many megapixels less on.
"""

_WEBP_BYTES = 16.0
_PILLOWS_LIMIT = 160_000_000  # bytes; below the samples at which Pillow warns, and refuses at the double

OVERSAMPLING = 2
"""How much larger than asked a picture is decoded at least.

Smallest cosine of SqueezeNet's outputs to those of a full decode, at 224 pixels: 0.9958 at 1, 0.9998 at 2.
"""

MISFIT_PIXELS = 0.02
"""By how much of a pixel of the wanted size a reduced picture may be off; the loss of cosine grows with its square."""

DAMAGE = "damage"
"""The key, of what a file tells and of a payload, for what is missing of a picture."""

_REDUCIBLE = ("L", "RGB", "RGBA", "CMYK", "LAB")

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
    with as_image_error(name, data), _without_warnings():
        if name == "webp" and (size := _webp_size(data)):  # its decoder takes memory as soon as it is opened
            _check_size(size, _WEBP_BYTES, limit_megapixels)
        with _without_limit(of=name == "webp"), opener(BytesIO(data)) as file:
            _check_size(file.size, _bytes_a_pixel(file), limit_megapixels)
            if isinstance(file, TiffPicture):
                file.find_picture()
                _check_size(file.size, _bytes_a_pixel(file), limit_megapixels)
            with _without_limit(of=file.width * file.height * _bytes_a_pixel(file) > _PILLOWS_LIMIT):
                yield file


def decode(file: ImageFile, at_least: tuple[int, int]) -> Image:
    """The pixels of an open file, upright, in sRGB; each side `OVERSAMPLING` times `at_least` or more, if it has them.

    `at_least` is width and height as stored, before the picture is turned upright.
    """
    target = (OVERSAMPLING * at_least[0], OVERSAMPLING * at_least[1])
    image, samples, extent = file, None, cast(tuple[float, float], file.size)
    if isinstance(file, TiffPicture) and file.layout:
        samples = file.samples(file.layout)
        extent = samples.size
    else:
        image, extent = _loaded(file, target)
        samples = samples_of(image) if image.mode in DEEP_GREY else None
    turn = file.tag_v2.get(Base.Orientation, 1) if isinstance(file, TiffPicture) else orientation(file)
    return finished(samples or image, extent, at_least, turn=turn, profile=file.info.get("icc_profile"))


def finished(
    picture: Image | Samples, extent: tuple[float, float], at_least: tuple[int, int], *, turn: int, profile: object
) -> Image:
    """Pixels or samples as stored, at reduced scale, over a ground, in sRGB and upright.

    `extent` is their size, with the fraction of a pixel that a reduced decode leaves; `turn` is EXIF's orientation.
    """
    width, height = picture.size
    shrink = max(1, min(width // (OVERSAMPLING * at_least[0]), height // (OVERSAMPLING * at_least[1])))
    reduced = eight_bits(picture, shrink) if isinstance(picture, Samples) else _reduced(picture, shrink)
    image = in_srgb(over_ground(reduced), profile)
    image = _without_partial_pixels(image, (extent[0] / shrink, extent[1] / shrink), at_least)
    upright = image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image
    if upright is picture:
        upright = upright.copy()
    upright.info.clear()  # what it says of turn, profile and transparency is done, and must not be done again
    return upright


def _loaded(file: ImageFile, target: tuple[int, int]) -> tuple[ImageFile, tuple[float, float]]:
    """The file with its pixels, and its size in pixels of a reduced decode, which need not be whole."""
    extent: tuple[float, float] = file.size
    if file.format == "JPEG":  # fewer coefficients per block; for HEIC, `draft` would mean the embedded thumbnail
        drafted = file.draft(None, target)
        extent = drafted[1][2:] if drafted else extent
    try:
        file.load()
    except OSError:
        found = without_end(cast(BytesIO, file.fp).getvalue(), target) if file.format == "JPEG" else None
        if found is None:
            raise
        file.info[DAMAGE] = f"ends early: {100 * found[1]:.0f} % of its rows are there"
        return found[0], extent
    return file, extent


def _reduced(image: Image, shrink: int) -> Image:
    """The picture in L, RGB, RGBA, CMYK or LAB, each side divided by `shrink` (box average, rounded up)."""
    plain: Image | None = None
    for top, bottom in bands(image.size, shrink):  # no conversion touches more than a part of the pixels
        whole = bottom - top == image.height
        band = _plain(image if whole else image.crop((0, top, image.width, bottom)))
        band = band.reduce(shrink) if shrink > 1 else band
        if whole:
            return band
        plain = plain or new(band.mode, (ceil(image.width / shrink), ceil(image.height / shrink)))
        plain.paste(band, (0, top // shrink))
    return plain or image


def _plain(image: Image) -> Image:
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else _straight_alpha(image).convert("RGBA")
    return image if image.mode in _REDUCIBLE else image.convert("L" if image.mode == "1" else "RGB")


def _straight_alpha(image: Image) -> Image:
    """Premultiplied modes know one conversion only, to their plain twin."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]) if image.mode in ("La", "RGBa") else image


def orientation(file: Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, it is broken, or Pillow applies it by itself (TIFF)."""
    if getattr(file, "format", None) == "TIFF":
        return 1
    with suppress(Exception):  # the EXIF block of a sound picture may be arbitrarily broken
        value = file.getexif().get(Base.Orientation, 1)
        return value if value in _UPRIGHT else 1
    return 1


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


def _check_size(size: tuple[int, int], bytes_a_pixel: float, limit_megapixels: float | None) -> None:
    """Refuse a picture of more pixels than the limit, or that takes more memory to decode, before any is taken."""
    megapixels = size[0] * size[1] / 1e6
    if limit_megapixels is None:
        return
    advice = "if you trust the file, allow it with --max-megapixels"
    if megapixels > limit_megapixels:
        raise ImageTooLarge(
            f"a picture of {size[0]} x {size[1]} pixels, {megapixels:,.0f} megapixels: expected at most "
            f"{limit_megapixels:g}; {advice} {ceil(megapixels)}"
        )
    if megapixels * bytes_a_pixel > 4 * max(limit_megapixels, LIMIT_MEGAPIXELS):
        raise ImageTooLarge(
            f"a picture of {size[0]} x {size[1]} pixels that takes {megapixels * bytes_a_pixel:,.0f} MB to decode: "
            f"expected at most {4 * max(limit_megapixels, LIMIT_MEGAPIXELS):,.0f}; {advice} "
            f"{ceil(megapixels * bytes_a_pixel / 4)}"
        )


def _bytes_a_pixel(file: ImageFile) -> float:
    """What decoding takes at its peak, measured for each format on pictures of 48 megapixels."""
    if isinstance(file, JpegImageFile) and file.info.get("progressive"):  # all coefficients are kept, 2 bytes for each
        across, down = max(layer[1] for layer in file.layer), max(layer[2] for layer in file.layer)
        return max(4.0, 1 + sum(2 * layer[1] * layer[2] for layer in file.layer) / (across * down))
    if isinstance(file, TiffPicture):
        return file.bytes_a_pixel
    return {"WEBP": _WEBP_BYTES, "AVIF": 10.0, "HEIF": 10.0, "HEIC": 10.0, "JXL": 16.0}.get(str(file.format), 4.0)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a WebP file (RFC 9649), for each of its three kinds."""
    kind, low = data[12:16], int.from_bytes
    if kind == b"VP8X":
        return low(data[24:27], "little") + 1, low(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = low(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return (low(data[26:28], "little") & 0x3FFF, low(data[28:30], "little") & 0x3FFF) if kind == b"VP8 " else None


@contextmanager
def as_image_error(name: str, data: bytes) -> Iterator[None]:
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
        what = f"{kind} {name} picture ({summary(error)})"
        raise ImageError(f"{what}: expected a whole file; copy or download it again, or leave it out") from error


def _ends_early(name: str, data: bytes, error: Exception) -> bool:
    if name == "webp":  # its decoder gives no reason, its header (RIFF) the length of what follows
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return bool(_ENDS_EARLY.search(str(error)))


@contextmanager
def _without_limit(*, of: bool) -> Iterator[None]:
    """Pillow's own limit of pixels, of the whole process, is lifted while a large picture that passed ours is read."""
    if not of:
        yield
        return
    with _LIFTED:
        if not _lifted:
            _lifted.append(PIL.Image.MAX_IMAGE_PIXELS)
        _lifted.append(None)
        PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _LIFTED:
            _lifted.pop()
            if len(_lifted) == 1:
                PIL.Image.MAX_IMAGE_PIXELS = _lifted.pop()


_LIFTED = Lock()
_lifted: list[int | None] = []  # the limit as it was, and one more entry for each picture that is read


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
