"""A trained model -> a folder in the open_clip ONNX layout, in float or in 8 bits."""

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from sightline.train.config import Precision
from sightline.train.graph import image_graph, text_graph
from sightline.train.model import PIXEL_MEAN, PIXEL_STD, Shape, TwoTowers
from sightline.train.quantize import quantize_image, quantize_text


def export(
    model: TwoTowers,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    calibration: NDArray[np.uint8] | None = None,
    image_tower_of: Path | None = None,
) -> None:
    """Writes both towers, tokenizer and configuration into `folder`; other files in it stay.

    With `calibration`, pictures of shape (n, 3, side, side), the towers are written in 8 bits: the image tower
    static, activations unsigned and weights signed (other pairs have no fast kernel); the text tower dynamic.
    `image_tower_of` is a model folder whose image tower is taken over byte for byte, where it was frozen.
    The folder is filled at the end by moves, so that a reader never meets a half-written file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        for part in ("visual", "textual"):
            (work / part).mkdir()
        if image_tower_of is None:
            _write_image_tower(model, work, calibration)
        else:
            shutil.copy(image_tower_of / "visual" / "model.onnx", work / "visual" / "model.onnx")
        _write_text_tower(model, work, is_int8=calibration is not None)
        _write_configuration(model, tokenizer, work, "float32" if calibration is None else "int8")
        for file in sorted(work.rglob("*.json")) + sorted(work.rglob("*.onnx")):
            target = folder / file.relative_to(work)
            target.parent.mkdir(exist_ok=True)
            file.replace(target)


def _write_image_tower(model: TwoTowers, work: Path, calibration: NDArray[np.uint8] | None) -> None:
    target, exact = work / "visual" / "model.onnx", work / "image.float"
    onnx.save(image_graph(state_of(model.image), model.shape), exact)
    if calibration is None:
        exact.rename(target)
    else:
        quantize_image(exact, target, calibration)


def _write_text_tower(model: TwoTowers, work: Path, *, is_int8: bool) -> None:
    target, exact = work / "textual" / "model.onnx", work / "text.float"
    onnx.save(text_graph(state_of(model.text), model.shape), exact)
    if is_int8:
        quantize_text(exact, target)
    else:
        exact.rename(target)


def state_of(tower: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The weights of a tower as arrays by name."""
    return {name: value.detach().float().cpu().numpy() for name, value in tower.state_dict().items()}


def _write_configuration(model: TwoTowers, tokenizer: Tokenizer, work: Path, precision: Precision) -> None:
    tokenizer.save(str(work / "textual" / "tokenizer.json"))
    documents = {
        "config.json": _config(model.shape, float(model.log_scale.detach().exp()), precision),
        "visual/preprocess_cfg.json": _preprocessing(model.shape),
        "textual/tokenizer_config.json": _tokenizer_config(model.shape),
    }
    for name, document in documents.items():
        (work / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _config(shape: Shape, logit_scale: float, precision: Precision) -> dict[str, Any]:
    return {
        "embed_dim": shape.dim,
        "vision_cfg": {"image_size": shape.image_size, "architecture": "mobilenetv2_100"},
        "text_cfg": {
            "context_length": shape.context_length,
            "vocab_size": shape.vocabulary_size,
            "width": shape.hidden,
            "heads": shape.heads,
            "layers": shape.layers,
            "pad_id": shape.pad_id,
            "masks_padding": True,
        },
        "logit_scale": logit_scale,
        "sightline": {"precision": precision, "pixels": "uint8", "shape": asdict(shape)},
    }


def _preprocessing(shape: Shape) -> dict[str, Any]:
    """In open_clip's keys. The graph takes uint8 pixels and holds mean and deviation itself."""
    return {
        "size": [shape.image_size, shape.image_size],
        "mode": "RGB",
        "mean": PIXEL_MEAN,
        "std": PIXEL_STD,
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "fill_color": 0,
    }


def _tokenizer_config(shape: Shape) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.context_length,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "do_lower_case": True,
    }
