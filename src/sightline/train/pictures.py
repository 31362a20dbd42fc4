"""The pictures of a set as a model takes them in: cached maps, files decoded for each step, or vectors kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sightline.encoders import preprocess
from sightline.encoders.preprocess import Preprocessing
from sightline.errors import ImageError, SourceError
from sightline.images.read import read
from sightline.train.data import Captioned, PictureSet
from sightline.train.own.views import Maps, window

Places = NDArray[np.int64]
UNREADABLE = "pictures cannot be read"


class Pictures(Protocol):
    """The pictures of one set by their places in it."""

    def __len__(self) -> int:
        """How many there are."""

    def sights(self, places: Places, chance: np.random.Generator) -> Tensor:
        """What a step sees of these pictures: each time a little different."""

    def plain(self, start: int, stop: int) -> Tensor:
        """The pictures from `start` to before `stop` as they are."""


@dataclass(frozen=True, slots=True)
class CachedMaps:
    """Maps of the frozen first blocks, (n, 96, h, w) for each view; a step sees a random window of one."""

    views: Sequence[Maps]
    slack: int

    def __len__(self) -> int:
        return len(self.views[0])

    def sights(self, places: Places, chance: np.random.Generator) -> Tensor:
        """(n, 96, k, k)."""
        return window(self.views[int(chance.integers(len(self.views)))][places], self.slack, chance)

    def plain(self, start: int, stop: int) -> Tensor:
        """(n, 96, h, w)."""
        return torch.from_numpy(self.views[0][start:stop]).float().contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True)
class PictureFiles:
    """Files that are decoded when they are asked for; a step sees a random crop of each, perhaps mirrored."""

    paths: Sequence[Path]
    how: Preprocessing
    smallest_area: float

    def __len__(self) -> int:
        return len(self.paths)

    def sights(self, places: Places, chance: np.random.Generator) -> Tensor:
        """(n, 3, height, width) of uint8."""
        seed = int(chance.integers(2**62))
        return self._stacked([(int(place), seed) for place in places])

    def plain(self, start: int, stop: int) -> Tensor:
        """(n, 3, height, width) of uint8, exactly as in use."""
        return self._stacked([(place, None) for place in range(start, min(stop, len(self)))])

    def _stacked(self, wanted: Sequence[tuple[int, int | None]]) -> Tensor:
        with ThreadPoolExecutor() as pool:
            return torch.from_numpy(np.stack(list(pool.map(lambda one: self._pixels(*one), wanted))))

    def _pixels(self, place: int, seed: int | None) -> NDArray[np.uint8]:
        image = read(self.paths[place].read_bytes(), image_size=max(self.how.height, self.how.width))
        if seed is None:
            return preprocess.pixels(image, self.how)
        return cropped(image, self.how, self.smallest_area, np.random.default_rng((seed, place)))


@dataclass(frozen=True, slots=True)
class KeptVectors:
    """Vectors (n, dim) of a frozen image tower, which runs once for each picture."""

    vectors: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def sights(self, places: Places, chance: np.random.Generator) -> Tensor:
        """(n, dim), the same each time."""
        return self.vectors[torch.from_numpy(places)]

    def plain(self, start: int, stop: int) -> Tensor:
        """(n, dim)."""
        return self.vectors[start:stop]


def cropped(
    image: Image.Image, how: Preprocessing, smallest_area: float, chance: np.random.Generator
) -> NDArray[np.uint8]:
    """(3, height, width): a random part of at least that share of what the model sees, stretched, perhaps mirrored.

    The random resized crop of Szegedy et al. 2015 (arXiv:1409.4842, section 6), with the usual aspects of 3/4 to 4/3.
    Where the model squashes pictures, they are relative to the picture's own.
    """
    width, height = image.size
    target = how.width / how.height if how.mode != "squash" else width / height
    whole = width * height if how.mode == "squash" else min(width, height * target) * min(height, width / target)
    area = chance.uniform(smallest_area, 1) * whole
    aspect = target * np.exp(chance.uniform(np.log(3 / 4), np.log(4 / 3)))
    wide, high = min(width, (area * aspect) ** 0.5), min(height, (area / aspect) ** 0.5)
    left, top = chance.uniform(0, width - wide), chance.uniform(0, height - high)
    box = (left, top, left + wide, top + high)
    shown = image.resize((how.width, how.height), how.resample, box=box)
    if chance.random() < 0.5:
        shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(shown, np.uint8).transpose(2, 0, 1)


def without_unreadable(pictures: PictureSet) -> PictureSet:
    """The set without files that are no pictures, which are counted: one of them must not stop a run of hours."""
    with ThreadPoolExecutor() as pool:
        is_readable = list(pool.map(_is_readable, pictures.pictures))
    bad = is_readable.count(False)
    if not bad:
        return pictures
    kept = tuple(one for one, is_good in zip(pictures.pictures, is_readable, strict=True) if is_good)
    if not kept:
        raise SourceError(
            f"none of the {bad:,} pictures of {pictures.name} can be read: expected pictures; "
            f"look at {pictures.pictures[0].path}"
        )
    return replace(pictures, pictures=kept, dropped={**pictures.dropped, UNREADABLE: bad})


def _is_readable(picture: Captioned) -> bool:
    try:
        read(picture.path.read_bytes(), image_size=1)
    except (ImageError, OSError):
        return False
    return True
