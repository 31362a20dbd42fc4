"""Codes and a query turned into the slots that can hold the k best records."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import simsimd
from numpy.typing import NDArray

from sightline.stores.local.quantise import Codes
from sightline.types import Vector, Vectors

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
