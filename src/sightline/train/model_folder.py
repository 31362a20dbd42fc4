"""A model folder in the open_clip ONNX layout, written from torch modules by tracing, in 32, 16 or 8 bits."""

import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from torch import Tensor, nn

from sightline.encoders.torch.libraries import quietly
from sightline.encoders.torch.towers import Documents
from sightline.errors import TrainingError, summary
from sightline.train.config import Precision

OPSET = 17  # the first with LayerNormalization; any ONNX Runtime since 1.12 runs it
LARGEST_BYTES = 1 << 30  # a protobuf ends at 2 GiB; beyond this the weights lie beside the graph
TABLE_ROWS = 1000  # a Gather from fewer rows is no token table
BESIDE = "model.onnx.data"
EXAMPLE_TOKENS = 12  # of the texts that the tracer sees
Batch = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sides:
    """What a folder is written from. `image` takes pixels of 0 to 255, (n, 3, height, width), `text` token ids.

    Both give unit vectors, (n, dim). Where texts need no padding to the full `context_length`, `has_free_length` holds;
    `takes_mask` says that `text` also wants to know which ids are no padding.
    """

    image: nn.Module
    text: nn.Module | None
    documents: Documents
    scores: Mapping[str, float]
    """`logit_scale` and `logit_bias`, as far as the model has them."""
    context_length: int = 0
    has_free_length: bool = False
    takes_mask: bool = False
    keeps_names: bool = False
    """Whether every weight can be found again in the graph, so that it can be trained further from there."""
    is_float: Callable[[str], bool] = lambda node: False
    """Which nodes of a convolutional image tower, by name, stay float in 8 bits."""


def write_folder(
    sides: Sides,
    folder: Path,
    precision: Precision,
    *,
    calibration: Batch | None = None,
    image_tower_of: Path | None = None,
) -> None:
    """Writes both towers and the documents into `folder`; other files in it stay.

    The batch is free, and the length of texts where `has_free_length`. `calibration`, pixels of pictures, is for 8 bits
    of a convolutional image tower. `image_tower_of` is a model folder whose image tower is taken over byte for byte.
    """
    with filled(folder) as work:
        if image_tower_of is None:
            config = sides.documents.preprocessing
            pixels = {"image": torch.zeros((2, 3, config.height, config.width), dtype=torch.uint8)}
            graph = traced(sides.image, pixels, {0: "batch"}, work, keeps_names=sides.keeps_names)
            _write_graph(graph, work / "visual" / "model.onnx", precision, calibration, is_float=sides.is_float)
        else:
            for path in sorted((image_tower_of / "visual").iterdir()):
                if path.is_file():
                    shutil.copy(path, work / "visual" / path.name)
        if sides.text is not None:
            length = min(sides.context_length, EXAMPLE_TOKENS) if sides.has_free_length else sides.context_length
            ids = torch.ones((2, length), dtype=torch.int64 if sides.takes_mask else torch.int32)
            texts = {"text": ids, "attention_mask": torch.ones_like(ids)} if sides.takes_mask else {"text": ids}
            axes = {0: "batch", 1: "length"} if sides.has_free_length else {0: "batch"}
            graph = traced(sides.text, texts, axes, work, keeps_names=sides.keeps_names)
            _write_graph(graph, work / "textual" / "model.onnx", precision)
        ours = {**sides.documents.config.get("sightline", {}), "precision": precision, "pixels": "uint8"}
        sides.documents.write(work, {**sides.scores, "sightline": ours})


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A work folder with places for both towers, whose files end up in `folder`; other files in it stay.

    They are moved when all are there, so that a reader never meets a half-written file. Raises `TrainingError` when
    they cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            work = Path(name)
            for tower in ("visual", "textual"):
                (work / tower).mkdir()
            yield work
            move_into(folder, work)
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written ({error.strerror or error}): expected room for the model; "
            "free some, or choose another folder, and run the same command again"
        ) from error


