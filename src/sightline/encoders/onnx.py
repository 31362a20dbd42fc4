"""The encoder of any two-tower model in the open_clip ONNX layout, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sightline.encoders.graphs import ImageGraph, TextGraph, is_mixing
from sightline.encoders.layout import fingerprint, picture_fingerprint, read_layout
from sightline.encoders.preprocess import pixels
from sightline.encoders.sessions import LazySession, Session, choose_provider
from sightline.errors import TextNotSupported, UsageError
from sightline.types import Pixels, Vectors

if TYPE_CHECKING:
    from PIL.Image import Image

_BATCH_CPU = 8  # larger batches gain nothing on a CPU and wait longer for their pictures
_BATCH_GPU = 64
_TEXTS = 64  # texts in one run at most, which bounds the memory


class OnnxEncoder:
    """A model folder as an encoder. Each tower is loaded when it is first used; all methods are safe in many threads.

    `threads` is how many threads each session gets (else: one for batches of pictures, which workers bring in parallel,
    all for a single picture and for texts). `provider` is cpu, cuda, coreml or openvino (else: cuda where the installed
    runtime has it). `logit_scale` and `logit_bias` turn cosines into the model's own probabilities, where known.
    """

    def __init__(
        self, folder: Path, *, name: str | None = None, threads: int | None = None, provider: str | None = None
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}, expected at least 1: leave it out to use what fits")
        layout = self._layout = read_layout(folder)
        provider = choose_provider(provider)
        self.folder = folder
        self.name = name or folder.resolve().name
        self.fingerprint = fingerprint(folder)
        self.picture_fingerprint = picture_fingerprint(folder, layout.dim)
        self.dim = layout.dim
        self.image_size = layout.preprocessing.reach
        self.batch_size = _BATCH_GPU if provider == "cuda" else _BATCH_CPU
        self.logit_scale, self.logit_bias = layout.logit_scale, layout.logit_bias
        preprocessing, tokenizer, dim = layout.preprocessing, layout.tokenizer, layout.dim

        def image_graph(session: Session) -> ImageGraph:
            return ImageGraph(session, preprocessing, dim, is_mixing=is_mixing(layout.visual))

        self._images = LazySession(layout.visual, provider, threads, image_graph)
        self._texts: LazySession[TextGraph] | None = None
        self.knows_words = tokenizer is not None
        if tokenizer:

            def text_graph(session: Session) -> TextGraph:
                return TextGraph(session, tokenizer, dim, is_mixing=is_mixing(layout.textual))

            self._texts = LazySession(layout.textual, provider, threads, text_graph)

    def preprocess(self, image: Image) -> Pixels:
        """One upright RGB picture -> (3, height, width)."""
        return pixels(image, self._layout.preprocessing)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """(n, 3, height, width) of uint8 -> (n, dim), rows of norm 1."""
        height, width = self._layout.preprocessing.height, self._layout.preprocessing.width
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
        graph = self._texts.latency_session()
        return np.concatenate([graph(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)])

    def unload(self) -> None:
        """Give back the memory of both towers; the next call loads them again."""
        self._images.unload()
        if self._texts is not None:
            self._texts.unload()
