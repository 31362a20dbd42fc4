"""A picture decoded at reduced scale into one whose edges and proportions are those of the file."""

from math import ceil

from PIL.Image import Image, Resampling

MISFIT_PIXELS = 0.02
"""By how much of a pixel of the wanted size a reduced picture may be off; the loss of cosine grows with its square."""


def exact(image: Image, extent: tuple[float, float], wanted: tuple[int, int]) -> Image:
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
