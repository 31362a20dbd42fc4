"""Run the ONNX graphs of the two towers, whatever their inputs look like: pixels or texts in, unit vectors out.

Published exports differ: pixels are uint8 with the channels last, or normalised floats of 32 or 16 bits with the
channels first; ids have 32 or 64 bits; batch and length of texts are free or fixed; results have 32 or 16 bits.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.preprocess import Preprocessing, normalised
from sightline.encoders.sessions import Session, run
from sightline.encoders.tokens import Ids, TokenizerConfig, Tokens
from sightline.errors import EncoderError, ModelDamaged
from sightline.types import Pixels, Vectors

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_TRIAL = "a red dog"  # shorter than any context
_SAME_WHEN_CUT = 0.95  # of dynamic int8: 0.98 to 0.99 although the padding is masked
_DYNAMIC = b"DynamicQuantize"  # DynamicQuantizeLinear and its fused forms
_HEAD_BYTES = 8 << 20


class ImageGraph:
    """The image tower."""

    def __init__(self, session: Session, preprocessing: Preprocessing, dim: int, *, is_mixing: bool) -> None:
        self._preprocessing, self._rows = preprocessing, _Rows(session, dim, is_mixing=is_mixing)
        self._input = session.get_inputs()[0]
        self._dtype = _dtype(self._input)
        shape = self._input.shape
        self._channels_last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3

    def __call__(self, pixels: Pixels) -> Vectors:
        """(n, 3, height, width) -> (n, dim), rows of norm 1."""
        batch: NDArray[Any] = pixels
        if np.issubdtype(self._dtype, np.floating):
            batch = normalised(pixels, self._preprocessing, self._dtype)  # type: ignore[arg-type]
        if self._channels_last:
            batch = batch.transpose(0, 2, 3, 1)  # (n, 3, height, width) -> (n, height, width, 3)
        return self._rows({self._input.name: np.ascontiguousarray(batch)})


class TextGraph:
    """The text tower with its tokenizer."""

    def __init__(self, session: Session, config: TokenizerConfig, dim: int, *, is_mixing: bool) -> None:
        self._rows = _Rows(session, dim, is_mixing=is_mixing)
        inputs = session.get_inputs()
        self._masks = [one for one in inputs if "mask" in one.name]
        self._zeros = [one for one in inputs if "type" in one.name]
        others = [one for one in inputs if one not in self._masks and one not in self._zeros]
        if len(others) != 1:
            names = ", ".join(one.name for one in inputs)
            raise ModelDamaged(f"the text graph takes {names}, expected token ids and perhaps a mask: export it again")
        self._input = others[0]
        length = self._input.shape[1] if len(self._input.shape) == 2 else None
        self._tokens = Tokens(config, length if isinstance(length, int) else None)
        sees_padding = isinstance(length, int) or config.sees_padding
        self.runs_short = self._gives_the_same_when_cut() if sees_padding is None else not sees_padding

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Texts -> (n, dim), rows of norm 1.

        Where the graph allows, texts of one length run together without any padding: 64 captions take 400 ms so, 590 ms
        padded to the longest of them and 2,170 ms padded to 77, for a float32 ViT-B/32 on two busy cores.
        """
        ids = self._tokens.ids(texts)
        rows = np.empty((len(ids), self._rows.dim), np.float32)
        for few in self._groups(ids):
            length = len(ids[few[0]]) if self.runs_short else self._tokens.context_length
            rows[few] = self._run([ids[at] for at in few], length)
        return rows

    def _groups(self, ids: Sequence[Ids]) -> Iterable[list[int]]:
        """The places of the texts that run together."""
        by_length: dict[int, list[int]] = {}
        for at, one in enumerate(ids):
            by_length.setdefault(len(one) if self.runs_short else 0, []).append(at)
        return by_length.values()

    def _run(self, ids: Sequence[Ids], length: int) -> Vectors:
        table = np.full((len(ids), length), self._tokens.pad_id, _dtype(self._input))
        real = np.zeros((len(ids), length), bool)
        for row, one in enumerate(ids):
            place = slice(length - len(one), length) if self._tokens.pads_left else slice(0, len(one))
            table[row, place], real[row, place] = one, True
        inputs = {self._input.name: table}
        inputs |= {one.name: real.astype(_dtype(one)) for one in self._masks}
        inputs |= {one.name: np.zeros(table.shape, _dtype(one)) for one in self._zeros}
        return self._rows(inputs)

    def _gives_the_same_when_cut(self) -> bool:
        """Whether a text has the same vector with and without padding; some graphs only claim that any length fits."""
        ids = self._tokens.ids([_TRIAL])
        whole = self._run(ids, self._tokens.context_length)
        try:
            cut = self._run(ids, len(ids[0]))
        except EncoderError:
            return False
        return float(cut[0] @ whole[0]) > _SAME_WHEN_CUT


class _Rows:
    """A session that turns batches into unit vectors, in parts where the graph wants that.

    `is_mixing` says that rows of one batch change each other's results, so that each has to run on its own.
    """

    def __init__(self, session: Session, dim: int, *, is_mixing: bool) -> None:
        self.dim, self._session, self._output = dim, session, _output(session, dim)
        size = session.get_inputs()[0].shape[0]
        self._size = 1 if is_mixing else size if isinstance(size, int) else None

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> Vectors:
        count = len(next(iter(inputs.values())))
        size = self._size or count
        parts = [self._part(inputs, slice(start, start + size), size) for start in range(0, count, size)]
        return self._unit(np.concatenate(parts)[:count])

    def _part(self, inputs: dict[str, NDArray[Any]], rows: slice, size: int) -> NDArray[Any]:
        part = {name: values[rows] for name, values in inputs.items()}
        for name, values in part.items():
            if lacking := size - len(values):
                part[name] = np.concatenate([values, values[:1].repeat(lacking, axis=0)])
        result: NDArray[Any] = run(self._session, self._output, part)
        return result

    def _unit(self, rows: NDArray[Any]) -> Vectors:
        rows = rows.astype(np.float32, copy=False)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ModelDamaged(
                f"the graph gives {list(rows.shape)}, expected (n, {self.dim}) as config.json says: "
                "export the model again"
            )
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(norms).all() and norms.all()):
            raise EncoderError(
                "the model gave a vector without a direction (not a number, or zero), expected finite values: "
                "a float16 graph may overflow, use the float32 one"
            )
        unit: Vectors = rows / norms
        return unit


def is_mixing(graph: Path) -> bool:
    """Whether a graph scales its activations by what the whole batch holds, as dynamic int8 quantisation does.

    A caption's vector then depends on the captions it runs with: at cosine 0.994, and 0.96 for odd ones, for a
    six-layer text tower. The names of the operators stand before the weights in the file.
    """
    with graph.open("rb") as file:
        return _DYNAMIC in file.read(_HEAD_BYTES)


def _output(session: Session, dim: int) -> str:
    """The output that is the vector: of several the one with a row for each input, by its name if still in doubt."""
    outputs = session.get_outputs()
    rows = [one for one in outputs if len(one.shape) == 2]
    fitting = [one for one in rows if one.shape[1] == dim or not isinstance(one.shape[1], int)]
    named = [one for one in fitting if "embed" in one.name and "hidden" not in one.name]
    return str((named or fitting or outputs)[0].name)


def _dtype(tensor: Any) -> type[np.generic]:
    if tensor.type not in _DTYPES:
        raise ModelDamaged(
            f"the graph's input {tensor.name} is {tensor.type}, expected one of {', '.join(_DTYPES)}: "
            "export the model again"
        )
    return _DTYPES[tensor.type]
