"""Whether one picture is a copy of another (re-encoded, resized, lightly cropped), pixel by pixel, and how surely.

One is laid over the other by the crop that fits best (Lucas and Kanade 1981, coarse to fine), and compared block by
block: two pages, products or frames of a burst that differ in one place differ in a block, however alike the rest is.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling, Transform
from PIL.ImageFilter import BoxBlur

from sightline.errors import SightlineError
from sightline.images.read import read
from sightline.sources.base import read_here
from sightline.types import Hit

_SIDE = 640  # the longer side at which details are compared; pictures below it at their own
_LEVELS = ((24, 8), (48, 8), (96, 8), (192, 5), (384, 3))  # pixels of a side, and steps
_ROUGHLY = 0.6  # correlation at the last level but one, below which nothing fits
_KEPT = 32  # pictures, of at most some megabytes each
_FAR = 24.0  # grey levels of a mark: a crop of a tenth moves it by less
_MOST_CROPPED = 0.3  # of a side
_SLACK = 0.012  # of a side, by which a crop may seem to stick out
_BLOCK = 12  # pixels
_NOISE = 14.0  # grey levels, of compression and resampling
_UNNOTICED = 0.09
_MOST_ABOVE_USUAL = 1.85  # a block that differs so much more than 99 in 100 do shows something else: a digit, say


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
            return read(read_here(uri, self._cache), image_size=_SIDE)
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
    return max(0.0, 1 - worst_difference(one, other, placement))


def worst_difference(one: Image, other: Image, placement: Placement) -> float:
    """The largest difference of a block, as a share of what the block shows: near 0 for copies, 1 for other things."""
    scale = min(1.0, _SIDE / max(other.size))
    size = (max(8, round(other.width * scale)), max(8, round(other.height * scale)))
    # The larger picture at the scale of the other one, so that both have been smoothed alike.
    whole = (max(8, round(size[0] / placement.extent[0])), max(8, round(size[1] / placement.extent[1])))
    resized = one.resize(whole, Resampling.LANCZOS, reducing_gap=3.0)
    first = _window(resized, placement, size)
    second = other.resize(size, Resampling.LANCZOS, reducing_gap=3.0)
    margin = 2
    a, b = (
        np.asarray(image.filter(BoxBlur(1)), np.float32)[margin:-margin, margin:-margin] for image in (first, second)
    )
    a = a + (b.mean((0, 1)) - a.mean((0, 1)))  # a slight change of brightness is no difference
    shares = np.concatenate([_block_differences(a, b, shift) for shift in (0, _BLOCK // 2)])
    worst, usual = float(shares.max()), float(np.quantile(shares, 0.99))
    return worst if worst <= max(_UNNOTICED, _MOST_ABOVE_USUAL * usual) else max(worst, 1.0)


def _block_differences(a: NDArray[np.float32], b: NDArray[np.float32], shift: int) -> NDArray[np.float32]:
    """(height, width, 3) twice -> the share of each block."""
    rows, columns = ((length - shift) // _BLOCK for length in a.shape[:2])
    if rows < 1 or columns < 1:
        share = np.sqrt(((a - b) ** 2).mean()) / (_NOISE + a.std())
        return np.array([0.0 if shift else share], np.float32)
    shape = (rows, _BLOCK, columns, _BLOCK, 3)
    a, b = (part[shift : shift + rows * _BLOCK, shift : shift + columns * _BLOCK].reshape(shape) for part in (a, b))
    rms = np.sqrt(((a - b) ** 2).mean(axis=(1, 3, 4)))  # -> (rows, columns)
    spread = np.maximum(*(part.std(axis=(1, 3)).mean(axis=-1) for part in (a, b)))
    return np.asarray((rms / (spread + _NOISE)).ravel(), np.float32)


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
