"""Samples of more than 8 bits, or of an unusual order, into a picture of 8 bits, a band of rows at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, frombytes, new

DEEP_GREY = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of greys of 10 to 32 bits and of floats, which it would clip to white."""

BAND_PIXELS = 1 << 20
"""What is converted at once: a conversion needs memory for this part alone, not for the picture."""

_MODES = {(1, False): "L", (2, True): "LA", (3, False): "RGB", (4, True): "RGBA", (4, False): "CMYK"}


@dataclass(frozen=True, slots=True)
class Samples:
    """A picture's samples as stored: `rows(top, bottom)` gives (rows, width, channels).

    The last channel is alpha in a picture with `has_alpha`. `is_inverted`: the largest value is black. Four channels
    without alpha are inks.
    """

    size: tuple[int, int]
    rows: Callable[[int, int], NDArray[Any]]
    has_alpha: bool = False
    is_inverted: bool = False


def samples_of(image: Image) -> Samples:
    """Those of a loaded picture in one of the modes of `DEEP_GREY`; one grey may stand for transparent (PNG's tRNS)."""
    key = image.info.get("transparency")

    def rows(top: int, bottom: int) -> NDArray[Any]:
        grey = np.asarray(image.crop((0, top, image.width, bottom)))[..., None]  # -> (rows, width, 1)
        if not isinstance(key, int):
            return grey
        return np.concatenate([grey, np.where(grey == key, 0, np.iinfo(grey.dtype).max).astype(grey.dtype)], axis=-1)

    return Samples(image.size, rows, has_alpha=isinstance(key, int))


def eight_bits(samples: Samples, shrink: int) -> Image:
    """The picture in L, LA, RGB, RGBA or CMYK, each side divided by `shrink` (box average, rounded up)."""
    width, height = samples.size
    lowest, highest, is_integer = np.inf, -np.inf, True
    for top, bottom in bands(samples.size):
        values = samples.rows(top, bottom)
        colours = values[..., :-1] if samples.has_alpha else values
        finite = colours[np.isfinite(colours)]
        if finite.size:
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
        is_integer = values.dtype.kind in "iu"
    black, white = _range(lowest, highest, is_integer=is_integer) if lowest <= highest else (0.0, 1.0)
    if samples.is_inverted:
        black, white = white, black
    mode = _MODES[values.shape[-1], samples.has_alpha]
    reduced = new(mode, (-(-width // shrink), -(-height // shrink)))
    for top, bottom in bands(samples.size, shrink):
        values = samples.rows(top, bottom)
        alpha_white = float(np.iinfo(values.dtype).max) if is_integer else 1.0
        scaled = (np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0) - black) * (255 / (white - black))
        if samples.has_alpha:
            scaled[..., -1] = values[..., -1] * (255 / alpha_white)
        band = frombytes(mode, (width, bottom - top), scaled.round().clip(0, 255).astype(np.uint8).tobytes())
        reduced.paste(band.reduce(shrink), (0, top // shrink))
    return reduced


def bands(size: tuple[int, int], multiple: int = 1) -> Iterator[tuple[int, int]]:
    """The first row of each band and the one behind its last; all but the last have a multiple of rows."""
    width, height = size
    rows = multiple * max(1, BAND_PIXELS // (width * multiple))
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def _range(lowest: float, highest: float, *, is_integer: bool) -> tuple[float, float]:
    """Which values are black and white.

    Integers take the sensor depth that holds their maximum (scans of 12 bits come in files of 16 and are not night
    pictures); floats are 0 to 1 by custom; whatever fits neither is stretched.
    """
    if is_integer and lowest >= 0:
        for bits in (8, 10, 12, 14, 16):
            if highest < 2**bits:
                return 0.0, 2.0**bits - 1
        if highest >= 2**31:
            return 0.0, 2.0**32 - 1
    if lowest >= 0 and highest <= 1:
        return 0.0, 1.0
    return (lowest, highest) if highest > lowest else (lowest, lowest + 1)
