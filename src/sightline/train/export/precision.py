"""A float ONNX graph that a tracer wrote -> the same graph in 16 or 8 bits."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

from sightline.errors import TrainingError
from sightline.train.export.quantize import Batches, Quiet, keep_table_in_8_bits, keep_weight_in_8_bits

LARGEST_BYTES = 1 << 30  # a protobuf ends at 2 GiB; beyond this the weights lie beside the graph
TABLE_ROWS = 1000  # a Gather from fewer rows is no token table
BESIDE = "model.onnx.data"


def halved(graph: onnx.ModelProto) -> onnx.ModelProto:
    """16-bit weights and arithmetic; inputs and outputs stay as they are. For GPUs: a CPU computes in 32 bits."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model: onnx.ModelProto = convert_float_to_float16(graph, keep_io_types=True)
    return model


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Writes a graph; the weights of a large one beside it."""
    if graph.ByteSize() > LARGEST_BYTES:
        onnx.save(graph, path, save_as_external_data=True, location=BESIDE)
    else:
        onnx.save(graph, path)


def quantize_traced(source: Path, target: Path, calibration: NDArray[np.uint8] | None) -> None:
    """8 bits: dynamic for a transformer, static for a convolutional net, for which it needs `calibration` pictures.

    Weights are signed and activations unsigned: the other pairs have no fast kernel. Convolutions of a transformer (the
    patches) keep float: dynamic 8 bits has no fast kernel for them.
    """
    graph = onnx.load(source)
    if _count(graph, "Conv") > _count(graph, "MatMul", "Gemm"):
        _quantize_convolutions(source, target, calibration)
        return
    options: dict[str, Any] = {"op_types_to_quantize": ["MatMul"], "weight_type": QuantType.QInt8, "per_channel": True}
    with Quiet():
        quantize_dynamic(source, target, use_external_data_format=graph.ByteSize() > LARGEST_BYTES, **options)
    _shrink_tables(target)


def _count(graph: onnx.ModelProto, *operations: str) -> int:
    return sum(node.op_type in operations for node in graph.graph.node)


def _quantize_convolutions(source: Path, target: Path, calibration: NDArray[np.uint8] | None) -> None:
    if calibration is None:
        raise TrainingError(
            "the image tower is convolutional, and its 8 bits need pictures to measure ranges on: expected --pictures; "
            "give some dozens like those to be searched"
        )
    with Quiet():
        quantize_static(
            source,
            target,
            Batches(calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu", "Add", "AveragePool", "GlobalAveragePool"],
            per_channel=True,
        )
    _shrink_heads(target)


def _shrink_heads(path: Path) -> None:
    """The weights of linear layers in 8 bits, their activations float: one scale blurs small components."""
    graph = onnx.load(path)
    weights = {tensor.name for tensor in graph.graph.initializer if len(tensor.dims) == 2}
    layers = {
        node.input[1]: 0 if _is_turned(node) else 1  # the axis of the results
        for node in graph.graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights
    }
    for name, axis in layers.items():
        keep_weight_in_8_bits(graph, name, axis=axis)
    save(graph, path)


def _is_turned(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _shrink_tables(path: Path) -> None:
    """The token table, most of a text tower's bytes, in 8 bits with a scale for each token."""
    graph = onnx.load(path)
    rows = {tensor.name: tensor.dims[0] for tensor in graph.graph.initializer if len(tensor.dims) == 2}
    picks = [node for node in graph.graph.node if node.op_type == "Gather" and rows.get(node.input[0], 0) > TABLE_ROWS]
    for pick in picks:
        keep_table_in_8_bits(graph, pick)
    if picks:
        for stale in path.parent.glob("*.data"):
            stale.unlink()
        save(graph, path)
