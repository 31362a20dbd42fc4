"""The weights of a tower -> its ONNX graph, node by node, so that export needs no tracer and every name is ours."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sightline.train.own.model import BOTTLENECKS, PIXEL_MEAN, PIXEL_STD, Shape

OPSET = 17  # the first with LayerNormalization; any ONNX Runtime since 1.12 runs it
Array = NDArray[np.generic]
State = Mapping[str, NDArray[np.float32]]


class GraphBuilder:
    """Collects nodes and weights; each method adds one operation and returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def weight(self, name: str, value: Array) -> str:
        """Keeps an array under a name."""
        self.weights[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def numbers(self, values: Sequence[int]) -> str:
        """Keeps integers, as shapes and axes need them."""
        return self.weight("shape_" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, name: str, value: float) -> str:
        """Keeps one number."""
        return self.weight(name, np.array(value, np.float32))

    def add(self, operation: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Adds any operation; the node is called as its output."""
        self.nodes.append(helper.make_node(operation, list(inputs), [output], name=output, **attributes))
        return output

    def linear(self, state: State, source: str, layer: str) -> str:
        """Adds `source @ weight + bias`; the weight is kept as (in, out), which MatMul reads without a transpose."""
        weight = self.weight(f"{layer}.weight", state[f"{layer}.weight"].T)
        result = self.add("MatMul", [source, weight], f"{layer}.product")
        if f"{layer}.bias" not in state:
            return result
        return self.add("Add", [result, self.weight(f"{layer}.bias", state[f"{layer}.bias"])], f"{layer}.output")

    def convolution(self, state: State, source: str, layer: str, **attributes: object) -> str:
        """Adds a convolution with bias that keeps the size but for its strides."""
        names = [self.weight(f"{layer}.{kind}", state[f"{layer}.{kind}"]) for kind in ("weight", "bias")]
        size = state[f"{layer}.weight"].shape[2]
        pads = [size // 2] * 4
        return self.add("Conv", [source, *names], f"{layer}.output", kernel_shape=[size, size], pads=pads, **attributes)

    def relu6(self, source: str) -> str:
        """Adds min(max(x, 0), 6)."""
        limits = [self.scalar("zero", 0.0), self.scalar("six", 6.0)]
        return self.add("Clip", [source, *limits], source.replace(".output", ".activated"))

    def layer_norm(self, state: State, source: str, layer: str) -> str:
        """Adds a normalisation over the last axis."""
        names = [self.weight(f"{layer}.{kind}", state[f"{layer}.{kind}"]) for kind in ("weight", "bias")]
        return self.add("LayerNormalization", [source, *names], f"{layer}.output", axis=-1, epsilon=1e-12)

    def normalised(self, source: str) -> str:
        """Divides each row by its length and names the result as the graph's output."""
        length = self.add("ReduceL2", [source], "vector_length", axes=[-1], keepdims=1)
        return self.add("Div", [source, length], "embedding")

    def model(self, name: str, graph_input: onnx.ValueInfoProto, dim: int) -> onnx.ModelProto:
        """All that was added, as a checked model with one input and the output `embedding`."""
        output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])
        graph = helper.make_graph(self.nodes, name, [graph_input], [output], list(self.weights.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="sightline")
        onnx.checker.check_model(model)
        return model


def image_graph(state: State, shape: Shape) -> onnx.ModelProto:
    """`image` uint8 (batch, 3, side, side), RGB -> `embedding` (batch, dim), rows of norm 1."""
    build = GraphBuilder()
    pixels = build.add("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
    mean = build.weight("pixel_mean", np.array(PIXEL_MEAN, np.float32).reshape(1, 3, 1, 1) * 255)
    scale = build.weight("pixel_scale", 1 / (np.array(PIXEL_STD, np.float32).reshape(1, 3, 1, 1) * 255))
    maps = build.add("Mul", [build.add("Sub", [pixels, mean], "centred"), scale], "normalised")
    maps = build.relu6(build.convolution(state, maps, "first", strides=[2, 2]))
    for n, (channels_in, channels_out, stride) in enumerate(BOTTLENECKS):
        inner = _bottleneck(build, state, maps, f"blocks.{n}", stride)
        is_residual = stride == 1 and channels_in == channels_out
        maps = build.add("Add", [maps, inner], f"blocks.{n}.output") if is_residual else inner
    maps = build.relu6(build.convolution(state, maps, "last"))
    average = build.add("GlobalAveragePool", [maps], "average")
    average = build.add("Flatten", [average], "average_row", axis=1)
    vectors = build.linear(state, average, "projection")
    attended = build.linear(state, _attention_pool(build, state, maps, shape), "pool_projection")
    build.normalised(build.add("Add", [vectors, attended], "vector"))
    side = shape.image_size
    graph_input = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, side, side])
    return build.model("image", graph_input, shape.dim)


def _bottleneck(build: GraphBuilder, state: State, maps: str, name: str, stride: int) -> str:
    maps = build.relu6(build.convolution(state, maps, f"{name}.expand"))
    channels = state[f"{name}.depthwise.weight"].shape[0]
    strides = [stride, stride]
    maps = build.relu6(build.convolution(state, maps, f"{name}.depthwise", strides=strides, group=channels))
    return build.convolution(state, maps, f"{name}.project")


