"""Writes tests/data/graphs: towers of a few operators, each with one peculiarity that published exports have.

Run in an environment with the train extra: python -m tests.parity.make_graphs
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GRAPHS = Path(__file__).parents[1] / "data" / "graphs"
SIDE, DIM, LENGTH = 4, 4, 24
FLOAT, HALF, INT32, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64
CHANCE = np.random.default_rng(0)


def main() -> None:
    """Write every graph anew."""
    GRAPHS.mkdir(parents=True, exist_ok=True)
    for kind, name in ((FLOAT, "visual-float"), (HALF, "visual-half")):
        write(name, [picture(kind)], [("image_embedding", kind, ["n", DIM])], flat_product(kind))
    outputs = [("last_hidden_state", FLOAT, ["n", 3, 16]), ("probabilities", FLOAT, ["n", 2])]
    write(
        "visual-several-outputs",
        [picture(FLOAT)],
        [*outputs, ("image_embedding", FLOAT, ["n", DIM])],
        [
            node("Reshape", ["image", whole("rows", [0, 3, 16])], "last_hidden_state"),
            *flat_product(FLOAT),
            node(
                "Slice", ["image_embedding", whole("from", [0]), whole("to", [2]), whole("axis", [1])], "probabilities"
            ),
        ],
    )
    write(
        "visual-not-a-number",
        [picture(FLOAT)],
        [("image_embedding", FLOAT, ["n", DIM])],
        [
            *flat_product(FLOAT, "product"),
            node("Sub", ["product", "product"], "zero"),
            node("Div", ["zero", "zero"], "image_embedding"),
        ],
    )
    write("visual-dynamic-int8", [picture(FLOAT)], [("image_embedding", FLOAT, ["n", DIM])], dynamic_product())
    masked = [node("Cast", ["attention_mask"], "mask", to=FLOAT), node("Unsqueeze", ["mask", whole("last", [2])], "m")]
    masked += [node("Mul", ["waves", "m"], "kept"), node("Cast", ["token_type_ids"], "unused", to=FLOAT)]
    inputs = [ids(INT64), ("attention_mask", INT64, ["n", "l"]), ("token_type_ids", INT64, ["n", "l"])]
    write("textual-with-mask", inputs, TEXTS, [*waves(), *masked, *summed("kept")])
    write("textual-sees-padding", [ids(INT32)], TEXTS, [*waves(), *summed("waves")])
    places = [node("Mul", ["waves", ramp("places")], "placed")]
    write("textual-only-whole", [ids(INT32)], TEXTS, [*waves(), *places, *summed("placed")])


def picture(kind: int) -> tuple[str, int, list[Any]]:
    return ("image", kind, ["n", 3, SIDE, SIDE])


def ids(kind: int) -> tuple[str, int, list[Any]]:
    return ("input_ids", kind, ["n", "l"])


TEXTS = [("text_embedding", FLOAT, ["n", DIM])]


def flat_product(kind: int, result: str = "image_embedding") -> list[Any]:
    """(n, 3, side, side) -> (n, dim)."""
    size = 3 * SIDE * SIDE
    return [node("Flatten", ["image"], "flat"), node("MatMul", ["flat", part("weights", (size, DIM), kind)], result)]


def dynamic_product() -> list[Any]:
    """The same in 8 bits, as onnxruntime's dynamic quantisation writes it: the scale is that of the whole batch."""
    size = 3 * SIDE * SIDE
    weights = CHANCE.integers(-127, 128, (size, DIM)).astype(np.int8)
    _constants.append(numpy_helper.from_array(weights, "weights"))
    quantise = helper.make_node("DynamicQuantizeLinear", ["flat"], ["bytes", "scale", "zero"])
    return [
        node("Flatten", ["image"], "flat"),
        quantise,
        node("MatMulInteger", ["bytes", "weights", "zero"], "sums"),
        node("Cast", ["sums"], "floats", to=FLOAT),
        node("Mul", ["floats", "scale"], "image_embedding"),
    ]


def waves() -> list[Any]:
    """Ids (n, l) -> (n, l, dim): each id as a few cosines, so that no table is needed."""
    return [
        node("Cast", ["input_ids"], "numbers", to=FLOAT),
        node("Unsqueeze", ["numbers", whole("behind", [2])], "columns"),
        node("Mul", ["columns", part("frequencies", (1, DIM))], "phases"),
        node("Cos", ["phases"], "waves"),
    ]


def summed(name: str) -> list[Any]:
    return [node("ReduceSum", [name, whole("positions", [1])], "text_embedding", keepdims=0)]


_constants: list[Any] = []


def part(name: str, shape: tuple[int, ...], kind: int = FLOAT) -> str:
    values = CHANCE.standard_normal(shape).astype(np.float16 if kind == HALF else np.float32)
    _constants.append(numpy_helper.from_array(values, name))
    return name


def ramp(name: str) -> str:
    """A weight for each position, from -1 to 1."""
    _constants.append(numpy_helper.from_array(np.linspace(-1, 1, LENGTH, dtype=np.float32)[:, None], name))
    return name


def whole(name: str, values: list[int]) -> str:
    _constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, [output], **attributes)


def write(name: str, inputs: list[Any], outputs: list[Any], nodes: list[Any]) -> None:
    """Save a graph of the nodes and of the constants that they named."""
    given, made = ([helper.make_tensor_value_info(*one) for one in ends] for ends in (inputs, outputs))
    graph = helper.make_graph(nodes, name, given, made, initializer=list(_constants))
    _constants.clear()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, GRAPHS / f"{name}.onnx")


if __name__ == "__main__":
    main()
