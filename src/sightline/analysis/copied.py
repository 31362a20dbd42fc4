"""Whether one picture is a copy of another (re-encoded, resized, lightly cropped), pixel by pixel, and how surely.

One is laid over the other by the crop that fits best (Lucas and Kanade 1981, coarse to fine), to a tenth of a pixel.
What then differs is compared with what JPEG and resampling leave: little of coarse detail, and about as much in the
worst place as in the next ones. Two pages, products or frames of a burst that differ in one place differ there.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling, Transform
from PIL.ImageFilter import GaussianBlur

from sightline.errors import SightlineError
from sightline.images.read import read
from sightline.sources.base import read_here
from sightline.types import Hit

Greys: TypeAlias = NDArray[np.float32]

_SIDES = (250, 500, 1000)  # the longer side at which details are compared, at last; smaller pictures at their own
_LEVELS = ((24, 8), (48, 8), (96, 8), (192, 5), (384, 3))  # pixels of a side, and steps
_ROUGHLY = 0.6  # correlation at the last level but one, below which nothing fits
_KEPT = 32  # pictures, of at most some megabytes each
_FAR = 24.0  # grey levels of a mark: a crop of a tenth moves it by less
_MOST_CROPPED = 0.3  # of a side
_SLACK = 0.02  # of a side, by which a crop may seem to stick out before it is laid on exactly
_STICKING_OUT = 0.5  # pixels, afterwards: what moved sideways shows what the other does not
_SMOOTHING = 1.2  # pixels: below it compression and resampling leave little alike
_TILE = 6  # pixels: less than a digit
_CLEARLY = 1.5  # the difference, in a small picture already, of what need not be looked at closer
_NEAR = 0.15  # pixels
_READABLE = 800  # pixels of the longer side of a page, below which compression hides a digit
_MARGIN = 2  # pixels at the edges, where nothing is known of what lies beyond
_SMALL, _TINY = 128, 40  # pixels of a side: the less two pictures show, the better they have to agree
_YCC = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32).T  # as JPEG has it


class Comparison:
    """Compares the pictures of hits by their pixels; keeps the last few, and a small mark of each."""

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._marks: dict[str, NDArray[np.float32]] = {}
        self._read = lru_cache(_KEPT)(self._picture)

    def __call__(self, one: Hit, other: Hit) -> float:
        """How surely two hits show the very same, 0 to 1; 0 where a picture is not on this machine."""
        content = one.payload.get("sha256")
        if content and content == other.payload.get("sha256"):
            return 1.0
        taken = one.payload.get("taken"), other.payload.get("taken")
        if all(taken) and taken[0] != taken[1]:  # two moments: frames of a burst
            return 0.0
        marks = [self._mark(hit.uri) for hit in (one, other)]
        if any(mark is None for mark in marks) or abs(marks[0] - marks[1]).mean() > _FAR:  # type: ignore[operator]
            return 0.0
        first, second = self._read(one.uri), self._read(other.uri)
        return sureness(first, second) if first and second else 0.0

    def _picture(self, uri: str) -> Image | None:
        try:
            return read(read_here(uri, self._cache), image_size=_SIDES[-1])
        except (OSError, ValueError, SightlineError):
            return None

    def _mark(self, uri: str) -> NDArray[np.float32] | None:
        """(8, 8, 3): enough to see that most pictures are different."""
        if uri not in self._marks and (image := self._read(uri)) is not None:
            self._marks[uri] = np.asarray(image.resize((8, 8), Resampling.BOX, reducing_gap=2.0), np.float32)
        return self._marks.get(uri)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies in another one: `start + extent * u` for u of 0 to 1, across and down, in its sides."""

    start: tuple[float, float]
    extent: tuple[float, float]

    def is_crop(self) -> bool:
        """Whether one lies in the other whole: a picture moved sideways shows what the other does not."""
        ends = [start + extent for start, extent in zip(self.start, self.extent, strict=True)]
        inside = min(self.start) > -_SLACK and max(ends) < 1 + _SLACK
        around = max(self.start) < _SLACK and min(ends) > 1 - _SLACK
        proportion = self.extent[0] / self.extent[1]
        is_near = all(1 - _MOST_CROPPED < extent < 1 / (1 - _MOST_CROPPED) for extent in self.extent)
        return (inside or around) and is_near and 0.8 < proportion < 1.25

    def sticks_out(self, size: tuple[int, int]) -> float:
        """By how many pixels each shows something that lies outside of the other one."""
        low = [start * side for start, side in zip(self.start, size, strict=True)]
        high = [(start + extent - 1) * side for start, extent, side in zip(self.start, self.extent, size, strict=True)]
        return max(0.0, min(max(*high, *(-edge for edge in low)), max(*low, *(-edge for edge in high))))