def _attention_pool(build: GraphBuilder, state: State, maps: str, shape: Shape) -> str:
    """(batch, features, h, w) -> (batch, heads * width)."""
    heads = shape.pooling_heads
    width = state["pool.value.weight"].shape[0] // heads
    scores = build.convolution(state, maps, "pool.score")
    scores = build.add("Reshape", [scores, build.numbers([0, heads, -1])], "pool.places")
    weights = build.add("Softmax", [scores], "pool.weights", axis=-1)
    weights = build.add("Unsqueeze", [weights, build.numbers([3])], "pool.columns")  # (batch, heads, places, 1)
    values = build.convolution(state, maps, "pool.value")
    values = build.add("Reshape", [values, build.numbers([0, heads, width, -1])], "pool.values")
    pooled = build.add("MatMul", [values, weights], "pool.mixed")  # (batch, heads, width, 1)
    return build.add("Reshape", [pooled, build.numbers([0, heads * width])], "pool.row")


def text_graph(state: State, shape: Shape) -> onnx.ModelProto:
    """`text` int32 (batch, length), padded with `shape.pad_id` -> `embedding` (batch, dim), rows of norm 1.

    Padding is masked inside: a text has the same vector alone and beside longer ones.
    """
    build = GraphBuilder()
    is_pad = build.add("Equal", ["text", build.weight("pad_id", np.array(shape.pad_id, np.int32))], "is_pad")
    pad = build.add("Cast", [is_pad], "pad", to=TensorProto.FLOAT)
    hidden = build.add("Mul", [pad, build.scalar("mask_value", -1e4)], "hidden_places")
    mask = build.add("Unsqueeze", [hidden, build.numbers([1, 2])], "mask")  # (batch, 1, 1, length)
    tokens = build.layer_norm(state, _token_sum(build, state), "norm")
    for n in range(shape.layers):
        tokens = _text_layer(build, state, tokens, mask, f"layers.{n}", shape)
    sentence = _masked_mean(build, tokens, pad)
    build.normalised(build.linear(state, sentence, "projection"))
    graph_input = helper.make_tensor_value_info("text", TensorProto.INT32, ["batch", "length"])
    return build.model("text", graph_input, shape.dim)


def _token_sum(build: GraphBuilder, state: State) -> str:
    words = build.add("Gather", [build.weight("words.weight", state["words.weight"]), "text"], "words")
    table = build.weight("positions.weight", state["positions.weight"])
    sizes = build.add("Shape", ["text"], "sizes")
    length = build.add("Slice", [sizes, build.numbers([1]), build.numbers([2])], "length")
    positions = build.add("Slice", [table, build.numbers([0]), length, build.numbers([0])], "positions")
    return build.add("Add", [words, positions], "tokens")


def _text_layer(build: GraphBuilder, state: State, tokens: str, mask: str, name: str, shape: Shape) -> str:
    heads, width = shape.heads, shape.hidden // shape.heads
    parts = build.linear(state, tokens, f"{name}.attend")
    parts = build.add("Reshape", [parts, build.numbers([0, 0, 3, heads, width])], f"{name}.parts")
    parts = build.add("Transpose", [parts], f"{name}.turned", perm=[2, 0, 3, 1, 4])
    query, key, value = (
        build.add("Gather", [parts, build.weight(f"index_{n}", np.array(n, np.int64))], f"{name}.{part}", axis=0)
        for n, part in enumerate(("query", "key", "value"))
    )  # each (batch, heads, length, width)
    key = build.add("Transpose", [key], f"{name}.key_columns", perm=[0, 1, 3, 2])
    scores = build.add("MatMul", [query, key], f"{name}.scores")
    scores = build.add("Mul", [scores, build.scalar("sharpness", width**-0.5)], f"{name}.scaled")
    weights = build.add("Softmax", [build.add("Add", [scores, mask], f"{name}.masked")], f"{name}.weights", axis=-1)
    mixed = build.add("MatMul", [weights, value], f"{name}.mixed")
    mixed = build.add("Transpose", [mixed], f"{name}.mixed_rows", perm=[0, 2, 1, 3])
    mixed = build.add("Reshape", [mixed, build.numbers([0, 0, shape.hidden])], f"{name}.joined")
    tokens = build.add("Add", [tokens, build.linear(state, mixed, f"{name}.attended")], f"{name}.attended_sum")
    tokens = build.layer_norm(state, tokens, f"{name}.attended_norm")
    wide = _gelu(build, build.linear(state, tokens, f"{name}.widen"), name)
    tokens = build.add("Add", [tokens, build.linear(state, wide, f"{name}.narrow")], f"{name}.narrow_sum")
    return build.layer_norm(state, tokens, f"{name}.narrow_norm")


def _gelu(build: GraphBuilder, source: str, name: str) -> str:
    """X * (1 + erf(x / sqrt 2)) / 2, in the form that ONNX Runtime fuses into one kernel."""
    scaled = build.add("Div", [source, build.scalar("root_two", 2**0.5)], f"{name}.gelu_scaled")
    curve = build.add("Erf", [scaled], f"{name}.gelu_curve")
    lifted = build.add("Add", [curve, build.scalar("one", 1.0)], f"{name}.gelu_lifted")
    product = build.add("Mul", [source, lifted], f"{name}.gelu_product")
    return build.add("Mul", [product, build.scalar("half", 0.5)], f"{name}.gelu")


def _masked_mean(build: GraphBuilder, tokens: str, pad: str) -> str:
    """(batch, length, hidden) -> (batch, hidden): the mean over what is not padding."""
    kept = build.add("Sub", [build.scalar("one", 1.0), pad], "kept")
    weights = build.add("Unsqueeze", [kept, build.numbers([2])], "kept_columns")
    axis = build.numbers([1])
    total = build.add("ReduceSum", [build.add("Mul", [tokens, weights], "kept_tokens"), axis], "total", keepdims=0)
    count = build.add("ReduceSum", [weights, axis], "count", keepdims=0)
    return build.add("Div", [total, count], "sentence")
