"""A picture of any mode into RGB: palettes, inks, alpha, deep greys."""

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, fromarray, new

_DEEP_GREY = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_REDUCIBLE = ("L", "RGB", "RGBA", "CMYK")


def to_rgb(image: Image, shrink: int) -> Image:
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