def sureness(one: Image, other: Image) -> float:
    """How surely two RGB pictures show the very same: 0 to 1, `duplicates.SURE` or more for copies."""
    if one.width * one.height < other.width * other.height:
        one, other = other, one
    ratio = (one.width / one.height) / (other.width / other.height)
    if not 0.8 < ratio < 1.25:
        return 0.0
    placement = _placed(one, other)
    if placement is None or not placement.is_crop():
        return 0.0
    difference = 0.0
    for side in _SIDES:
        difference = _difference(one, other, placement, side)
        if difference > _CLEARLY or side >= max(other.size):
            break
    return 1 / (1 + difference**2)


def _difference(one: Image, other: Image, placement: Placement, side: int) -> float:
    """What differs, as a share of what it may be in copies: the worst of several measures, in grey levels.

    The limits are those of `benchmarks/duplicates.py`, above what it finds for copies at JPEG quality 40.
    """
    scale = min(1.0, side / max(other.size))
    width, height = size = (max(8, round(other.width * scale)), max(8, round(other.height * scale)))
    wanted = _smooth(other.resize(size, Resampling.LANCZOS, reducing_gap=3.0))
    whole = [max(8, round(side / extent)) for side, extent in zip(size, placement.extent, strict=True)]
    is_same_scale = all(abs(a - b) <= 0.02 * b for a, b in zip(whole, one.size, strict=True))
    source = one if is_same_scale else one.resize((whole[0], whole[1]), Resampling.LANCZOS, reducing_gap=3.0)
    for _ in range(4):
        shown = _smooth(_window(source, placement, size))
        rest, (x, stretch_x, y, stretch_y, blur, gain, _offset) = _explained(shown[..., 0], wanted[..., 0])
        if max(abs(x), abs(x + stretch_x), abs(y), abs(y + stretch_y)) < _NEAR:
            break
        across, down = placement.extent[0] / width, placement.extent[1] / height
        placement = Placement(
            (placement.start[0] + x * across, placement.start[1] + y * down),
            (placement.extent[0] + stretch_x * across, placement.extent[1] + stretch_y * down),
        )
    colours = (wanted - shown)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN, 1:]
    colours = colours - np.median(colours, axis=(0, 1))
    squared = _tiles(rest[..., None] ** 2, _TILE)
    worst, usual, common = (float(np.sqrt(np.quantile(squared, share))) for share in (1, 0.99, 0.9))
    coarse, coarser = (np.hypot(*_tiles(colours, tile).T).max() for tile in (8, 16))
    least = min(one.width, one.height, other.width, other.height)
    measures = (
        worst / (1.95 * (usual + 0.8)),  # else something else is in one place: a digit, say
        worst / (2.5 if max(other.size) < _READABLE and _is_page(other) else 9.5),
        usual / 5.3,
        common / (1.2 if least < _TINY else 2.1 if least < _SMALL else 3.2),
        float(np.abs(_tiles(rest[..., None], 8)).max()) / 8,  # JPEG keeps the mean of a block
        coarse / 11,
        coarser / 5,
        abs(gain) / 0.08,
        abs(blur) / 0.4,
        placement.sticks_out(size) / _STICKING_OUT,
    )
    return float(max(measures))


def _is_page(image: Image) -> bool:
    """Whether dark marks lie all over a light ground, as letters do."""
    grey = np.asarray(image.convert("L").resize((256, 256), Resampling.BOX), np.float32)
    light = (grey > np.quantile(grey, 0.9) - 30).reshape(16, 16, 16, 16).mean(axis=(1, 3))  # -> (16, 16)
    marked = light < 0.99
    return bool(marked.mean() > 0.25 and light[marked].mean() > 0.6)


