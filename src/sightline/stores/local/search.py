"""Search: codes of vectors in int8, a scan for the slots that can hold the best, exact scores of those, ties by id.

A vector is rotated by a fixed pseudorandom rotation, which spreads outlier dimensions evenly, and rounded to int8 with
one scale for all. The rotation is random signs and a Hadamard transform on the first 2**p dimensions, then the same on
the last 2**p (Ailon and Chazelle 2009, "The fast Johnson-Lindenstrauss transform"; first and last part, for dimensions
that are not a power of two, as in the RaBitQ library). It is orthogonal for every dim and needs no stored matrix: with
other constants below, `database.ROTATION` counts up.
"""

import contextlib
import heapq
import math
import os
import sqlite3
from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import simsimd
from numpy.typing import NDArray

from sightline.filters.documents import load_payload
from sightline.filters.where import Node
from sightline.stores.local.vectors import Codes, Slots
from sightline.stores.local.views import View, passing, rows_of
from sightline.types import Hit, Vectors

Scores: TypeAlias = NDArray[np.int32]
"""Shape (q, n): dot products of codes."""

# Two threads read memory at its speed (measured); four leave room for slower ones.
THREADS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""How many threads scan, with the one that asks."""

_ROUNDS = 2
_SEED = 0x5167_4417_0000_0001
_SIGMAS = 8.0
_WIDEST = 6.0  # in standard deviations of a rotated component: beyond this, two in a billion are clipped
_NEVER = -2_147_483_648  # the score of a row that must not be found
_SHARES = 2  # for each thread: more even out a busy core better, but each costs 20 us
_SMALLEST_SHARE = 8192  # rows: below it, handing work over (50 us) costs more than it saves
_INT32: Any = "int32"  # which the type hints of simsimd forget
_BLOCK_BYTES = 1_048_576  # of codes, so that many queries find them in the second-level cache
_LONE_BLOCK_BYTES = 4 * 1_048_576  # for one query: less costs time, more would leave a shortened file unseen for longer
_SCORES_BYTES = 32 * 2**20  # of coded scores at a time, so that many queries over many records stay in bounds
_SCAN_SHARE = 0.15  # of the rows: copying fewer is faster than scanning all (measured)


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
    # SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"); its top bits are signs.
    state = np.arange(1, _ROUNDS * span + 1, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15) + np.uint64(_SEED)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    bits = (state ^ (state >> np.uint64(31))) >> np.uint64(63)
    signs = np.where(bits == 0, 1.0, -1.0).reshape(_ROUNDS, span) / np.sqrt(span)
    hadamard = [np.ones((1, 1), np.float32)]  # Sylvester's matrices of 1 and -1, of sizes that are powers of two
    while len(hadamard[-1]) < span // a:
        hadamard.append(np.kron(np.array([[1, 1], [1, -1]], np.float32), hadamard[-1]))
    scale = min(1.0, _WIDEST / np.sqrt(dim)) / 127
    left, right = hadamard[power // 2], hadamard[power - power // 2]
    return Quantiser(dim, float(scale), signs.astype(np.float32), left, right)


def search(
    connection: sqlite3.Connection,
    view: View,
    pool: Executor,
    quantiser: Quantiser,
    queries: Vectors,
    node: Node | None,
    offset: int,
    end: int,
) -> list[list[Hit]]:
    """For each of (q, dim) queries the hits from `offset` to `end` that pass the filter, best first, ties by id."""
    slots = passing(connection, view, node) if node else None
    codes, scales, lost = quantiser.encode_queries(queries)
    margins = [
        math.ceil(quantiser.margin(view.state.residual, *one) / (quantiser.scale * scale))
        for scale, *one in zip(scales, lost, np.linalg.norm(queries, axis=1).tolist(), strict=True)
    ]
    count, found = view.state.slots if slots is None else len(slots), list[list[Hit]]()
    step = max(1, _SCORES_BYTES // (4 * max(1, count)))
    for at in range(0, len(queries), step):
        some = codes[at : at + step]
        if slots is None:
            scores = _scanned(pool, view, some)  # (step, slots)
            scores[:, view.tombstones] = _NEVER
        elif count > _SCAN_SHARE * view.state.slots:
            scores = _scanned(pool, view, some)[:, slots]  # (step, count)
        else:
            scores = _scanned(pool, view, some, slots)
        for query, row, margin in zip(queries[at:], scores, margins[at:], strict=False):
            near = near_best(row, end, margin)
            near, exact = near if slots is None else slots[near], np.empty(len(near), np.float32)
            for start in range(0, len(near), 4096):
                view.check()
                rows = view.vectors[near[start : start + 4096]]  # (slots, dim) -> (m, dim)
                # Not by matrix product: BLAS rounds equal rows differently, by their place.
                scored = simsimd.cdist(query[None], rows, metric="dot", out_dtype="float32")  # (1, m)
                exact[start : start + 4096] = np.asarray(scored)[0]
            view.check()
            if len(exact) > end:
                kth = np.partition(exact, len(exact) - end)[len(exact) - end]
                best = np.flatnonzero(exact >= kth)
                near, exact = near[best], exact[best]
            by_slot = dict(zip(near.tolist(), exact.tolist(), strict=True))
            of_slots = ((-by_slot[slot], *rest) for slot, *rest in rows_of(connection, "slot", by_slot))
            # By score, then by id, which no two rows share. Sorting is faster for a few, and a heap needs no room for
            # all ties.
            ordered = sorted(of_slots) if len(by_slot) <= 2 * end else heapq.nsmallest(end, of_slots)
            found.append(
                [
                    Hit(name, uri, max(-1.0, min(1.0, -score)), load_payload(payload))
                    for score, name, uri, payload in ordered[offset:end]
                ]
            )
    return found


def _scanned(pool: Executor, view: View, queries: Codes, slots: Slots | None = None) -> Scores:
    """The scores of every row, or of some: (q, dim) and (m,) -> (q, n) or (q, m).

    Copying 10 % of the rows costs half of reading all. Threads take their shares when they are free: a core may be busy
    with something else.
    """
    codes = view.codes
    total = len(codes if slots is None else slots)
    scores = np.empty((len(queries), total), np.int32)
    size = max(_SMALLEST_SHARE, -(-total // (_SHARES * THREADS)))
    step = max(64, (_LONE_BLOCK_BYTES if slots is None and len(queries) == 1 else _BLOCK_BYTES) // codes.shape[1])
    shares = deque(range(0, total, size))

    def work() -> None:
        block = np.empty((0 if slots is None else min(step, size), codes.shape[1]), np.int8)
        while shares:
            try:
                start = shares.popleft()
            except IndexError:  # another thread was faster
                return
            end = min(start + size, total)
            for at in range(start, end, step):
                until = min(at + step, end)
                view.check()
                if slots is None:
                    rows = codes[at:until]
                else:  # mode="raise" would copy once more
                    rows = np.take(codes, slots[at:until], axis=0, out=block[: until - at], mode="clip")
                # Not with out=scores: simsimd 6.5.16 then gives back None without counting the reference, which ends
                # in a crash.
                scores[:, at:until] = np.asarray(simsimd.cdist(queries, rows, metric="dot", out_dtype=_INT32))

    others = list[Future[None]]()
    with contextlib.suppress(RuntimeError):  # closed meanwhile: this search ends on its own
        others.extend(pool.submit(work) for _ in range(min(THREADS, len(shares)) - 1))
    work()
    for other in others:
        if not other.cancel():
            other.result()
    view.check()
    return scores


def near_best(scores: NDArray[np.int32], k: int, margin: int) -> NDArray[np.int64]:
    """Where (n,) scores lie within the margin below the k-th best, without those that are never to be found."""
    near: NDArray[np.int64] | None = None
    width, some, bounds = max(1024, 16 * k), scores, [scores]
    if rows := len(scores) // width if len(scores) >= 4 * width else 0:
        # At least k rows reach the k-th largest of the maxima of columns: a bound in one fast pass, where a full
        # partition of a million scores takes 15 ms.
        maxima = scores[: rows * width].reshape(rows, width).max(axis=0)  # (rows, width) -> (width,)
        bounds = [maxima, np.empty(0, np.int32)]
    for bound in bounds:
        ranked = bound if len(bound) else some
        last = max(0, len(ranked) - k)
        kth = int(np.partition(ranked, last)[last]) if len(ranked) else _NEVER
        reached = np.flatnonzero(some >= max(kth - margin, _NEVER + 1))
        near, some = reached if near is None else near[reached], some[reached]
    return np.empty(0, np.int64) if near is None else near
