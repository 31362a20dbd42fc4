"""The encoder of any two-tower model in the open_clip ONNX layout, run by ONNX Runtime, whatever its graphs look like.

Published exports differ: pixels are uint8 with the channels last, or normalised floats of 32 or 16 bits with the
channels first; ids have 32 or 64 bits; batch and length of texts are free or fixed; results have 32 or 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.layout import fingerprint, read_layout
from sightline.encoders.preprocess import Preprocessing, normalised, pixels
from sightline.encoders.sessions import LazySession, choose_provider, open_session
from sightline.encoders.tokens import Reading, TokenizerConfig, Tokens
from sightline.errors import EncoderError, ModelDamaged, TextNotSupported, UsageError, summary
from sightline.types import Pixels, Vectors

if TYPE_CHECKING:
    from PIL.Image import Image

_BATCH_CPU = 8  # larger batches gain nothing on a CPU and wait longer for their pictures
_BATCH_GPU = 64
_TEXTS = 64  # texts in one run at most, which bounds the memory
_TRIAL = "a red dog"  # shorter than any context
_SAME_WHEN_CUT = 0.95  # of dynamic int8: 0.98 to 0.99 although the padding is masked
_DYNAMIC = b"DynamicQuantize"  # DynamicQuantizeLinear and its fused forms
_HEAD_BYTES = 8 << 20
LARGE_BYTES = 64 << 20  # of a graph whose weights are mapped: smaller ones load at once
_BRIEF_RUNS = 8  # after which a mapped tower is packed for more of them
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxEncoder:
    """A model folder as an encoder. Each tower is loaded when it is first used; all methods are safe in many threads.

    `threads` is how many threads each session gets (else: one for batches of pictures, which workers bring in parallel,
    all for a single picture and for texts). `provider` is cpu, cuda, coreml or openvino (else: cuda where the installed
    runtime has it). `precision` chooses between the graphs of a transformers.js export. `logit_scale` and `logit_bias`
    turn cosines into the model's own probabilities, where known.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str | None = None,
        threads: int | None = None,
        provider: str | None = None,
        precision: str = "",
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}, expected at least 1: leave it out to use what fits")
        layout = read_layout(folder, precision)
        provider = choose_provider(provider)
        self.folder = folder
        self.name = name or folder.resolve().name
        self.fingerprint = fingerprint(folder, graphs=layout.graphs)
        self.picture_fingerprint = fingerprint(folder, of_pictures_in=layout.dim, graphs=layout.graphs)
        self.dim = layout.dim
        self.image_size = layout.preprocessing.reach
        self.batch_size = _BATCH_GPU if provider == "cuda" else _BATCH_CPU
        self.logit_scale, self.logit_bias = layout.logit_scale, layout.logit_bias
        self._preprocessing, self.knows_words = layout.preprocessing, layout.tokenizer is not None
        image_graph = partial(ImageGraph, layout.visual, layout.preprocessing, layout.dim, provider)
        self._images = LazySession(image_graph, provider, threads)
        self._texts: LazySession[TextGraph] | None = None
        if layout.tokenizer:
            text_graph = partial(TextGraph, layout.textual, layout.tokenizer, layout.dim, provider)
            self._texts = LazySession(text_graph, provider, threads)

    def preprocess(self, image: Image) -> Pixels:
        """One upright RGB picture -> (3, height, width)."""
        return pixels(image, self._preprocessing)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """(n, 3, height, width) of uint8 -> (n, dim), rows of norm 1."""
        height, width = self._preprocessing.height, self._preprocessing.width
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, height, width):
            raise UsageError(
                f"pixels are {pixels.dtype}{list(pixels.shape)}, expected uint8 (n, 3, {height}, {width}): "
                "stack what preprocess gives"
            )
        if not len(pixels):
            return np.empty((0, self.dim), np.float32)
        graph = self._images.latency_session() if len(pixels) == 1 else self._images.throughput_session()
        return graph(pixels)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> (n, dim), rows of norm 1. What a text has beyond the model's length is ignored, with a note."""
        if self._texts is None:
            raise TextNotSupported(
                f"model {self.name!r} has no text encoder: search by a picture instead, "
                "or index with a two-tower model to search by words"
            )
        if not texts:
            return np.empty((0, self.dim), np.float32)
        graph = self._texts.latency_session(is_brief=len(texts) < _BRIEF_RUNS)
        return np.concatenate([graph(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)])

    def reads(self, text: str) -> Reading:
        """Whether the model can read a text; all that it cannot looks alike to it."""
        return self._texts.latency_session().tokens.reads(text) if self._texts else "yes"

    def unload(self) -> None:
        """Give back the memory of both towers; the next call loads them again."""
        self._images.unload()
        if self._texts is not None:
            self._texts.unload()