def move_into(folder: Path, work: Path) -> None:
    """Moves every file of `work` to its place in `folder`, graphs last."""
    for path in sorted(work.rglob("*"), key=lambda path: (path.suffix == ".onnx", path)):
        if path.is_file():
            target = folder / path.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def traced(
    module: nn.Module, examples: Mapping[str, Tensor], axes: Mapping[int, str], work: Path, *, keeps_names: bool = False
) -> onnx.ModelProto:
    """The graph of a tower from its inputs, by name, to `embedding`; `axes` names those of their sides that are free.

    `keeps_names` lets every weight be found again under its name in the module, those of linear layers as (in, out).
    """
    name = next(iter(examples))
    folder = work / f"{name}.traced"
    folder.mkdir()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # the tracer speaks of itself and of every size that it takes for a constant; parity is measured
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                tuple(examples.values()),
                str(folder / "graph"),
                input_names=list(examples),
                output_names=["embedding"],
                opset_version=OPSET,
                dynamic_axes={**{key: dict(axes) for key in examples}, "embedding": {0: axes[0]}},
                do_constant_folding=not keeps_names,
                dynamo=False,
            )
    except Exception as error:  # the tracer raises of every kind
        raise TrainingError(
            f"the {name} tower cannot be written as ONNX ({type(error).__name__}: {summary(error, 300)}): expected "
            "operators that torch can export; choose another architecture"
        ) from error
    graph = onnx.load(folder / "graph")
    shutil.rmtree(folder)  # the graph, and its weights where they were too many for one file
    if keeps_names:
        _name_weights(graph)
    return graph


def _write_graph(
    graph: onnx.ModelProto,
    path: Path,
    precision: Precision,
    calibration: Batch | None = None,
    *,
    is_float: Callable[[str], bool] = lambda node: False,
) -> None:
    """Writes one tower at the precision that is asked for.

    8 bits are dynamic for a transformer and static for a convolutional net, for which `calibration`, pictures of shape
    (n, 3, height, width), is needed; nodes of that net for whose name `is_float` holds stay as they are.
    """
    if precision == "float16":  # weights and arithmetic, not inputs and outputs; for GPUs: a CPU computes in 32 bits
        from onnxruntime.transformers.float16 import convert_float_to_float16

        graph = convert_float_to_float16(graph, keep_io_types=True)
    if precision != "int8":
        _save(graph, path)
        return
    exact = path.with_name("exact.onnx")
    _save(graph, exact)
    operations = Counter(node.op_type for node in graph.graph.node)
    with quietly():
        if operations["Conv"] > operations["MatMul"] + operations["Gemm"]:
            _quantize_convolutions(graph, exact, path, calibration, is_float)
        else:
            _quantize_linears(graph, exact, path)
    for stale in path.parent.glob("exact*"):
        stale.unlink()


def _name_weights(graph: onnx.ModelProto) -> None:
    """Gives every weight its own name and place: equal ones are kept once by the tracer, linear ones are turned."""
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in [node for node in graph.graph.node if node.op_type == "Identity" and node.input[0] in weights]:
        copy = numpy_helper.from_array(numpy_helper.to_array(weights[node.input[0]]), node.output[0])
        graph.graph.node.remove(node)
        graph.graph.initializer.append(copy)
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    turned = {
        node.output[0]: node for node in graph.graph.node if node.op_type == "Transpose" and node.input[0] in weights
    }
    for node in graph.graph.node:
        if node.op_type == "Gemm" and _is_turned(node):
            _turn(weights[node.input[1]])
            next(attribute for attribute in node.attribute if attribute.name == "transB").i = 0
        for place, name in enumerate(node.input):
            if name in turned:
                node.input[place] = turned[name].input[0]
    for node in turned.values():
        _turn(weights[node.input[0]])
        graph.graph.node.remove(node)


def _turn(tensor: onnx.TensorProto) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor).T), tensor.name))


def _save(graph: onnx.ModelProto, path: Path) -> None:
    """Writes a graph; the weights of a large one beside it."""
    if graph.ByteSize() > LARGEST_BYTES:
        onnx.save(graph, path, save_as_external_data=True, location=BESIDE)
    else:
        onnx.save(graph, path)


