"""Pictures decoded once into one file of pixels, and the random parts of them that a step sees."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sightline.encoders import preprocess
from sightline.encoders.preprocess import Preprocessing
from sightline.errors import ImageError, TrainingError
from sightline.images.read import read

LARGEST_STRETCH = 1.25
BLURRED_SIDES = (48, 120)
AHEAD = 256

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PixelFile:
    """A file of n pictures, each 3 x side x side bytes of RGB, channels last; read in pieces, so it takes no memory."""

    path: Path
    names: tuple[str, ...]
    side: int

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, place: int) -> Tensor:
        """(1, 3, side, side) of uint8, channels last."""
        size = 3 * self.side**2
        with self.path.open("rb") as file:
            file.seek(place * size)
            flat = np.frombuffer(bytearray(file.read(size)), np.uint8)
        return torch.from_numpy(flat.reshape(1, self.side, self.side, 3)).permute(0, 3, 1, 2)


def pixel_file(
    path: Path, names: Sequence[str], folder: Path, how: Preprocessing, *, say: Callable[[int], None]
) -> PixelFile:
    """The pixels of the pictures `names` in `folder` as the finished model sees them; made at the first run.

    Pictures that cannot be read are left out; those of the file are its `names`. `say` is given how many are done.
    Raises `TrainingError` when there is no room, or none can be read.
    """
    index = path.with_name(f"{path.name}.json")
    wanted = {"names": list(names), "side": how.height, "mode": how.mode}
    if not index.is_file() or json.loads(index.read_text(encoding="utf-8"))["wanted"] != wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        try:
            with fresh.open("wb") as file:
                readable = [name for name, pixels in _decoded(names, folder, how, say) if _wrote(file, pixels)]
            fresh.replace(path)
            index.write_text(json.dumps({"wanted": wanted, "readable": readable}), encoding="utf-8")
        except OSError as error:
            raise TrainingError(
                f"{path} cannot be written ({error.strerror or error}): expected "
                f"{len(names) * 3 * how.height**2 / 1e9:.1f} GB of room; name another file with `cache`"
            ) from error
    readable = json.loads(index.read_text(encoding="utf-8"))["readable"]
    if not readable:
        raise TrainingError(f"none of the {len(names):,} pictures in {folder} can be read: check `images`")
    return PixelFile(path, tuple(readable), how.height)


def _decoded(
    names: Sequence[str], folder: Path, how: Preprocessing, say: Callable[[int], None]
) -> Iterator[tuple[str, Pixels | None]]:
    def pixels(name: str) -> Pixels | None:
        try:
            return preprocess.pixels(read((folder / name).read_bytes(), image_size=how.height), how)
        except (ImageError, OSError):
            return None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), AHEAD):
            some = names[start : start + AHEAD]
            yield from zip(some, pool.map(pixels, some), strict=True)
            say(start + len(some))


def _wrote(file: BinaryIO, pixels: Pixels | None) -> bool:
    if pixels is not None:
        file.write(np.ascontiguousarray(pixels.transpose(1, 2, 0)).tobytes())
    return pixels is not None


def glimpse(
    picture: Tensor, side: int, *, smallest_crop: float, blurred_share: float, chance: np.random.Generator
) -> Tensor:
    """(1, 3, h, w) of uint8 -> (1, 3, side, side) of uint8: a random part, stretched, perhaps mirrored or coarse.

    A random resized crop (Szegedy et al. 2015, arXiv:1409.4842, section 6), milder than for classification: the target
    is the vector of the whole picture.
    """
    height, width = picture.shape[2:]
    area = chance.uniform(smallest_crop, 1) * height * width
    stretch = np.exp(chance.uniform(-np.log(LARGEST_STRETCH), np.log(LARGEST_STRETCH)))
    wide, high = min(width, round((area * stretch) ** 0.5)), min(height, round((area / stretch) ** 0.5))
    left, top = int(chance.integers(width - wide + 1)), int(chance.integers(height - high + 1))
    part = picture[:, :, top : top + high, left : left + wide]
    if chance.random() < blurred_share:
        part = resized(part, int(chance.integers(*BLURRED_SIDES)))
    part = resized(part, side)
    return part.flip(3) if chance.random() < 0.5 else part


def resized(pictures: Tensor, side: int) -> Tensor:
    """(n, 3, h, w) of uint8 -> (n, 3, side, side) of uint8."""
    if pictures.shape[2:] == (side, side):
        return pictures
    return functional.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)
