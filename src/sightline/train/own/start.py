"""`mini`, a folder that our export wrote, or published parts -> a start of our own two towers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sightline.train.config import IMAGE_FROZEN, DataSettings, Precision, Settings
from sightline.train.device import choose_device
from sightline.train.own.export import export
from sightline.train.own.model import Shape, TwoTowers
from sightline.train.own.published import bert_state, mobilenet_state
from sightline.train.own.restore import restore
from sightline.train.own.text import prune, token_ids
from sightline.train.own.views import View, pixels, stem_maps
from sightline.train.pictures import CachedMaps, Pictures
from sightline.train.start import BUNDLED, Say

KIND = "two towers"


@dataclass(frozen=True, slots=True)
class OwnStart:
    """Our two towers. The first blocks of the image tower are frozen: they run once for each picture and view."""

    model: TwoTowers
    tokenizer: Tokenizer
    settings: Settings
    folder: Path | None
    """The model folder that the weights came from; None for a new model."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, cut to the model's length."""
        return token_ids(self.tokenizer, texts, context_length=self.model.shape.context_length)

    def training_pictures(self, data: DataSettings, paths: Sequence[Path], name: str, say: Say) -> Pictures:
        """Every view of every picture after the first blocks."""
        views = []
        for number in range(data.views):
            say(f"{name}: view {number + 1} of {data.views}, {len(paths):,} pictures")
            view = View(number, self.model.shape.image_size, self.settings.seed)
            views.append(stem_maps(self.model.image.eval(), paths, view))
        return CachedMaps(views, self.settings.optimiser.window_slack)

    def measuring_pictures(self, paths: Sequence[Path]) -> Pictures:
        """Whole pictures after the first blocks."""
        return CachedMaps([stem_maps(self.model.image.eval(), paths, View(0, self.model.shape.image_size))], 0)

    def write(self, model: Any, folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        """As `export` does it, from the start's own image tower where that was frozen."""
        frozen = self.folder if self.settings.mode in IMAGE_FROZEN else None
        needs_pixels = precision == "int8" and len(calibration) > 0
        pixels = calibration_pixels(calibration, model.shape.image_size) if needs_pixels else None
        export(model, self.tokenizer, folder, precision, calibration=pixels, image_tower_of=frozen)

    def description(self) -> Mapping[str, Any]:
        """Sizes and tokenizer."""
        return {"kind": KIND, "shape": asdict(self.model.shape), "tokenizer": self.tokenizer.to_str()}


def open_own_start(settings: Settings, base: Path, texts: Sequence[str]) -> OwnStart:
    """The bundled model, a model folder, or a new model from published parts with a vocabulary for `texts`."""
    start, dropout = settings.start, settings.optimiser.dropout
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)
    if start.model:
        folder = BUNDLED if start.model == "mini" else base / start.model
        model, tokenizer = restore(folder, dropout=dropout)
        return OwnStart(model.to(device, memory_format=torch.channels_last), tokenizer, settings, folder)
    words = [*texts, *(line for file in start.vocabulary_texts for line in lines(base / file))]
    tokenizer, kept = prune(Tokenizer.from_file(str(base / start.tokenizer)), words, size=start.vocabulary_size)
    shape = Shape(image_size=start.image_size, vocabulary_size=len(kept))
    model = TwoTowers(shape, dropout)
    model.image.load_state_dict(mobilenet_state(base / start.image_weights), strict=False)
    state = bert_state(base / start.text_weights, kept, context_length=shape.context_length)
    model.text.load_state_dict(state | {"projection.weight": torch.eye(shape.dim, shape.hidden)})
    return OwnStart(model.to(device, memory_format=torch.channels_last), tokenizer, settings, None)


def described(description: Mapping[str, Any], settings: Settings) -> OwnStart:
    """The start that `description` tells of, with random weights."""
    model = TwoTowers(Shape(**description["shape"]))
    return OwnStart(model, Tokenizer.from_str(description["tokenizer"]), settings, None)


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def calibration_pixels(paths: Sequence[Path], side: int) -> NDArray[np.uint8]:
    """(n, 3, side, side): whole pictures for the quantiser."""
    return np.stack([pixels(path, View(0, side)) for path in paths])
