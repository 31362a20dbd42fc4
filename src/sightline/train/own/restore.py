"""A model folder that `export` wrote, 8-bit too -> the trainable model again.

An 8-bit weight is scale times integer, so the float weights come back within half a step of what was trained;
a model of 20 MB therefore needs no second copy of 80 MB to be trained further.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from tokenizers import Tokenizer
from torch import Tensor, nn

from sightline.errors import ModelDamaged, ModelNotFound
from sightline.train.own.model import Shape, TwoTowers

Array = NDArray[Any]
TABLES = ("words.", "positions.")  # kept as they are: rows are picked, not multiplied


def restore(folder: Path, *, dropout: float = 0.0) -> tuple[TwoTowers, Tokenizer]:
    """The model in `folder` and its tokenizer. Raises `ModelNotFound` or `ModelDamaged`."""
    config = _config(folder)
    shape = Shape(**config["sightline"]["shape"])
    model = TwoTowers(shape, dropout)
    for tower, part in ((model.image, "visual"), (model.text, "textual")):
        _load(tower, folder / part / "model.onnx")
    model.log_scale.data.fill_(float(np.log(config["logit_scale"])))
    return model, Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelNotFound(f"{folder} holds no model: expected {path.name} in it; give a folder that export wrote")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "shape" not in config.get("sightline", {}):
        raise ModelNotFound(
            f"{folder} cannot be trained: expected a model of this program; start from mini, open_clip: or hf:"
        )
    return config


def _load(tower: nn.Module, path: Path) -> None:
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    state = {name: _weight(weights, name, value) for name, value in tower.state_dict().items()}
    missing = [name for name, value in state.items() if value is None]
    if missing:
        raise ModelDamaged(f"{path} lacks {missing[0]}: expected every weight of the tower; fetch the model again")
    tower.load_state_dict({name: value for name, value in state.items() if value is not None})


def _weight(weights: Mapping[str, Array], name: str, like: Tensor) -> Tensor | None:
    """One weight in float and in torch's order: linear layers are (in, out) in the graph and (out, in) here."""
    array = weights.get(name)
    if array is None:
        array = _dequantised(weights, name)
    if array is None:
        return None
    if like.ndim == 2 and not name.startswith(TABLES):
        array = array.T
    return torch.from_numpy(np.array(array, np.float32)) if array.shape == tuple(like.shape) else None


def _dequantised(weights: Mapping[str, Array], name: str) -> Array | None:
    """(integer - zero point) * scale. Channels come first, but last in the (in, out) matrices of linear layers."""
    integers = weights.get(f"{name}_quantized")
    scale = next((weights[key] for key in (f"{name}_scale", f"{name}_quantized_scale") if key in weights), None)
    if integers is None or scale is None:
        return None
    zero = next(
        (weights[key] for key in (f"{name}_zero_point", f"{name}_quantized_zero_point") if key in weights), None
    )
    axis = -1 if integers.ndim == 2 and not name.startswith(TABLES) else 0
    centred = integers.astype(np.float64)
    if zero is not None:
        centred = centred - _along(zero.astype(np.float64), axis, integers.ndim)
    return np.asarray(centred * _along(scale, axis, integers.ndim), np.float32)


def _along(values: Array, axis: int, ndim: int) -> Array:
    """Per-channel values, or one for all, shaped to be multiplied along `axis` of an array with `ndim` axes."""
    if values.size == 1:
        return values.reshape(())
    return values if axis == -1 else values.reshape(-1, *[1] * (ndim - 1))
