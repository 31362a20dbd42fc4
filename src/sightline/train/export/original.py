"""What a person names to be exported -> a torch model, what it makes of pictures and words, and a way to write it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sightline.encoders import preprocess
from sightline.encoders.families import FAMILIES
from sightline.encoders.hub import Hub
from sightline.encoders.torch.libraries import library
from sightline.encoders.torch.weights import fit, read_state, split_state
from sightline.errors import TrainingError
from sightline.train import checkpoint
from sightline.train.clips import start as start_clip
from sightline.train.clips.from_open_clip import CONFIG as OPEN_CLIP_CONFIG
from sightline.train.clips.loaded import Loaded
from sightline.train.clips.start import ClipStart
from sightline.train.config import Precision, Settings
from sightline.train.export.model import Original
from sightline.train.export.of_encoder import is_of_encoder, of_encoder
from sightline.train.own import start as start_own
from sightline.train.own.restore import restore
from sightline.train.own.start import OwnStart
from sightline.train.own.text import padded
from sightline.train.start import BUNDLED
from sightline.types import Vector


def open_original(name: str, hub: Hub | None = None) -> Original:
    """From a name of a family such as `timm:resnet50`, a folder that open_clip or transformers saved, or a run.

    Raises `TrainingError` or an `EncoderError` when it is none of these or cannot be loaded.
    """
    here = Path()
    if name.partition(":")[0] in FAMILIES:
        return of_encoder(name, hub) if is_of_encoder(name, hub) else _of_library(_tuned(name, here, hub))
    path = BUNDLED if name == "mini" else Path(name).expanduser()
    if path.is_file() or (path / checkpoint.NAME).is_file():
        return _of_checkpoint(path if path.is_file() else path / checkpoint.NAME)
    if (path / start_clip.WEIGHTS).is_file():
        description, state = start_clip.read_weights(path / start_clip.WEIGHTS)
        return _of_run(description, state)
    if (path / OPEN_CLIP_CONFIG).is_file():
        return _of_library(start_clip.load(f"open_clip:{path.resolve()}", here))
    config = _config(path)
    if "model_type" in config:
        return open_original(f"hf:{path.resolve()}", hub)
    if "shape" in config.get("sightline", {}):
        model, tokenizer = restore(path)
        return _of_own(OwnStart(model.eval(), tokenizer, Settings(), None))
    raise TrainingError(
        f"{name} holds no torch model: expected open_clip:ARCHITECTURE/WEIGHTS, hf:NAME, timm:NAME, a folder that "
        "open_clip or transformers saved, or the folder of a training run; check the path"
    )


def _tuned(name: str, here: Path, hub: Hub | None) -> Loaded:
    """The library's model, with the weights after an `@` over its own."""
    base, state = split_state(name)
    loaded = start_clip.load(base, here, hub)
    if state is not None:
        weights = read_state(state)
        if base.startswith("open_clip:"):
            weights = library("open_clip.model").convert_to_custom_text_state_dict(weights)
        fit(loaded.model, weights, base, may_lack="/" in base)
    return loaded


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        document: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document


def _of_checkpoint(path: Path) -> Original:
    """An unfinished run: the moving average of its last checkpoint."""
    if path.name == start_clip.WEIGHTS:
        return _of_run(*start_clip.read_weights(path))
    document = checkpoint.read(path)
    state = document["state"]
    if "model" not in state:
        raise TrainingError(f"{path} says nothing of its model: expected a checkpoint of this version; train again")
    keeps_average = json.loads(document["settings"])["optimiser"]["average_decay"]
    return _of_run(state["model"], state["trainer"]["average" if keeps_average else "model"])


def _of_run(description: Mapping[str, Any], state: Mapping[str, Any]) -> Original:
    if description["kind"] == start_own.KIND:
        own = start_own.described(description, Settings())
        own.model.load_state_dict(state)
        return _of_own(own)
    start = start_clip.described(description, Settings())
    start.model.load_state_dict(state)
    return _of_clip(start)


def _of_library(loaded: Loaded) -> Original:
    def write(folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        start = ClipStart(loaded.clip(), loaded.documents, loaded.rebuild, Settings())
        start.export(start.model, folder, precision, calibration)

    return Original(loaded.encode_image, loaded.encode_text, write)


def _of_clip(start: ClipStart) -> Original:
    model, how, tokens = start.model.eval(), start.documents.preprocessing, start.documents.tokens

    @torch.no_grad()
    def encode_image(image: Image.Image) -> Vector:
        return _row(model.image(torch.from_numpy(preprocess.pixels(image, how).copy())[None]))

    @torch.no_grad()
    def encode_text(text: str) -> Vector:
        return _row(model.text(padded(tokens.ids([text]), tokens.pad_id)))

    return Original(encode_image, encode_text, lambda *given: start.export(model, *given))


def _of_own(start: OwnStart) -> Original:
    model = start.model.eval()
    side, pad_id = model.shape.image_size, model.shape.pad_id

    @torch.no_grad()
    def encode_image(image: Image.Image) -> Vector:
        squashed = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.uint8)
        return _row(model.image(torch.from_numpy(squashed.transpose(2, 0, 1).copy())[None]))

    @torch.no_grad()
    def encode_text(text: str) -> Vector:
        return _row(model.text(padded(start.ids([text]), pad_id)))

    return Original(encode_image, encode_text, lambda *given: start.write(model, *given))


def _row(vectors: Any) -> Vector:
    return np.asarray(vectors[0].float().numpy(), np.float32)
