"""A trained model -> a folder in the open_clip ONNX layout, in float or in 8 bits."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from sightline.errors import TrainingError
from sightline.train.config import Precision
from sightline.train.export.folder import filled, take_image_tower
from sightline.train.export.precision import halved
from sightline.train.export.quantize import quantize_image, quantize_text
from sightline.train.own.graph import image_graph, text_graph
from sightline.train.own.model import PIXEL_MEAN, PIXEL_STD, Shape, TwoTowers


def export(
    model: TwoTowers,
    tokenizer: Tokenizer,
    folder: Path,
    precision: Precision = "float32",
    *,
    calibration: NDArray[np.uint8] | None = None,
    image_tower_of: Path | None = None,
) -> None:
    """Writes both towers, tokenizer and configuration into `folder`; other files in it stay.

    In 8 bits the image tower is static, activations unsigned and weights signed (other pairs have no fast kernel), for
    which it needs `calibration`, pictures of shape (n, 3, side, side); the text tower is dynamic.
    `image_tower_of` is a model folder whose image tower is taken over byte for byte, where it was frozen.
    """
    with filled(folder) as work:
        if image_tower_of is None:
            _write_image_tower(model, work, precision, calibration)
        else:
            take_image_tower(image_tower_of, work)
        _write_text_tower(model, work, precision)
        _write_configuration(model, tokenizer, work, precision)


def _write_image_tower(
    model: TwoTowers, work: Path, precision: Precision, calibration: NDArray[np.uint8] | None
) -> None:
    target, graph = work / "visual" / "model.onnx", image_graph(state_of(model.image), model.shape)
    if precision == "int8":
        if calibration is None:
            raise TrainingError("int8 was asked for without pictures: expected some to measure ranges on; give them")
        onnx.save(graph, work / "image.float")
        quantize_image(work / "image.float", target, calibration)
        (work / "image.float").unlink()
    else:
        onnx.save(halved(graph) if precision == "float16" else graph, target)


def _write_text_tower(model: TwoTowers, work: Path, precision: Precision) -> None:
    target, graph = work / "textual" / "model.onnx", text_graph(state_of(model.text), model.shape)
    if precision == "int8":
        onnx.save(graph, work / "text.float")
        quantize_text(work / "text.float", target)
        (work / "text.float").unlink()
    else:
        onnx.save(halved(graph) if precision == "float16" else graph, target)


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
