"""Unit vectors turned into bytes for a fast scan, and the error that this makes.

A vector is rotated by a fixed pseudorandom rotation, which spreads outlier dimensions evenly, and rounded to int8 with
one scale for all. The rotation is random signs and a Hadamard transform on the first 2**p dimensions, then the same on
the last 2**p (Ailon and Chazelle 2009, "The fast Johnson-Lindenstrauss transform"; first and last part, for dimensions
that are no power of two, as in the RaBitQ library). It is orthogonal for every dim and needs no stored matrix.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sightline.types import Vectors

Codes: TypeAlias = NDArray[np.int8]
"""Shape (n, dim), each from -127 to 127."""

ROTATION = 1
"""The version of the rotation: with another constant below, every code stored before is wrong."""

_ROUNDS = 2
_SEED = 0x5167_4417_0000_0001
_SIGMAS = 8.0
_WIDEST = 6.0  # in standard deviations of a rotated component: beyond this, two in a billion are clipped


@dataclass(frozen=True, slots=True)
class Quantiser:
    """Rotates and rounds vectors of one dim."""

    dim: int
    scale: float
    """What one step of a code is worth."""
    signs: Vectors
    """(rounds, span), each -1 or 1 over the square root of the span."""
    left: Vectors
    """(a, a) Hadamard matrix, a * b = span."""
    right: Vectors
    """(b, b) Hadamard matrix."""

    def rotate(self, vectors: Vectors) -> Vectors:
        """(n, dim) -> (n, dim), all lengths and angles kept."""
        rotated = np.array(vectors, np.float32)
        span, a, b = len(self.left) * len(self.right), len(self.left), len(self.right)
        for turn, signs in enumerate(self.signs):
            part = rotated[:, :span] if turn % 2 == 0 else rotated[:, self.dim - span :]
            grid = (part * signs).reshape(-1, a, b)
            part[:] = (self.left @ grid @ self.right).reshape(-1, span)  # (a, a) @ (n, a, b) @ (b, b) -> (n, span)
        return rotated

    def encode(self, vectors: Vectors) -> tuple[Codes, float]:
        """(n, dim) -> (n, dim) codes, and the largest distance between a rotated vector and its codes."""
        rotated = self.rotate(vectors)
        codes = np.clip(np.rint(rotated / self.scale), -127, 127)
        residuals = np.linalg.norm(rotated - codes * self.scale, axis=1)  # (n, dim) -> (n,)
        return codes.astype(np.int8), float(residuals.max(initial=0.0))

    def encode_queries(self, queries: Vectors) -> tuple[Codes, list[float], list[float]]:
        """(q, dim) -> (q, dim) codes with a scale per query, those q scales, and the q distances lost."""
        rotated = self.rotate(queries)
        scales = np.maximum(np.abs(rotated).max(axis=1), 1e-30) / 127  # (q, dim) -> (q,)
        codes = np.rint(rotated / scales[:, None])
        lost = np.linalg.norm(rotated - codes * scales[:, None], axis=1)  # (q, dim) -> (q,)
        return codes.astype(np.int8), scales.tolist(), lost.tolist()

    def margin(self, residual: float, lost: float, norm: float) -> float:
        """How far below the k-th best coded score a record of the true k best may lie, for a query of that norm.

        The worst case is twice the sum of both errors, which only parallel vectors reach. Between randomly rotated
        vectors an error is spread over all dimensions, and the difference of two has the deviation below.
        """
        by_record, by_query = residual * norm, lost
        deviation = math.sqrt(2 / self.dim) * math.hypot(by_record, by_query)
        worst = 2 * (by_record + by_query * (1 + residual))
        return min(worst, _SIGMAS * deviation)


def quantiser(dim: int) -> Quantiser:
    """The quantiser of a dim: the same on every machine and with every version of NumPy."""
    power = dim.bit_length() - 1
    span, a = 2**power, 2 ** (power // 2)
    bits = _splitmix(np.arange(_ROUNDS * span, dtype=np.uint64)) >> np.uint64(63)
    signs = np.where(bits == 0, 1.0, -1.0).reshape(_ROUNDS, span) / np.sqrt(span)
    scale = min(1.0, _WIDEST / np.sqrt(dim)) / 127
    return Quantiser(dim, float(scale), signs.astype(np.float32), _hadamard(a), _hadamard(span // a))


def _hadamard(size: int) -> Vectors:
    """Sylvester's (size, size) matrix of 1 and -1; size is a power of two."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]]).astype(np.float32)
    return matrix


def _splitmix(counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators") at those counters."""
    state = (counters + np.uint64(1)) * np.uint64(0x9E37_79B9_7F4A_7C15) + np.uint64(_SEED)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return state ^ (state >> np.uint64(31))
