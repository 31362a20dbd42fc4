"""Real picture files of every kind, made on the spot, and files that only pretend to be pictures."""

import colorsys
import os
import random
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

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
        directory = (
            place
            if name.startswith("GPS")
            else details
            if name.startswith(("DateTimeO", "DateTimeD", "Offset"))
            else exif
        )
        if value is not None:
            directory[GPS[name] if name.startswith("GPS") else Base[name]] = value
    return encoded(quarters(), "JPEG", exif=exif)


def tiff(
    *pages: np.ndarray,
    photometric: int = 1,
    is_planar: bool = False,
    is_big_endian: bool = False,
    is_deflated: bool = False,
    predictor: int = 1,
    rows_per_strip: int = 7,
    extra: int | None = None,
) -> bytes:
    """A TIFF of pages (height, width) or (height, width, channels), in layouts that Pillow does not write."""
    order: Literal["<", ">"] = ">" if is_big_endian else "<"
    data, directories = bytearray(struct.pack(f"{order}2sHI", b"MM" if is_big_endian else b"II", 42, 0)), [4]
    for page in pages:
        stored = page[..., None] if page.ndim == 2 else page
        height, width, channels = stored.shape
        planes = np.moveaxis(stored, -1, 0)[..., None] if is_planar else stored[None]  # -> (planes, h, w, channels)
        if predictor == 2:
            planes = np.diff(planes, axis=2, prepend=planes.dtype.type(0)).astype(stored.dtype)
        strips = [
            plane[top : top + rows_per_strip].astype(stored.dtype.newbyteorder(order)).tobytes()
            for plane in planes
            for top in range(0, height, rows_per_strip)
        ]
        strips = [zlib.compress(strip) for strip in strips] if is_deflated else strips
        offsets = [len(data) + sum(map(len, strips[:position])) for position in range(len(strips))]
        data += b"".join(strips)
        kind = {"u": 1, "i": 2, "f": 3}[stored.dtype.kind]
        tags = {256: [width], 257: [height], 258: [8 * stored.dtype.itemsize] * channels}
        tags |= {
            259: [8 if is_deflated else 1],
            262: [photometric],
            273: offsets,
            277: [channels],
            278: [rows_per_strip],
        }
        tags |= {279: [len(strip) for strip in strips], 284: [2 if is_planar else 1], 317: [predictor]}
        tags |= {338: [extra]} if extra is not None else {}
        tags |= {339: [kind] * channels}
        lists = {}
        for tag, values in tags.items():
            lists[tag] = len(data)
            data += struct.pack(f"{order}{len(values)}I", *values)
        data[directories[-1] : directories[-1] + 4] = struct.pack(f"{order}I", len(data))
        data += struct.pack(f"{order}H", len(tags))
        for tag, values in tags.items():
            value = values[0] if len(values) == 1 else lists[tag]
            data += struct.pack(f"{order}HHII", tag, 4, len(values), value)
        directories.append(len(data))
        data += bytes(4)
    return bytes(data)


def profile(space: str, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (ISO 15076-1) of that colour space with those tags."""
    body, table = b"", struct.pack(">I", len(tags))
    for name, value in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size, white = 128 + len(table) + len(body), struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    connection = b"Lab " if space == "CMYK" else b"XYZ "
    kind = b"prtr" if space == "CMYK" else b"mntr"
    header = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02400000, kind, space.ljust(4).encode(), connection)
    header += bytes(12) + b"acsp" + bytes(28) + white
    return header.ljust(128, b"\0") + table + body


def swapped_profile() -> bytes:
    """An RGB profile like sRGB, but with the primaries of red and green exchanged: its red is sRGB's green."""
    colours = {
        b"rXYZ": (0.3851, 0.7169, 0.0971),
        b"gXYZ": (0.4361, 0.2225, 0.0139),
        b"bXYZ": (0.1431, 0.0606, 0.7141),
        b"wtpt": (0.9642, 1.0, 0.8249),
    }
    tags = {
        name: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(part * 65536) for part in parts))
        for name, parts in colours.items()
    }
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    return profile("RGB", tags | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def grey_profile(gamma: float) -> bytes:
    """A grey profile of that gamma."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return profile("GRAY", {b"wtpt": white, b"kTRC": curve})


def ink_profile() -> bytes:
    """A CMYK profile whose inks mix as they like: paper is white, any cyan is green, all else black."""
    grid = bytearray()
    for cyan in (0, 1):
        for others in range(8):
            lightness, a, b = (
                (255, 128, 128) if not (cyan or others) else (200, 40, 200) if not others else (0, 128, 128)
            )
            grid += bytes([lightness, a, b])
    identity = bytes(range(256))
    unit = struct.pack(">9i", *(65536 if position % 4 == 0 else 0 for position in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + unit + identity * 4 + bytes(grid) + identity * 3
    return profile("CMYK", {b"A2B0": table})


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
