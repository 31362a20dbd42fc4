"""The int8 codes of vectors, and the slots that can hold the k best records of a query.

A vector is rotated by a fixed pseudorandom rotation, which spreads outlier dimensions evenly, and rounded to int8 with
one scale for all. The rotation is random signs and a Hadamard transform on the first 2**p dimensions, then the same on
the last 2**p (Ailon and Chazelle 2009, "The fast Johnson-Lindenstrauss transform"; first and last part, for dimensions
that are not a power of two, as in the RaBitQ library). It is orthogonal for every dim and needs no stored matrix.
"""

import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import simsimd
from numpy.typing import NDArray

from sightline.types import Vector, Vectors

Codes: TypeAlias = NDArray[np.int8]
"""Shape (n, dim), each from -127 to 127."""

ROTATION = 1
"""The version of the rotation: with another constant below, every code stored before is wrong."""

_ROUNDS = 2
_SEED = 0x5167_4417_0000_0001
_SIGMAS = 8.0
_WIDEST = 6.0  # in standard deviations of a rotated component: beyond this, two in a billion are clipped
Slots: TypeAlias = NDArray[np.int64]
"""Shape (n,): rows of the vector files."""
Scores: TypeAlias = NDArray[np.int32]
"""Shape (q, n): dot products of codes."""

NEVER = -2_147_483_648
"""The score of a row that must not be found."""

_MOST_THREADS = 4  # two threads read memory at its speed (measured); four leave room for slower ones
_SHARES = 2  # for each thread: more even out a busy core better, but each costs 20 us
_SMALLEST_SHARE = 8192  # rows: below it, handing work over (50 us) costs more than it saves
_INT32: Any = "int32"  # which the type hints of simsimd forget
_BLOCK_BYTES = 1_048_576  # of codes, so that many queries find them in the second-level cache


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


class Scanner:
    """Scans codes with a few threads."""

    def __init__(self) -> None:
        self._threads = min(_MOST_THREADS, _cpu_count())
        self._pool = ThreadPoolExecutor(max(1, self._threads - 1), "sightline-scan")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def scan(self, codes: Codes, queries: Codes) -> Scores:
        """Every row: (n, dim) and (q, dim) -> (q, n)."""
        scores = np.empty((len(queries), len(codes)), np.int32)

        def share(start: int, end: int) -> None:
            step = end - start if len(queries) == 1 else _block_rows(codes)
            for at in range(start, end, step):
                until = min(at + step, end)
                _dot(queries, codes[at:until], scores[:, at:until])

        self._spread(len(codes), share)
        return scores

    def scan_some(self, codes: Codes, slots: Slots, queries: Codes) -> Scores:
        """Some rows: (n, dim), (m,) and (q, dim) -> (q, m). Copying 10 % of the rows costs half of reading all."""
        scores = np.empty((len(queries), len(slots)), np.int32)

        def share(start: int, end: int) -> None:
            step = _block_rows(codes)
            block = np.empty((min(step, end - start), codes.shape[1]), np.int8)
            for at in range(start, end, step):
                some = slots[at : min(at + step, end)]
                rows = np.take(codes, some, axis=0, out=block[: len(some)], mode="clip")  # raise would copy once more
                _dot(queries, rows, scores[:, at : at + len(some)])

        self._spread(len(slots), share)
        return scores

    def _spread(self, total: int, share: Callable[[int, int], None]) -> None:
        """Do all rows in shares that each thread takes when it is free: a core may be busy with something else."""
        size = max(_SMALLEST_SHARE, -(-total // (_SHARES * self._threads)))
        shares = deque((start, min(start + size, total)) for start in range(0, total, size))

        def work() -> None:
            while shares:
                try:
                    start, end = shares.popleft()
                except IndexError:  # another thread was faster
                    return
                share(start, end)

        others = self._helped_by(work, min(self._threads, len(shares)) - 1)
        work()
        for other in others:
            if not other.cancel():
                other.result()

    def _helped_by(self, work: Callable[[], None], count: int) -> list[Future[None]]:
        try:
            return [self._pool.submit(work) for _ in range(count)]
        except RuntimeError:  # closed meanwhile: this search ends on its own
            return []


def near_best(scores: NDArray[np.int32], k: int, margin: int) -> NDArray[np.int64]:
    """Where (n,) scores lie within the margin below the k-th best, without those that are `NEVER`."""
    width = max(1024, 16 * k)
    if len(scores) < 4 * width:
        return np.flatnonzero(scores >= _threshold(scores, k, margin))
    # At least k rows reach the k-th largest of the maxima of columns: a bound in one fast pass, where a full partition
    # of a million scores takes 15 ms.
    rows = len(scores) // width
    maxima = scores[: rows * width].reshape(rows, width).max(axis=0)  # (rows, width) -> (width,)
    near = np.flatnonzero(scores >= _threshold(maxima, k, margin))
    some = scores[near]
    return near[some >= _threshold(some, k, margin)]


def exact_scores(vectors: Vectors, slots: Slots, query: Vector) -> NDArray[np.float32]:
    """The cosines of some rows to a query: (n, dim), (m,) and (dim,) -> (m,). Equal rows get equal scores."""
    scores = np.empty(len(slots), np.float32)
    for at in range(0, len(slots), 4096):
        rows = vectors[slots[at : at + 4096]]
        # Not by matrix product: BLAS rounds equal rows differently, by their place.
        scores[at : at + 4096] = np.asarray(simsimd.cdist(query[None], rows, metric="dot", out_dtype="float32"))[0]
    return scores


def _threshold(scores: NDArray[np.int32], k: int, margin: int) -> int:
    last = max(0, len(scores) - k)
    kth = int(np.partition(scores, last)[last]) if len(scores) else NEVER
    return max(kth - margin, NEVER + 1)


def _dot(queries: Codes, rows: Codes, scores: Scores) -> None:
    # Not with out=scores: simsimd 6.5.16 then gives back None without counting the reference, which ends in a crash.
    scores[:] = np.asarray(simsimd.cdist(queries, rows, metric="dot", out_dtype=_INT32))  # -> (q, n)


def _block_rows(codes: Codes) -> int:
    return max(64, _BLOCK_BYTES // int(codes.shape[1]))


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
