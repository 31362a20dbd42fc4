"""Recognise the format of a picture by its first bytes, or say what the file looks like instead."""

import re
from collections.abc import Callable
from importlib import import_module
from io import BytesIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from sightline.errors import ImageError
from sightline.images.tiff import TiffPicture

Opener = Callable[[BytesIO], ImageFile]
"""Reads the header of a picture; the pixels wait for `load()`."""

PREFIX_BYTES = 1024

# Pillow's plugins are called directly, not through `Image.open`: only the formats named here ever see a stranger's
# bytes (`Image.open` would also try the one that runs Ghostscript), and the limit of pixels is ours, per call.
_OPENERS: tuple[tuple[str, re.Pattern[bytes], Opener], ...] = (
    ("jpeg", re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    ("png", re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    ("webp", re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    ("gif", re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    ("tiff", re.compile(rb"II[*+]\0|MM\0[*+]"), TiffPicture),
    ("ppm", re.compile(rb"P[1-6fF]\s"), PpmImagePlugin.PpmImageFile),
    ("bmp", re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}", re.DOTALL), BmpImagePlugin.BmpImageFile),
    ("avif", re.compile(rb"....ftyp.{0,64}avi[fs]", re.DOTALL), AvifImagePlugin.AvifImageFile),
    (
        "heic",
        re.compile(rb"....ftyp(?:.{4}){0,16}(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL),
        lambda file: _plugged(file, "pillow_heif.HeifImageFile", "heic"),
    ),
    (
        "jxl",
        re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"),
        lambda file: _plugged(file, "pillow_jxl.JpegXLImagePlugin.JXLImageFile", "jxl"),
    ),
)

_STRANGERS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("an empty file", re.compile(rb"\Z")),
    ("a file of zero bytes only, as an interrupted copy leaves it", re.compile(rb"\0{512}|\0+\Z")),
    ("an HTML page", re.compile(rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body)", re.DOTALL | re.IGNORECASE)),
    ("an SVG drawing", re.compile(rb"\s*(?:<\?xml.*?)?<svg", re.DOTALL)),
    ("a PDF document", re.compile(rb"%PDF-")),
    ("a ZIP archive or office document", re.compile(rb"PK\x03\x04")),
    ("a Git LFS pointer, not the file that it stands for", re.compile(rb"version https://git-lfs")),
    ("a Photoshop document", re.compile(rb"8BPS")),
    ("a JPEG 2000 picture", re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    ("an icon", re.compile(rb"\0\0[\1\2]\0")),
    ("a video", re.compile(rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", re.DOTALL)),
    ("text", re.compile(rb"[^\0-\x08\x0e-\x1a\x1c-\x1f\x7f]+\Z")),
)


def recognise(data: bytes) -> tuple[str, Opener]:
    """The name of the format of a file's bytes, and what opens it; `ImageError` says what it looks like instead."""
    for name, pattern, opener in _OPENERS:
        if pattern.match(data):
            return name, opener
    raise ImageError(
        f"not a picture but {_stranger(data[:PREFIX_BYTES])}: "
        "expected JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, HEIC or JPEG XL; convert the file or leave it out"
    )


def _stranger(prefix: bytes) -> str:
    return next((name for name, pattern in _STRANGERS if pattern.match(prefix)), "bytes of an unknown kind")


def _plugged(file: BytesIO, opener: str, extra: str) -> ImageFile:
    """A picture of a format whose plug-in for Pillow is an extra."""
    module, _, name = opener.rpartition(".")
    try:
        plugged: Opener = getattr(import_module(module), name)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ImageError(
            f"a {_NAMES[extra]} picture, which needs an optional package: expected {package} to be installed; "
            f"pip install 'sightline[{extra}]'"
        ) from error
    return plugged(file)


_NAMES = {"heic": "HEIC", "jxl": "JPEG XL"}
