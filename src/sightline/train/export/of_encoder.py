"""A model of another library that searches can use -> its image tower, and its text tower if it has one, in ONNX.

Not among them are the CLIPs and SigLIPs of open_clip and transformers: the trainer takes those apart and writes them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.families import open_of_family
from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import RESAMPLING, Preprocessing
from sightline.encoders.torch import transformers
from sightline.encoders.torch.encoder import TorchEncoder, Towers, Words
from sightline.errors import EncoderError, TrainingError
from sightline.images.read import read
from sightline.train.clips import from_transformers
from sightline.train.clips.export import traced, write_graph
from sightline.train.config import Precision
from sightline.train.export.folder import filled
from sightline.train.export.model import Original
from sightline.types import Vector

_OWN = ("timm", "dinov2", "simclr", "st")
_EXAMPLE_LENGTH = 12  # tokens of the texts that the tracer sees


class PictureSide(nn.Module):
    """Pixels of 0 to 255 -> unit vectors."""

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.inner, self.vectors = towers.model, towers.vectors
        scale = [1 / (255 * std) for std in towers.how.std]
        shift = [-mean / std for mean, std in zip(towers.how.mean, towers.how.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, height, width) -> (n, dim), rows of norm 1."""
        return functional.normalize(self.vectors(pixels.float() * self.scale + self.shift).float(), dim=-1)


class WordSide(nn.Module):
    """Token ids, and which of them are no padding -> unit vectors."""

    def __init__(self, towers: Towers, words: Words) -> None:
        super().__init__()
        self.inner, self.vectors = towers.model, words.vectors

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n, length) of both -> (n, dim), rows of norm 1."""
        more = {} if mask is None else {"attention_mask": mask}
        return functional.normalize(self.vectors(input_ids=ids, **more).float(), dim=-1)


def is_of_encoder(name: str, hub: Hub | None) -> bool:
    """Whether a name of a family is written by this file."""
    family, _, rest = name.partition(":")
    if family != "hf":
        return family in _OWN
    try:
        return transformers.type_of(rest, hub or Hub.from_environment()) not in from_transformers.KINDS
    except EncoderError:
        return False  # the trainer's loader says what is wrong


def of_encoder(name: str, hub: Hub | None) -> Original:
    """The encoder of that name; what it gives is compared with, and its towers are written."""
    encoder = open_of_family(name, hub or Hub.from_environment(), "cpu")
    if not isinstance(encoder, TorchEncoder):
        raise TrainingError(f"{name} is a {type(encoder).__name__}: expected a model in torch; name another")
    towers = encoder.towers

    def encode_image(image: Image.Image) -> Vector:
        return np.asarray(encoder.encode_images(encoder.preprocess(image)[None])[0], np.float32)

    def encode_text(text: str) -> Vector:
        return np.asarray(encoder.encode_texts([text])[0], np.float32)

    def write(folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        _write(towers, encoder.dim, folder, precision, calibration)

    return Original(encode_image, encode_text if towers.words else None, write)


def _write(towers: Towers, dim: int, folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
    how = towers.how
    pictures = [_pixels(path, towers) for path in calibration] if precision == "int8" else []
    with filled(folder) as work:
        example = torch.zeros((2, 3, how.height, how.width), dtype=torch.uint8)
        graph = traced(PictureSide(towers), {"image": example}, {"image": {0: "batch"}}, work)
        write_graph(graph, work / "visual" / "model.onnx", precision, np.stack(pictures) if pictures else None)
        if towers.words:
            write_graph(_text_graph(towers, towers.words, work), work / "textual" / "model.onnx", precision, None)
            _write_tokenizer(towers.words, work / "textual")
        _write_json(work / "config.json", _config(towers, dim, precision))
        _write_json(work / "visual" / "preprocess_cfg.json", preprocess_of(how))


def _text_graph(towers: Towers, words: Words, work: Path) -> Any:
    """With a mask the length is free; without one the model sees the padding and runs at its full length."""
    masks = "attention_mask" in words.tokens(["a"])
    ids = torch.ones((2, _EXAMPLE_LENGTH if masks else words.context_length), dtype=torch.int64)
    axes = {0: "batch", 1: "length"} if masks else {0: "batch"}
    examples = {"text": ids, "attention_mask": torch.ones_like(ids)} if masks else {"text": ids}
    return traced(WordSide(towers, words), examples, dict.fromkeys(examples, axes), work)


def _write_tokenizer(words: Words, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(from_transformers.fast_tokenizer(words.tokenizer), encoding="utf-8")
    length = words.context_length
    _write_json(folder / "tokenizer_config.json", {"pad_token": words.tokenizer.pad_token, "model_max_length": length})


def _config(towers: Towers, dim: int, precision: Precision) -> dict[str, Any]:
    config: dict[str, Any] = {"embed_dim": dim, "vision_cfg": {"image_size": towers.how.height}}
    if words := towers.words:
        masks = "attention_mask" in words.tokens(["a"])
        config["text_cfg"] = {
            "context_length": words.context_length,
            "hf_tokenizer_name": "tokenizer.json",
            "tokenizer_kwargs": {"clean": "whitespace"},
            **({"masks_padding": True} if masks else {"no_causal_mask": True}),
        }
    scores = {"logit_scale": towers.logit_scale, "logit_bias": towers.logit_bias}
    config |= {name: value for name, value in scores.items() if value is not None}
    return config | {"sightline": {"precision": precision, "pixels": "uint8", "source": towers.name}}


def preprocess_of(how: Preprocessing) -> dict[str, Any]:
    """preprocess_cfg.json: open_clip's keys, and ours for what it does not have."""
    names = {number: name for name, number in RESAMPLING.items()}
    ours = {"resized": how.resized} if how.resized else {}
    return {
        "size": [how.height, how.width],
        "mode": "RGB",
        "mean": list(how.mean),
        "std": list(how.std),
        "interpolation": names[how.resample],
        "resize_mode": how.mode,
        "fill_color": 0,
        "sightline": {**ours, "crops_down": how.crops_down},
    }


def _pixels(path: Path, towers: Towers) -> Any:
    from sightline.encoders.preprocess import pixels

    return pixels(read(path.read_bytes(), image_size=towers.how.reach), towers.how)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
