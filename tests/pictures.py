"""Real picture files of every kind, made on the spot, and files that only pretend to be pictures."""

import colorsys
import os
import random
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, TiffImagePlugin
from PIL.ExifTags import GPS, IFD, Base
from PIL.Image import Transpose

STORED = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}
"""How a camera held that way stores an upright picture: the inverse of what a viewer has to do."""

HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>gone</body></html>\n"
TEXT = b"These are notes about a holiday, and somebody gave them the name of a picture.\n"


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A colourful picture: a shaded background and a few shapes; different seeds are visibly different."""
    chance = random.Random(seed)
    width, height = size
    hue = seed * 0.618 % 1  # the golden ratio keeps the backgrounds of neighbouring seeds far apart
    shade = np.linspace(0.4, 1.0, height)[:, None] * np.array(colorsys.hsv_to_rgb(hue, 0.6, 1.0))  # -> (height, 3)
    rows = np.repeat((shade * 255).astype(np.uint8)[:, None], width, axis=1)  # -> (height, width, 3)
    image = Image.fromarray(rows)
    draw = ImageDraw.Draw(image)
    for _ in range(chance.randint(2, 6)):
        colour = tuple(int(255 * part) for part in colorsys.hsv_to_rgb(chance.random(), 0.9, chance.uniform(0.4, 1)))
        x, y = chance.randrange(width), chance.randrange(height)
        reach = chance.randrange(height // 10, height // 3)
        box = (x - reach, y - reach, x + reach, y + reach)
        shape = chance.choice((draw.ellipse, draw.rectangle, lambda box, fill: draw.pieslice(box, 30, 200, fill=fill)))
        shape(box, fill=colour)
    return image


def quarters(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Red, green, blue and yellow quarters, clockwise from the top left: turned or mirrored it is another picture."""
    image = Image.new("RGB", size, "red")
    width, height = size
    image.paste((0, 255, 0), (width // 2, 0, width, height // 2))
    image.paste((0, 0, 255), (width // 2, height // 2, width, height))
    image.paste((255, 255, 0), (0, height // 2, width // 2, height))
    return image


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The bytes of a picture file."""
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def turned(orientation: int, file_format: str = "JPEG", **options: Any) -> bytes:
    """`quarters` as a turned camera stores it, with the EXIF tag that says so."""
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    stored = quarters().transpose(STORED[orientation]) if orientation in STORED else quarters()
    if file_format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[Base.Orientation] = orientation
        return encoded(stored, "TIFF", tiffinfo=tags, **options)
    return encoded(stored, file_format, exif=exif, **options)


def photograph(**tags: Any) -> bytes:
    """A JPEG with the EXIF of a camera; keywords replace or add tags by their names, None removes one."""
    known: dict[str, Any] = {
        "Make": "Canon",
        "Model": "Canon EOS 5D",
        "DateTimeOriginal": "2021:07:05 14:03:22",
        "OffsetTimeOriginal": "+02:00",
        "GPSLatitudeRef": "N",
        "GPSLatitude": (52.0, 31.0, 12.0),
        "GPSLongitudeRef": "W",
        "GPSLongitude": (13.0, 24.0, 36.0),
    } | tags
    exif = Image.Exif()
    details, place = exif.get_ifd(IFD.Exif), exif.get_ifd(IFD.GPSInfo)
    for name, value in known.items():
        directory = place if name.startswith("GPS") else details if name.startswith(("Date", "Offset")) else exif
        if value is not None:
            directory[GPS[name] if name.startswith("GPS") else Base[name]] = value
    return encoded(quarters(), "JPEG", exif=exif)


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 pixels in less than a kilobyte."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b""))
    )


def truncated(data: bytes) -> bytes:
    """The first two thirds of a file."""
    return data[: len(data) * 2 // 3]


def _palette_with_hole() -> bytes:
    image = quarters().quantize(8)
    hole = image.getpixel((1, 1))
    return encoded(image, "PNG", transparency=hole)


def _deep_grey(bits: int, kind: str = "PNG") -> bytes:
    """A ramp over all greys of a sensor of that many bits, in samples of 16."""
    ramp = np.linspace(0, 2**bits - 1, 96).astype(np.uint16)
    return encoded(Image.fromarray(np.tile(ramp, (64, 1))), kind)


def _with_alpha(mode: str, file_format: str, **options: Any) -> bytes:
    """The upper left quarter is transparent."""
    image = quarters().convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, image.width // 2, image.height // 2))
    image.putalpha(alpha)
    return encoded(image, file_format, **options)


def _animated(file_format: str) -> bytes:
    return encoded(quarters(), file_format, save_all=True, append_images=[scene(1, (96, 64))], duration=100)


def _floats() -> bytes:
    ramp = np.tile(np.linspace(0, 1, 96, dtype=np.float32), (64, 1))
    return encoded(Image.fromarray(ramp), "TIFF")


def _cmyk(file_format: str) -> bytes:
    return encoded(quarters().convert("CMYK"), file_format, **({"quality": 95} if file_format == "JPEG" else {}))


COLOURED: dict[str, Callable[[], bytes]] = {
    "plain.jpg": lambda: encoded(quarters(), "JPEG", quality=95),
    "progressive.jpg": lambda: encoded(quarters(), "JPEG", quality=95, progressive=True),
    "cmyk.jpg": lambda: _cmyk("JPEG"),
    "two-in-one.mpo": lambda: encoded(quarters(), "MPO", save_all=True, append_images=[scene(1, (96, 64))], quality=95),
    "plain.png": lambda: encoded(quarters(), "PNG"),
    "palette.png": lambda: encoded(quarters().quantize(8), "PNG"),
    "lossy.webp": lambda: encoded(quarters(), "WEBP", quality=95),
    "lossless.webp": lambda: encoded(quarters(), "WEBP", lossless=True),
    "animated.webp": lambda: _animated("WEBP"),
    "still.gif": lambda: encoded(quarters(), "GIF"),
    "animated.gif": lambda: _animated("GIF"),
    "plain.bmp": lambda: encoded(quarters(), "BMP"),
    "plain.tiff": lambda: encoded(quarters(), "TIFF"),
    "lzw.tif": lambda: encoded(quarters(), "TIFF", compression="tiff_lzw"),
    "jpeg.tif": lambda: encoded(quarters(), "TIFF", compression="jpeg", quality=95),
    "cmyk.tif": lambda: _cmyk("TIFF"),
    "plain.ppm": lambda: encoded(quarters(), "PPM"),
    "plain.avif": lambda: encoded(quarters(), "AVIF", quality=95),
}
"""Files that all show `quarters`, by a fitting name."""

SEE_THROUGH: dict[str, Callable[[], bytes]] = {
    "palette.png": _palette_with_hole,
    "alpha.png": lambda: _with_alpha("RGB", "PNG"),
    "alpha.webp": lambda: _with_alpha("RGB", "WEBP", quality=95),
    "alpha.tif": lambda: _with_alpha("RGB", "TIFF"),
    "alpha.avif": lambda: _with_alpha("RGB", "AVIF", quality=95),
    "colour-key.png": lambda: encoded(quarters(), "PNG", transparency=(255, 0, 0)),
    "hole.gif": lambda: encoded(quarters().quantize(8), "GIF", transparency=quarters().quantize(8).getpixel((1, 1))),
}
"""Files that show `quarters` with its red quarter transparent."""

GREY_RAMPS: dict[str, Callable[[], bytes]] = {
    "16-bit.png": lambda: _deep_grey(16),
    "12-bit.png": lambda: _deep_grey(12),
    "16-bit.tif": lambda: _deep_grey(16, "TIFF"),
    "16-bit.pgm": lambda: _deep_grey(16, "PPM"),
    "float.tif": _floats,
    "8-bit.png": lambda: encoded(Image.fromarray(np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))), "PNG"),
}
"""Files that show a ramp from black at the left to white at the right."""


def odd_names() -> list[bytes]:
    """Names that a file may have here: newline, quotes, emoji, percent, and (on Linux) bytes that are no UTF-8."""
    names = [b"new\nline.jpg", b"quote'\".jpg", "emoji \U0001f415.jpg".encode(), b"100%20#?.jpg", b"trailing .JPG"]
    return [*names, b"latin-\xe9.jpg"] if os.name == "posix" and os.uname().sysname == "Linux" else names


def write(folder: Path, name: str | bytes, data: bytes) -> Path:
    """A file of those bytes in a folder, which is made if needed."""
    path = folder / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
