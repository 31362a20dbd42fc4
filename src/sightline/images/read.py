"""Read a picture file for an encoder, with what the file tells of itself, or make a small WebP of it for a page."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from sightline.errors import ImageError
from sightline.images.decode import LIMIT_MEGAPIXELS, as_image_error, decode, finished, opened, orientation
from sightline.images.deep import DEEP_GREY, Samples, samples_of
from sightline.images.metadata import payload
from sightline.types import Value

_WEBP_QUALITY = 75
_WEBP_METHOD = 2  # of 6: the time that compression may take


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """A picture ready for an encoder, and what `metadata.payload` gives of its file."""

    image: Image
    payload: dict[str, Value]


def read(data: bytes, *, image_size: int, limit_megapixels: float | None = LIMIT_MEGAPIXELS) -> Image:
    """The picture, upright and RGB, for an encoder whose side is `image_size`.

    It may come at reduced scale, each side still at least twice `image_size` where the file has that many pixels.
    `ImageTooLarge` comes before anything is decoded, any other `ImageError` says what is wrong with the file.
    """
    with opened(data, limit_megapixels) as file:
        return decode(file, _at_least(image_size))


def open_picture(data: bytes, *, image_size: int, limit_megapixels: float | None = LIMIT_MEGAPIXELS) -> DecodedPicture:
    """`read` and the payload from one look at the file."""
    with opened(data, limit_megapixels) as file:
        size = file.size
        image = decode(file, _at_least(image_size))
        return DecodedPicture(image, payload(file, size))


def read_decoded(image: Image, *, image_size: int) -> Image:
    """The same for a picture that Pillow has decoded: turned as its EXIF says, in sRGB, over a ground."""
    with as_image_error("Pillow", b""):
        image.load()
        samples = samples_of(image) if image.mode in DEEP_GREY else image
        profile = image.info.get("icc_profile")
        return finished(samples, image.size, _at_least(image_size), turn=orientation(image), profile=profile)


def read_values(values: NDArray[Any], *, image_size: int) -> Image:
    """The same for (height, width), or (height, width, 1, 3 or 4) in RGB or RGBA: 8 or 16 bits, or floats of 0 to 1."""
    pixels = values if values.ndim == 3 else values[..., None] if values.ndim == 2 else values
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise ImageError(f"the shape is {values.shape}, expected (height, width) or (height, width, 3 or 4)")
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "f" and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ImageError(f"floats of {pixels.min():g} to {pixels.max():g}, expected 0 to 1: divide by 255")
    if pixels.dtype.kind != "f" and pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"the type is {values.dtype}, expected uint8, uint16, or floats of 0 to 1")
    has_alpha = pixels.shape[2] == 4
    samples = Samples((pixels.shape[1], pixels.shape[0]), lambda top, bottom: pixels[top:bottom], has_alpha)
    return finished(samples, samples.size, _at_least(image_size), turn=1, profile=None)


def thumbnail(data: bytes, side: int, *, limit_megapixels: float | None = LIMIT_MEGAPIXELS) -> bytes:
    """The picture upright in WebP, its longer side `side` pixels or less; `ImageError` as from `read`."""
    with opened(data, limit_megapixels) as file:
        scale = side / max(file.size)
        image = decode(file, (max(1, round(file.width * scale)), max(1, round(file.height * scale))))
    image.thumbnail((side, side), reducing_gap=None)
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=_WEBP_QUALITY, method=_WEBP_METHOD)
    return buffer.getvalue()


def _at_least(image_size: int) -> tuple[int, int]:
    """Below a side of 96 pixels the reduced scale shows in the vector: 0.9995 of cosine at 96, 0.995 at 64."""
    side = max(image_size, 96)
    return side, side
