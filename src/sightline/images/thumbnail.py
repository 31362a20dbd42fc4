"""The bytes of a picture into a small WebP for pages and contact sheets."""

from io import BytesIO

from sightline.images.decode import LIMIT_MEGAPIXELS, decode, opened

_QUALITY = 75
_METHOD = 2


def thumbnail(data: bytes, side: int, *, limit_megapixels: float | None = LIMIT_MEGAPIXELS) -> bytes:
    """The picture upright in WebP, its longer side `side` pixels or less; `ImageError` as from `read`."""
    with opened(data, limit_megapixels) as file:
        scale = side / max(file.size)
        image = decode(file, (max(1, round(file.width * scale)), max(1, round(file.height * scale))))
    image.thumbnail((side, side), reducing_gap=None)
    image.info.clear()  # else EXIF and colour profile, often larger than the thumbnail, would be written along
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=_METHOD)
    return buffer.getvalue()
