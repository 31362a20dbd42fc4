"""Vectors like those of CLIP: clusters around a common mean, text around another one (the modality gap)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.types import Vectors

CHUNK_ROWS = 10_000


def unit(vectors: NDArray[Any]) -> Vectors:
    """(..., dim) -> the same with norm 1."""
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


class ClipLike:
    """The same vectors each time; `outliers` dimensions are common to all and large, as in OpenAI's models."""

    def __init__(self, rows: int, dim: int, *, outliers: int = 0) -> None:
        self.rows, self.dim = rows, dim
        generator = np.random.default_rng(1)
        self._image_mean, self._text_mean = unit(generator.standard_normal((2, dim)))
        self._centres = unit(generator.standard_normal((1000, dim)))
        self._image_mean[:outliers] += 2.0
        self._text_mean[:outliers] += 2.0

    def chunks(self) -> Iterator[Vectors]:
        """All pictures, (10,000, dim) at a time."""
        for start in range(0, self.rows, CHUNK_ROWS):
            yield self._around(self._image_mean, 0.7, min(CHUNK_ROWS, self.rows - start), seed=start + 10)

    def image_queries(self, count: int) -> Vectors:
        """Pictures like the others, (count, dim)."""
        return self._around(self._image_mean, 0.7, count, seed=3)

    def text_queries(self, count: int) -> Vectors:
        """Off the distribution of the pictures, (count, dim)."""
        return self._around(self._text_mean, 0.45, count, seed=4)

    def _around(self, mean: Vectors, closeness: float, count: int, *, seed: int) -> Vectors:
        generator = np.random.default_rng(seed)
        centres = self._centres[generator.integers(0, len(self._centres), count)]
        noise = unit(generator.standard_normal((count, self.dim)))
        return unit(mean + closeness * centres + 0.6 * noise)
