"""What training knows of a model: its two sides, how it starts and is written, and the device it computes on."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from sightline.encoders import tokens
from sightline.encoders.torch.towers import Documents
from sightline.errors import TrainingError
from sightline.train.config import DataSettings, Device, Precision
from sightline.train.model_folder import Sides, write_folder
from sightline.train.pictures import PictureFiles, Pictures

MOST_CALIBRATION = 96  # pictures
_log = logging.getLogger(__name__)
RateGroup = Literal["image", "text", "words", "head", "adapter", "still"]
"""Which rate a parameter moves at: `still` never, `adapter` only in the mode of that name."""
Say = Callable[[str], None]


class Sizes(Protocol):
    """The sizes of a model."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    @property
    def pad_id(self) -> int:
        """The token that fills up texts."""


class ImageSide(nn.Module):
    """Pictures -> unit vectors."""

    def finish(self, pictures: Tensor) -> Tensor:
        """What a set of pictures gives to a step, whole or half-way through a frozen tower -> (n, dim)."""
        raise NotImplementedError


class TwoTowers(nn.Module):
    """What the loop trains: both sides give unit vectors of one space."""

    shape: Sizes
    image: ImageSide
    text: nn.Module
    log_scale: nn.Parameter
    """The learned sharpness of the scores, its logarithm."""
    bias: nn.Parameter
    """What the sigmoid loss adds to the scores."""
    has_bias: bool
    """Whether the bias was trained, or has to be guessed for the sigmoid loss."""
    largest_scale: float
    adapter: str
    """The name of the parameter that the query adapter moves."""
    casts_pictures: bool
    """Whether the image side runs in half precision on a CPU too."""

    def rate_group(self, name: str) -> RateGroup:
        """Which rate a parameter moves at."""
        raise NotImplementedError

    def sides(self, documents: Documents) -> Sides:
        """What a model folder is written from; it may take the model apart."""
        raise NotImplementedError


class Start(Protocol):
    """Weights to begin with and everything that depends on where they came from."""

    @property
    def model(self) -> TwoTowers:
        """The model, not trained yet."""

    @property
    def documents(self) -> Documents:
        """How it reads pictures and texts, as the files of a model folder say it."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without padding."""

    def training_pictures(self, data: DataSettings, paths: Sequence[Path], name: str, say: Say) -> Pictures:
        """Pictures to learn from; `say` is told what takes minutes."""

    def measuring_pictures(self, paths: Sequence[Path]) -> Pictures:
        """Pictures as the model sees them in use."""

    def write(self, model: TwoTowers, folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        """The trained model as a folder that searches can use; a frozen image tower is taken over byte for byte."""

    def description(self) -> Mapping[str, Any]:
        """What a checkpoint must hold besides weights so that the model can be made from it alone; plain values."""


def export(
    model: TwoTowers,
    documents: Documents,
    folder: Path,
    precision: Precision,
    *,
    calibration: Sequence[Path] = (),
    image_tower_of: Path | None = None,
) -> None:
    """Writes a model folder. `calibration` are pictures for 8 bits; `image_tower_of` is where a frozen tower is."""
    pixels = None
    if precision == "int8" and image_tower_of is None and calibration:
        pixels = PictureFiles(calibration, documents.preprocessing).batch(0, MOST_CALIBRATION).numpy()
    sides = copy.deepcopy(model).cpu().float().eval().sides(documents)
    write_folder(sides, folder, precision, calibration=pixels, image_tower_of=image_tower_of)


def token_ids(documents: Documents, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text, read as in use. How many were too long is said once, not for each."""
    cut = 0

    def count(record: logging.LogRecord) -> bool:
        nonlocal cut
        cut += 1
        return False

    log = logging.getLogger(tokens.__name__)
    log.addFilter(count)
    try:
        rows = documents.tokens.ids(texts)
    finally:
        log.removeFilter(count)
    if cut:
        length = documents.tokens.context_length
        _log.warning("%d of %d texts have more than the %d tokens that the model reads", cut, len(texts), length)
    return rows


def choose_device(wanted: Device) -> torch.device:
    """CUDA for `auto` where there is one. Raises `TrainingError` when it was asked for and is not there."""
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        built = f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'not at all'}"
        raise TrainingError(
            f"device is 'cuda' and torch finds no CUDA device ({built}): expected a GPU with its driver; "
            'set device = "auto" to use what is there, or install a torch that was built for your CUDA'
        )
    return torch.device("cuda" if has_cuda and wanted != "cpu" else "cpu")


def device_of(module: nn.Module) -> torch.device:
    """Where the weights of a module are."""
    return next(module.parameters()).device


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """(n, longest row): ids with padding at the end."""
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows])
