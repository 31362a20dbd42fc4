"""A CLIP in torch -> a folder in the open_clip ONNX layout, by tracing, in 32, 16 or 8 bits."""

import copy
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from sightline.encoders.torch.libraries import quietly
from sightline.errors import TrainingError
from sightline.train.clips.documents import Documents
from sightline.train.clips.towers import Clip
from sightline.train.config import Precision
from sightline.train.export.folder import filled, take_image_tower
from sightline.train.export.precision import halved, quantize_traced, save

OPSET = 17  # the first with LayerNormalization; any ONNX Runtime since 1.12 runs it
Batch = NDArray[np.uint8]


def export_clip(
    model: Clip,
    documents: Documents,
    folder: Path,
    precision: Precision,
    *,
    calibration: Batch | None = None,
    image_tower_of: Path | None = None,
) -> None:
    """Writes both towers and the documents into `folder`; other files in it stay.

    The batch is free, and so is the length of texts where the text tower is causal; else it is the model's full length.
    Pixels come in as uint8, (n, 3, height, width). `calibration`, such pixels, is for 8 bits of a convolutional image
    tower. `image_tower_of` is a model folder whose image tower is taken over byte for byte.
    """
    twin = copy.deepcopy(model).cpu().float().eval()
    with filled(folder) as work:
        if image_tower_of is None:
            write_graph(image_graph(twin, work), work / "visual" / "model.onnx", precision, calibration)
        else:
            take_image_tower(image_tower_of, work)
        write_graph(text_graph(twin, work), work / "textual" / "model.onnx", precision, None)
        write_documents(twin, documents, work, precision)


def write_documents(model: Clip, documents: Documents, work: Path, precision: Precision) -> None:
    """The JSON files, with what the weights say of scores."""
    scale = {"logit_scale": math.exp(float(model.log_scale.detach()))}
    bias = {"logit_bias": float(model.bias.detach())} if model.has_bias else {}
    documents.write(work, {**scale, **bias, "sightline": {"precision": precision, "pixels": "uint8"}})


def write_graph(graph: onnx.ModelProto, path: Path, precision: Precision, calibration: Batch | None) -> None:
    """One tower at the precision that is asked for."""
    if precision == "int8":
        exact = path.with_name("exact.onnx")
        save(graph, exact)
        quantize_traced(exact, path, calibration)
        for stale in path.parent.glob("exact*"):
            stale.unlink()
    else:
        save(halved(graph) if precision == "float16" else graph, path)


def image_graph(model: Clip, work: Path) -> onnx.ModelProto:
    """`image` uint8 (batch, 3, height, width), RGB -> `embedding` (batch, dim), rows of norm 1."""
    pixels = torch.zeros((2, 3, model.shape.height, model.shape.width), dtype=torch.uint8)
    return traced(model.image, {"image": pixels}, {"image": {0: "batch"}}, work)


def text_graph(model: Clip, work: Path) -> onnx.ModelProto:
    """`text` int32 (batch, length) -> `embedding` (batch, dim), rows of norm 1. An adapter of zeros is taken out."""
    shape = model.shape
    ids = torch.ones((2, shape.context_length), dtype=torch.int32)
    side = model.text
    if not side.adapter.weight.any():
        side.adapter = _Nothing()
    axes = {0: "batch", 1: "length"} if shape.is_causal else {0: "batch"}
    return traced(side, {"text": ids}, {"text": axes}, work)


class _Nothing(nn.Module):
    """The adapter that adds nothing."""

    def forward(self, vectors: torch.Tensor) -> float:
        return 0.0


def traced(
    module: nn.Module, examples: Mapping[str, torch.Tensor], axes: Mapping[str, dict[int, str]], work: Path
) -> onnx.ModelProto:
    """The graph of a tower from its inputs, by name, to `embedding`; `axes` says which of their sides are free."""
    name = next(iter(examples))
    with torch.no_grad(), quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every size that it takes for a constant
        path = work / f"{name}.traced"
        try:
            torch.onnx.export(
                module.eval(),
                tuple(examples.values()),
                str(path),
                input_names=list(examples),
                output_names=["embedding"],
                opset_version=OPSET,
                dynamic_axes={**axes, "embedding": {0: "batch"}},
                dynamo=False,
            )
        except Exception as error:  # the tracer raises of every kind
            first = str(error).strip().partition("\n")[0][:300]
            raise TrainingError(
                f"the {name} tower cannot be written as ONNX ({type(error).__name__}: {first}): expected operators "
                "that torch can export; choose another architecture"
            ) from error
    graph = onnx.load(path)
    for stale in work.iterdir():
        if stale.is_file():
            stale.unlink()  # the graph, and its weights where they were too many for one file
    return graph