class Graph:
    """A session that turns batches into unit vectors, in parts where the graph has a fixed batch.

    Dynamic int8 quantisation scales activations by what the whole batch holds: a caption's vector then depends on the
    captions it runs with, at cosine 0.994, and 0.96 for odd ones, for a six-layer text tower. Each row of such a graph
    runs on its own. The names of the operators stand before the weights in the file.
    """

    def __init__(self, path: Path, dim: int, provider: str, threads: int, is_brief: bool) -> None:
        model, self.dim = None, dim
        if path.is_file() and path.stat().st_size >= LARGE_BYTES:
            from sightline.encoders.mapped import without_weights

            model = without_weights(path)
        self._session = open_session(path, provider, threads, model, is_brief=is_brief)
        self._packed = partial(open_session, path, provider, threads, model) if model and is_brief else None
        self._runs = count()
        self.inputs = self._session.get_inputs()
        self.dtypes = {one.name: _DTYPES[one.type] for one in self.inputs if one.type in _DTYPES}
        if unknown := next((one for one in self.inputs if one.name not in self.dtypes), None):
            raise ModelDamaged(
                f"the graph's input {unknown.name} is {unknown.type}, expected one of {', '.join(_DTYPES)}: "
                "export the model again"
            )
        # Of several outputs the vector is the one with a row for each input, by its name if still in doubt.
        outputs = self._session.get_outputs()
        fitting = [
            one for one in outputs if len(one.shape) == 2 and (one.shape[1] == dim or not isinstance(one.shape[1], int))
        ]
        named = [one for one in fitting if "embed" in one.name and "hidden" not in one.name]
        self._output = str((named or fitting or outputs)[0].name)
        with path.open("rb") as file:
            is_mixing = _DYNAMIC in (model or file.read(_HEAD_BYTES))
        size = self.inputs[0].shape[0]
        self._size = 1 if is_mixing else size if isinstance(size, int) else None

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> Vectors:
        """Inputs by name, each with n rows -> (n, dim), rows of norm 1."""
        packed = self._packed
        if packed and next(self._runs) == _BRIEF_RUNS:  # it pays from here on
            self._session, self._packed = packed(), None
        rows_in = len(next(iter(inputs.values())))
        size = self._size or rows_in
        parts = []
        for start in range(0, rows_in, size):
            part = {name: values[start : start + size] for name, values in inputs.items()}
            if (lacking := start + size - rows_in) > 0:
                part = {name: np.concatenate([rows, rows[:1].repeat(lacking, axis=0)]) for name, rows in part.items()}
            try:
                parts.append(self._session.run([self._output], part)[0])
            except Exception as error:  # onnxruntime's exceptions share no base class but this
                shapes = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in part.items())
                raise EncoderError(
                    f"the model failed on {shapes} ({summary(error)}): "
                    "fetch the model again, or choose another processor or a smaller batch"
                ) from error
        rows = np.concatenate(parts)[:rows_in].astype(np.float32, copy=False)
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
        return np.asarray(rows / norms)


class ImageGraph:
    """The graph of the image tower, with the pixels that it wants."""

    def __init__(
        self, path: Path, preprocessing: Preprocessing, dim: int, provider: str, threads: int, is_brief: bool
    ) -> None:
        self._preprocessing, self._graph = preprocessing, Graph(path, dim, provider, threads, is_brief)
        self._input = self._graph.inputs[0]
        shape = self._input.shape
        self._channels_last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3

    def __call__(self, pixels: Pixels) -> Vectors:
        """(n, 3, height, width) -> (n, dim), rows of norm 1."""
        batch: NDArray[Any] = pixels
        dtype = self._graph.dtypes[self._input.name]
        if issubclass(dtype, np.floating):
            batch = normalised(pixels, self._preprocessing, dtype)
        if self._channels_last:
            batch = batch.transpose(0, 2, 3, 1)  # (n, 3, height, width) -> (n, height, width, 3)
        return self._graph({self._input.name: np.ascontiguousarray(batch)})


class TextGraph:
    """The graph of the text tower with its tokenizer."""

    def __init__(
        self, path: Path, config: TokenizerConfig, dim: int, provider: str, threads: int, is_brief: bool
    ) -> None:
        self._graph = Graph(path, dim, provider, threads, is_brief)
        names = [one.name for one in self._graph.inputs]
        self._masks = [name for name in names if "mask" in name]
        self._zeros = [name for name in names if "type" in name and name not in self._masks]
        others = [one for one in self._graph.inputs if one.name not in (*self._masks, *self._zeros)]
        if len(others) != 1:
            raise ModelDamaged(
                f"the text graph takes {', '.join(names)}, expected token ids and perhaps a mask: export it again"
            )
        self._input, shape = others[0].name, others[0].shape
        length = shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None
        self.tokens = Tokens(config, length)
        self.runs_short = length is None and config.sees_padding is False
        if length is None and config.sees_padding is None:  # some graphs only claim that any length fits
            whole = self([_TRIAL])
            try:
                self.runs_short = True
                self.runs_short = float(self([_TRIAL])[0] @ whole[0]) > _SAME_WHEN_CUT
            except EncoderError:
                self.runs_short = False

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Texts -> (n, dim), rows of norm 1.

        Where the graph allows, texts of one length run together without any padding: 64 captions take 400 ms so, 590 ms
        padded to the longest of them and 2,170 ms padded to 77, for a float32 ViT-B/32 on two busy cores.
        """
        ids, dtypes = self.tokens.ids(texts), self._graph.dtypes
        by_length: dict[int, list[int]] = {}
        for at, one in enumerate(ids):
            by_length.setdefault(len(one) if self.runs_short else self.tokens.context_length, []).append(at)
        vectors = np.empty((len(ids), self._graph.dim), np.float32)
        for length, places in by_length.items():
            table = np.full((len(places), length), self.tokens.pad_id, dtypes[self._input])
            real = np.zeros((len(places), length), bool)
            for row, at in enumerate(places):
                count = len(ids[at])
                columns = slice(length - count, length) if self.tokens.pads_left else slice(0, count)
                table[row, columns], real[row, columns] = ids[at], True
            inputs = {self._input: table}
            inputs |= {name: real.astype(dtypes[name]) for name in self._masks}
            inputs |= {name: np.zeros(table.shape, dtypes[name]) for name in self._zeros}
            vectors[places] = self._graph(inputs)
        return vectors
