"""A float ONNX tower -> the same tower in 8 bits, at most a point of recall worse."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

# Activations of the first blocks span too much for 8 bits: kept float, cosine to the float tower .995 instead of .982
# and recall@10 52.2 instead of 51.3 (float 52.5), at no measurable cost in speed.
FLOAT_BLOCKS = ("first.", "blocks.0.", "blocks.1.", "blocks.2.")
FLOAT_NODES = ("vector", "projection.output", "average", "pool.score.output")


def quantize_image(source: Path, target: Path, pixels: NDArray[np.uint8]) -> None:
    """Static 8 bits for the convolutions, calibrated on `pixels` of shape (n, 3, side, side).

    Activations are unsigned and weights signed: the other pairs have no fast kernel. The linear heads keep float
    activations, since one scale for a whole vector blurs its small components; their weights are kept in 8 bits.
    """
    nodes = [node.name for node in onnx.load(source).graph.node]
    with Quiet():
        quantize_static(
            str(source),
            str(target),
            Batches(pixels),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Clip", "Add", "GlobalAveragePool"],
            nodes_to_exclude=[name for name in nodes if name.startswith(FLOAT_BLOCKS) or name in FLOAT_NODES],
            per_channel=True,
        )
    model = onnx.load(target)
    for name in ("projection.weight", "pool_projection.weight"):
        keep_weight_in_8_bits(model, name, axis=1)
    onnx.save(model, target)


def quantize_text(source: Path, target: Path) -> None:
    """Dynamic 8 bits for the linear layers; the token table in 8 bits with one scale per token."""
    with Quiet():
        quantize_dynamic(
            str(source), str(target), op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, per_channel=True
        )
    model = onnx.load(target)
    keep_table_in_8_bits(model, next(node for node in model.graph.node if node.name == "words"))
    onnx.save(model, target)


class Batches(CalibrationDataReader):
    """Feeds the calibration pictures to the quantiser, a few at a time."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.batches: Iterator[NDArray[np.uint8]] = (pixels[start : start + 8] for start in range(0, len(pixels), 8))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next few, None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


class Quiet:
    """The quantiser advises on the root logger to pre-process the graph first; ours has nothing left to fold."""

    def __enter__(self) -> None:
        logging.getLogger().addFilter(_is_news)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()


def _rounded(array: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric 8 bits along `axis`: integers, and one scale per index of that axis."""
    others = tuple(n for n in range(array.ndim) if n != axis)
    scale = np.maximum(np.abs(array).max(axis=others), 1e-12) / 127
    shape = [-1 if n == axis else 1 for n in range(array.ndim)]
    integers = np.clip(np.round(array / scale.reshape(shape)), -127, 127)
    return integers.astype(np.int8), scale.astype(np.float32)


def _pop(model: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    tensor = next(item for item in model.graph.initializer if item.name == name)
    model.graph.initializer.remove(tensor)
    return np.asarray(numpy_helper.to_array(tensor), np.float32)


def _put(model: onnx.ModelProto, name: str, axis: int) -> Sequence[str]:
    """Replaces a weight by its integers and scales; gives their names."""
    integers, scale = _rounded(_pop(model, name), axis)
    names = (f"{name}_quantized", f"{name}_scale")
    model.graph.initializer.extend(
        numpy_helper.from_array(array, key) for array, key in zip((integers, scale), names, strict=True)
    )
    return names


def keep_weight_in_8_bits(model: onnx.ModelProto, name: str, *, axis: int) -> None:
    """The runtime multiplies it out once, when it loads the graph."""
    names = _put(model, name, axis)
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", names, [name], name=f"{name}.restored", axis=axis))


def keep_table_in_8_bits(model: onnx.ModelProto, pick: onnx.NodeProto) -> None:
    """Rows are picked as integers and only those are multiplied out, so that the table stays small in memory.

    `pick` is the Gather that takes rows of the table, ids (batch, length) as its second input.
    """
    table, ids, name = pick.input[0], pick.input[1], pick.output[0]
    integers, scale = _put(model, table, 0)
    axes = f"{name}.last_axis"
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), axes))
    place = list(model.graph.node).index(pick)
    model.graph.node.remove(pick)
    nodes = [
        helper.make_node("Gather", [integers, ids], [f"{name}.integers"], name=f"{name}.integers"),
        helper.make_node(
            "Cast", [f"{name}.integers"], [f"{name}.float"], name=f"{name}.float", to=onnx.TensorProto.FLOAT
        ),
        helper.make_node("Gather", [scale, ids], [f"{name}.scale"], name=f"{name}.scale"),
        helper.make_node("Unsqueeze", [f"{name}.scale", axes], [f"{name}.scales"], name=f"{name}.scales"),
        helper.make_node("Mul", [f"{name}.float", f"{name}.scales"], [name], name=name),
    ]
    for offset, node in enumerate(nodes):
        model.graph.node.insert(place + offset, node)