def _quantize_linears(graph: onnx.ModelProto, exact: Path, target: Path) -> None:
    """Dynamic. Convolutions of a transformer (the patches) keep float: dynamic 8 bits has no fast kernel for them."""
    options: dict[str, Any] = {"op_types_to_quantize": ["MatMul"], "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_dynamic(exact, target, use_external_data_format=graph.ByteSize() > LARGEST_BYTES, **options)
    rounded = onnx.load(target)
    rows = {tensor.name: tensor.dims[0] for tensor in rounded.graph.initializer if len(tensor.dims) == 2}
    picks = [
        node for node in rounded.graph.node if node.op_type == "Gather" and rows.get(node.input[0], 0) > TABLE_ROWS
    ]
    for pick in picks:  # the token table, most of a text tower's bytes
        _keep_table_in_8_bits(rounded, pick)
    if picks:
        for stale in target.parent.glob("*.data"):
            stale.unlink()
        _save(rounded, target)


def _quantize_convolutions(
    graph: onnx.ModelProto, exact: Path, target: Path, calibration: Batch | None, is_float: Callable[[str], bool]
) -> None:
    """Static. Weights are signed and activations unsigned: the other pairs have no fast kernel.

    Linear layers keep float activations, since one scale for a whole vector blurs its small components; their weights
    are kept in 8 bits.
    """
    if calibration is None:
        raise TrainingError(
            "the image tower is convolutional, and its 8 bits need pictures to measure ranges on: expected --pictures; "
            "give some dozens like those to be searched"
        )
    quantize_static(
        exact,
        target,
        _Batches(calibration),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Relu", "Clip", "Add", "AveragePool", "GlobalAveragePool"],
        nodes_to_exclude=[node.name for node in graph.graph.node if is_float(node.name)],
        per_channel=True,
    )
    rounded = onnx.load(target)
    weights = {tensor.name for tensor in rounded.graph.initializer if len(tensor.dims) == 2}
    layers = {
        node.input[1]: 0 if _is_turned(node) else 1  # the axis of the results
        for node in rounded.graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights
    }
    for name, axis in layers.items():  # the runtime multiplies them out once, when it loads the graph
        names = _put_rounded(rounded, name, axis)
        node = helper.make_node("DequantizeLinear", names, [name], name=f"{name}.restored", axis=axis)
        rounded.graph.node.insert(0, node)
    _save(rounded, target)


def _is_turned(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
    """Feeds the calibration pictures to the quantiser, a few at a time."""

    def __init__(self, pixels: Batch) -> None:
        self.batches: Iterator[Batch] = (pixels[start : start + 8] for start in range(0, len(pixels), 8))

    def get_next(self) -> dict[str, Batch] | None:
        """The next few, None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def _keep_table_in_8_bits(model: onnx.ModelProto, pick: onnx.NodeProto) -> None:
    """Rows are picked as integers and only those are multiplied out, so that the table stays small in memory.

    `pick` is the Gather that takes rows of the table, ids (batch, length) as its second input.
    """
    table, ids, name = pick.input[0], pick.input[1], pick.output[0]
    integers, scale = _put_rounded(model, table, 0)
    axes = f"{name}.last_axis"
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), axes))
    place = list(model.graph.node).index(pick)
    model.graph.node.remove(pick)
    steps = (
        ("Gather", [integers, ids], f"{name}.integers"),
        ("Cast", [f"{name}.integers"], f"{name}.float"),
        ("Gather", [scale, ids], f"{name}.scale"),
        ("Unsqueeze", [f"{name}.scale", axes], f"{name}.scales"),
        ("Mul", [f"{name}.float", f"{name}.scales"], name),
    )
    for offset, (operation, inputs, output) in enumerate(steps):
        options: dict[str, Any] = {"to": onnx.TensorProto.FLOAT} if operation == "Cast" else {}
        model.graph.node.insert(place + offset, helper.make_node(operation, inputs, [output], name=output, **options))


def _put_rounded(model: onnx.ModelProto, name: str, axis: int) -> tuple[str, str]:
    """Replaces a weight by symmetric 8-bit integers and one scale for each index of `axis`; gives their names."""
    tensor = next(item for item in model.graph.initializer if item.name == name)
    model.graph.initializer.remove(tensor)
    array = np.asarray(numpy_helper.to_array(tensor), np.float32)
    others = tuple(n for n in range(array.ndim) if n != axis)
    scale = (np.maximum(np.abs(array).max(axis=others, keepdims=True), 1e-12) / 127).astype(np.float32)
    integers = np.clip(np.round(array / scale), -127, 127).astype(np.int8)
    names = f"{name}_quantized", f"{name}_scale"
    for key, values in zip(names, (integers, scale.reshape(-1)), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(values, key))
    return names
