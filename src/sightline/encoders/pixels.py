"""An encoder of coarse pixels: the baseline that needs no model, and an encoder for tests."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from sightline.errors import TextNotSupported
from sightline.types import Pixels, Vectors

_FLAT = 1e-3  # a mean-removed vector shorter than this, of values 0 to 1, is a picture of one colour


class PixelsEncoder:
    """A coarse grid of colours, its mean removed, at norm 1: near means alike in layout and tint, not in meaning.

    Pictures of a single grey have no layout: they share one vector, at a right angle to every other.
    """

    def __init__(self, side: int = 16) -> None:
        self.name = "pixels"
        self.fingerprint = f"pixels-{side}-1"
        self.dim = 3 * side * side
        self.image_size = side
        self.batch_size = 32

    def preprocess(self, image: Image.Image) -> Pixels:
        """One RGB picture -> (3, side, side), squashed to a square."""
        small = image.convert("RGB").resize((self.image_size, self.image_size), Image.Resampling.BOX)
        return np.asarray(small).transpose(2, 0, 1)  # (side, side, 3) -> (3, side, side)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """(n, 3, side, side) -> (n, dim), rows of norm 1."""
        rows = pixels.reshape(len(pixels), self.dim).astype(np.float32) / 255  # (n, 3, side, side) -> (n, dim)
        rows -= rows.mean(axis=1, keepdims=True)
        rows[np.linalg.norm(rows, axis=1) < _FLAT] = 1.0
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Raises `TextNotSupported`."""
        raise TextNotSupported(
            "model 'pixels' has no text encoder: search by a picture instead, "
            "or index with another model, such as --model mini, to search by words"
        )
