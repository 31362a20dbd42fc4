"""Pictures -> random crops at the model's size -> the maps of the frozen first blocks, computed once and kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from sightline.images.read import read
from sightline.train.device import device_of
from sightline.train.own.model import ImageTower

BATCH = 16
SMALLEST_AREA = 0.5
LARGEST_JITTER = 0.3
Maps = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class View:
    """Which sight of a picture: number 0 is the whole picture, the others are random crops by `seed`."""

    number: int
    side: int
    seed: int = 0


def pixels(path: Path, view: View, *, place: int = 0) -> NDArray[np.uint8]:
    """(3, side, side) RGB of one picture; `place`, its number in the set, chooses its crop."""
    image = read(path.read_bytes(), image_size=view.side)
    if view.number == 0:
        return _array(image.resize((view.side, view.side), Image.Resampling.BICUBIC))
    chance = np.random.default_rng((view.seed, view.number, place))
    return _array(_cropped(image, view.side, chance))


def _cropped(image: Image.Image, side: int, chance: np.random.Generator) -> Image.Image:
    """A window of half the area or more, squashed; sometimes mirrored; colours a little off."""
    width, height = image.size
    area = chance.uniform(SMALLEST_AREA, 1) * width * height
    ratio = np.exp(chance.uniform(np.log(3 / 4), np.log(4 / 3))) * width / height
    wide, high = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
    left, top = chance.uniform(0, width - wide), chance.uniform(0, height - high)
    image = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + wide, top + high))
    if chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(chance.uniform(1 - LARGEST_JITTER, 1 + LARGEST_JITTER))
    return image


def _array(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image, np.uint8).transpose(2, 0, 1)


@torch.no_grad()
def stem_maps(tower: ImageTower, paths: Sequence[Path], view: View) -> Maps:
    """(n, 96, side / 16, side / 16) float16: what the first blocks make of each picture."""
    maps = np.empty((len(paths), 96, view.side // 16, view.side // 16), np.float16)
    device = device_of(tower)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), BATCH):
            places = range(start, min(start + BATCH, len(paths)))
            batch = np.stack(list(pool.map(lambda place: pixels(paths[place], view, place=place), places)))
            # Channels last is 1.4 times faster here: 2.7 against 3.7 ms a picture on two cores (batches of 8).
            tensor = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
            maps[places.start : places.stop] = tower.stem(tensor.to(device)).cpu().numpy()
    return maps


def window(maps: NDArray[np.float16], slack: int, chance: np.random.Generator) -> torch.Tensor:
    """(n, 96, h, w) -> (n, 96, k, k) float32: one random window for all, up to `slack` smaller, perhaps mirrored.

    A crop of the cached map costs nothing and lifted recall@10 by about 2 points (docs/decisions).
    """
    side = maps.shape[2]
    size = int(chance.integers(max(1, side - slack), side + 1))
    top, left = chance.integers(0, side - size + 1, 2)
    cut = torch.from_numpy(maps[:, :, top : top + size, left : left + size]).float()
    if chance.random() < 0.5:
        cut = cut.flip(3)
    return cut.contiguous(memory_format=torch.channels_last)
