"""An encoder of one's own, searched like any other: python examples/own_encoder.py FOLDER."""

import sys
from collections.abc import Sequence

import numpy as np
from PIL.Image import Image

import sightline
from sightline.errors import TextNotSupported
from sightline.types import Pixels, Vectors


class MeanColour:
    """The mean colour of a picture, as a direction."""

    name = "mean-colour"
    fingerprint = "1"
    dim = 3
    image_size = 8
    batch_size = 64

    def preprocess(self, image: Image) -> Pixels:
        """(3, 8, 8), whatever the picture's size."""
        return np.asarray(image.resize((8, 8)), np.uint8).transpose(2, 0, 1)  # (8, 8, 3) -> (3, 8, 8)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """(n, 3, 8, 8) -> (n, 3)."""
        colours = pixels.mean(axis=(2, 3)).astype(np.float32) + 1
        return np.asarray(colours / np.linalg.norm(colours, axis=1, keepdims=True), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Words have no colour here."""
        raise TextNotSupported(f"{self.name} knows no words, got {len(texts)} texts: search it by a picture")


index = sightline.open("memory:", model=MeanColour())
index.add(sys.argv[1])
first = next(index.store.scan())
for hit in index.similar(first.uri, k=3):
    print(f"{hit.score:.3f}  {hit.uri}")