def _explained(shown: Greys, wanted: Greys) -> tuple[Greys, NDArray[np.float64]]:
    """The difference without what a better place, a blur or other brightness explains, and how much of each that is."""
    height, width = shown.shape
    v, u = np.meshgrid(*((np.arange(side, dtype=np.float32) + 0.5) / side for side in (height, width)), indexing="ij")
    down, across = np.gradient(shown)
    bend = np.gradient(across, axis=1) + np.gradient(down, axis=0)
    columns = [across, across * u, down, down * v, bend, shown - 128, np.ones_like(shown), wanted - shown]
    *columns, difference = (column[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] for column in columns)
    some = np.stack([column[::2, ::2].ravel() for column in (*columns, difference)])  # smooth: every second one tells
    products = np.einsum("in,jn->ij", some, some).astype(np.float64)  # (8, 8), without the threads of a library
    parts = np.linalg.solve(products[:-1, :-1] + 1e-3 * np.eye(len(columns)), products[:-1, -1])
    for part, column in zip(parts, columns, strict=True):
        difference = difference - np.float32(part) * column
    return difference, parts


def _tiles(values: NDArray[np.float32], tile: int) -> NDArray[np.float32]:
    """(height, width, channels) -> (tiles, channels), the means of tiles that overlap by half."""
    found = []
    for start in (0, tile // 2):
        rows, columns = ((length - start) // tile for length in values.shape[:2])
        if rows > 0 and columns > 0:
            part = values[start : start + rows * tile, start : start + columns * tile]
            found.append(part.reshape(rows, tile, columns, tile, -1).mean(axis=(1, 3)).reshape(-1, values.shape[2]))
    return np.concatenate(found) if found else values.mean(axis=(0, 1))[None]


def _smooth(image: Image) -> NDArray[np.float32]:
    """(height, width, 3): brightness and two differences of colour."""
    return np.asarray(image.filter(GaussianBlur(_SMOOTHING)), np.float32) @ _YCC


def _placed(one: Image, other: Image) -> Placement | None:
    """Where `other` lies in `one`, found by steepest descent from the whole of it; None where nothing fits."""
    x, y, width, height = 0.0, 0.0, 1.0, 1.0
    grey_one, grey_other = (
        image.convert("L").resize((2 * _LEVELS[-1][0],) * 2, reducing_gap=2.0) for image in (one, other)
    )
    for side, steps in _LEVELS[: 5 if min(*one.size, *other.size) > _LEVELS[-1][0] else 4]:
        target = np.asarray(grey_other.resize((side, side), Resampling.BOX), np.float32)
        source = grey_one.resize((side, side), Resampling.BOX)
        u, v = np.meshgrid(*(np.arange(side, dtype=np.float32) + 0.5,) * 2)
        for _ in range(steps):
            warped = np.asarray(_window(source, Placement((x, y), (width, height)), (side, side)), np.float32)
            down, across = np.gradient(warped)
            down, across = down / height, across / width  # per pixel of the source
            columns = [across, across * u / side, down, down * v / side, warped, np.ones_like(warped)]
            design = np.array([column[1:-1, 1:-1].ravel() for column in columns], dtype=np.float32).T  # (pixels, 6)
            error = (target - warped)[1:-1, 1:-1].ravel()
            gram = (design.T @ design).astype(np.float64) + 1e-3 * np.eye(6)
            step = np.linalg.solve(gram, design.T @ error)[:4] / side
            x, width, y, height = x + step[0], width + step[1], y + step[2], height + step[3]
            if not (0.5 < width < 2 and 0.5 < height < 2 and abs(x) < 0.5 and abs(y) < 0.5):
                return None
            if np.abs(step).max() < 0.05 / side:
                break
        if side == _LEVELS[-2][0] and np.corrcoef(target.ravel(), warped.ravel())[0, 1] < _ROUGHLY:
            return None
    return Placement((float(x), float(y)), (float(width), float(height)))


def _window(image: Image, placement: Placement, size: tuple[int, int]) -> Image:
    """What of a picture lies at the placement, at that size."""
    across, down = placement.extent[0] * image.width / size[0], placement.extent[1] * image.height / size[1]
    matrix = (across, 0.0, placement.start[0] * image.width, 0.0, down, placement.start[1] * image.height)
    return image.transform(
        size, Transform.AFFINE, matrix, Resampling.BILINEAR if image.mode == "L" else Resampling.BICUBIC
    )
