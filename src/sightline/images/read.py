"""Read a picture file for an encoder, with what the file tells of itself, or make a small WebP of it for a page."""

from dataclasses import dataclass
from io import BytesIO

from PIL.Image import Image

from sightline.images.decode import LIMIT_MEGAPIXELS, decode, opened
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


def thumbnail(data: bytes, side: int, *, limit_megapixels: float | None = LIMIT_MEGAPIXELS) -> bytes:
    """The picture upright in WebP, its longer side `side` pixels or less; `ImageError` as from `read`."""
    with opened(data, limit_megapixels) as file:
        scale = side / max(file.size)
        image = decode(file, (max(1, round(file.width * scale)), max(1, round(file.height * scale))))
    image.thumbnail((side, side), reducing_gap=None)
    image.info.clear()  # else EXIF and colour profile, often larger than the thumbnail, would be written along
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=_WEBP_QUALITY, method=_WEBP_METHOD)
    return buffer.getvalue()


def _at_least(image_size: int) -> tuple[int, int]:
    """Below a side of 96 pixels the reduced scale shows in the vector: 0.9995 of cosine at 96, 0.995 at 64."""
    side = max(image_size, 96)
    return side, side
