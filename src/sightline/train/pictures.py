"""The pictures of a set as a model takes them in: files decoded for each step, or what frozen layers made of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from sightline.encoders import preprocess
from sightline.encoders.preprocess import Preprocessing
from sightline.errors import ImageError, SourceError
from sightline.images.read import read
from sightline.train.data import Captioned, PictureSet

Indices = NDArray[np.int64]
Kept = NDArray[np.float16] | NDArray[np.float32]
"""Maps, (n, channels, h, w), or vectors, (n, dim)."""
UNREADABLE = "pictures cannot be read"


class Pictures(Protocol):
    """The pictures of one set by their places in it."""

    def __len__(self) -> int:
        """How many there are."""

    def augmented(self, indices: Indices, rng: np.random.Generator) -> Tensor:
        """What a step sees of these pictures: each time a little different."""

    def batch(self, start: int, stop: int) -> Tensor:
        """The pictures from `start` to before `stop` as they are."""


@dataclass(frozen=True, slots=True)
class PictureFiles:
    """Files that are decoded when they are asked for; a step sees a random crop of each, perhaps mirrored."""

    paths: Sequence[Path]
    preprocessing: Preprocessing
    smallest_area: float = 1.0
    colour_jitter: float = 0.0
    """Brightness, contrast and colour of a crop are off by up to this much, of 1."""

    def __len__(self) -> int:
        return len(self.paths)

    def augmented(self, indices: Indices, rng: np.random.Generator) -> Tensor:
        """(n, 3, height, width) of uint8."""
        return self.crops([int(index) for index in indices], (int(rng.integers(2**62)),))

    def batch(self, start: int, stop: int) -> Tensor:
        """(n, 3, height, width) of uint8, exactly as in use."""
        return self._stacked(range(start, min(stop, len(self))), None)

    def crops(self, indices: Sequence[int], seed: tuple[int, ...]) -> Tensor:
        """(n, 3, height, width) of uint8: a random crop of each, which `seed` and its place decide."""
        return self._stacked(indices, seed)

    def _stacked(self, indices: Sequence[int], seed: tuple[int, ...] | None) -> Tensor:
        how, jitter = self.preprocessing, self.colour_jitter

        def pixels(index: int) -> NDArray[np.uint8]:
            image = read(self.paths[index].read_bytes(), image_size=max(how.height, how.width))
            if seed is None:
                return preprocess.pixels(image, how)
            rng = np.random.default_rng((*seed, index))
            crop = random_crop(image, how, self.smallest_area, rng)
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color) if jitter else ():
                crop = enhance(crop).enhance(rng.uniform(1 - jitter, 1 + jitter))
            return np.asarray(crop, np.uint8).transpose(2, 0, 1)

        with ThreadPoolExecutor() as pool:
            return torch.from_numpy(np.stack(list(pool.map(pixels, indices))))


@dataclass(frozen=True, slots=True)
class KeptPictures:
    """What frozen layers made of each view of the pictures; of maps a step sees a random window of one view.

    A crop of a map that is kept costs nothing and lifted recall@10 by about 2 points (docs/decisions).
    """

    views: Sequence[Kept]
    slack: int
    """How much smaller than the map a window may be on each side."""

    def __len__(self) -> int:
        return len(self.views[0])

    def augmented(self, indices: Indices, rng: np.random.Generator) -> Tensor:
        """Maps (n, channels, k, k), one window for all, perhaps mirrored, or vectors (n, dim)."""
        kept = self.views[int(rng.integers(len(self.views)))][indices]
        if kept.ndim == 2:
            return torch.from_numpy(kept)
        side = kept.shape[2]
        size = int(rng.integers(max(1, side - self.slack), side + 1))
        top, left = rng.integers(0, side - size + 1, 2)
        window = torch.from_numpy(kept[:, :, top : top + size, left : left + size]).float()
        if rng.random() < 0.5:
            window = window.flip(3)
        return window.contiguous(memory_format=torch.channels_last)

    def batch(self, start: int, stop: int) -> Tensor:
        """(n, channels, h, w) or (n, dim)."""
        kept = torch.from_numpy(self.views[0][start:stop]).float()
        return kept.contiguous(memory_format=torch.channels_last) if kept.ndim == 4 else kept


def random_crop(
    image: Image.Image, config: Preprocessing, smallest_area: float, rng: np.random.Generator
) -> Image.Image:
    """A random part of at least that share of what the model sees, stretched to its size, perhaps mirrored.

    The random resized crop of Szegedy et al. 2015 (arXiv:1409.4842, section 6), with the usual aspects of 3/4 to 4/3.
    Where the model squashes pictures, they are relative to the picture's own.
    """
    width, height = image.size
    target = config.width / config.height if config.mode != "squash" else width / height
    whole = width * height if config.mode == "squash" else min(width, height * target) * min(height, width / target)
    area = rng.uniform(smallest_area, 1) * whole
    aspect = target * np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    wide, high = min(width, (area * aspect) ** 0.5), min(height, (area / aspect) ** 0.5)
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    crop = image.resize((config.width, config.height), config.resample, box=(left, top, left + wide, top + high))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def without_unreadable(pictures: PictureSet) -> PictureSet:
    """The set without files that are no pictures, which are counted: one of them must not stop a run of hours."""

    def is_readable(picture: Captioned) -> bool:
        try:
            read(picture.path.read_bytes(), image_size=1)
        except (ImageError, OSError):
            return False
        return True

    with ThreadPoolExecutor() as pool:
        kept = tuple(compress(pictures.pictures, pool.map(is_readable, pictures.pictures)))
    bad = len(pictures.pictures) - len(kept)
    if not kept:
        raise SourceError(
            f"none of the {bad:,} pictures of {pictures.name} can be read: expected pictures; "
            f"look at {pictures.pictures[0].path}"
        )
    return replace(pictures, pictures=kept, dropped={**pictures.dropped, UNREADABLE: bad}) if bad else pictures
