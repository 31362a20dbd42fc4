"""What training knows of a model: its two sides, how it starts and is written, and the device it computes on."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sightline.encoders.torch.towers import Documents
from sightline.errors import TrainingError
from sightline.train.checkpoint import save_weights
from sightline.train.config import IMAGE_FROZEN, DataSettings, Device, Mode, Precision, Settings
from sightline.train.model_folder import Sides, write_folder
from sightline.train.pictures import Kept, KeptPictures, PictureFiles, Pictures

MOST_CALIBRATION = 96  # pictures
AT_ONCE = 16  # pictures that go through what is frozen
RateGroup = Literal["image", "text", "words", "head", "adapter", "still"]
"""Which rate a parameter moves at: `still` never, `adapter` only in the mode of that name."""
Say = Callable[[str], None]


class TwoTowers(nn.Module):
    """What the loop trains: both sides give unit vectors of one space."""

    dim: int
    pad_id: int
    image: nn.Module
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
    smallest_crop: float | None = None
    """The least part of a picture that is learned from, in place of the settings' own."""
    colour_jitter: float = 0.0

    def rate_group(self, name: str) -> RateGroup:
        """Which rate a parameter moves at."""
        raise NotImplementedError

    def stem(self, mode: Mode) -> Callable[[Tensor], Tensor] | None:
        """The first part of the image side if it does not move in that mode: it runs once for each picture and view."""
        raise NotImplementedError

    def finish(self, pictures: Tensor) -> Tensor:
        """Pixels, or what `stem` gave -> (n, dim)."""
        raise NotImplementedError

    def sides(self, documents: Documents) -> Sides:
        """What a model folder is written from; it may take the model apart."""
        raise NotImplementedError


Towers_co = TypeVar("Towers_co", bound=TwoTowers, covariant=True)


@dataclass(frozen=True, slots=True)
class Start(Generic[Towers_co]):
    """Weights to begin with and everything that depends on where they came from."""

    model: Towers_co
    documents: Documents
    """How it reads pictures and texts, as the files of a model folder say it."""
    settings: Settings
    description: Mapping[str, Any]
    """What a checkpoint must hold besides weights so that the model can be made from it alone; plain values."""
    folder: Path | None = None
    """The model folder that the weights came from."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without padding, read as in use."""
        return self.documents.tokens.ids(texts)

    def training_pictures(self, data: DataSettings, paths: Sequence[Path], name: str, say: Say) -> Pictures:
        """Files that are decoded and cropped anew in each step, or views of them after what is frozen."""
        options, model = self.settings.optimiser, self.model
        least = options.smallest_crop if model.smallest_crop is None else model.smallest_crop
        files = PictureFiles(paths, self.documents.preprocessing, least, model.colour_jitter)
        stem = model.stem(self.settings.mode)
        if stem is None:
            return files
        views: list[Kept] = []
        while not views or (views[0].ndim == 4 and len(views) < data.views):  # a whole frozen tower sees one
            say(f"{name}: view {len(views) + 1} of {data.views}, {len(paths):,} pictures")
            views.append(self._kept(stem, files, (self.settings.seed, len(views)) if views else None))
        return KeptPictures(views, options.window_slack)

    def measuring_pictures(self, paths: Sequence[Path]) -> Pictures:
        """Whole pictures as files, or after what is frozen."""
        files, stem = PictureFiles(paths, self.documents.preprocessing), self.model.stem(self.settings.mode)
        return files if stem is None else KeptPictures([self._kept(stem, files, None)], 0)

    def write(self, model: TwoTowers, folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        """The trained model as a folder that searches can use; a frozen image tower is taken over byte for byte.

        Where its graphs do not keep the names of the weights, these lie beside, to train on or to export from.
        """
        frozen = self.folder if self.settings.mode in IMAGE_FROZEN else None
        sides = export(model, self.documents, folder, precision, calibration=calibration, image_tower_of=frozen)
        if not sides.keeps_names:
            save_weights(folder, self.description, model.state_dict())

    @torch.no_grad()
    def _kept(self, stem: Callable[[Tensor], Tensor], files: PictureFiles, view: tuple[int, int] | None) -> Kept:
        """What is frozen makes of each picture, whole or a crop for `view`: maps as float16, vectors as float32."""
        self.model.eval()
        device, kept = device_of(self.model.image), np.empty(0, np.float32)
        for start in range(0, len(files), AT_ONCE):
            stop = min(start + AT_ONCE, len(files))
            batch = files.batch(start, stop) if view is None else files.crops(range(start, stop), view)
            # Channels last is 1.4 times faster here: 2.7 against 3.7 ms a picture on two cores (batches of 8).
            made = stem(batch.contiguous(memory_format=torch.channels_last).to(device)).cpu().numpy()
            if not start:
                kept = np.empty((len(files), *made.shape[1:]), np.float16 if made.ndim == 4 else np.float32)
            kept[start:stop] = made
        return kept


def export(
    model: TwoTowers,
    documents: Documents,
    folder: Path,
    precision: Precision,
    *,
    calibration: Sequence[Path] = (),
    image_tower_of: Path | None = None,
) -> Sides:
    """Writes a model folder. `calibration` are pictures for 8 bits; `image_tower_of` is where a frozen tower is."""
    pixels = None
    if precision == "int8" and image_tower_of is None and calibration:
        pixels = PictureFiles(calibration, documents.preprocessing).batch(0, MOST_CALIBRATION).numpy()
    sides = copy.deepcopy(model).cpu().float().eval().sides(documents)
    write_folder(sides, folder, precision, calibration=pixels, image_tower_of=image_tower_of)
    return sides


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
