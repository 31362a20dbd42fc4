"""A store's records turned into the exact answers that its own answers are compared with."""

from collections.abc import Sequence

import numpy as np

from sightline.stores.base import Store
from sightline.types import Hit, Record, Vectors, chunks

SAME = 1e-3  # scores as near as this are the same answer: engines keep vectors in half precision

_AT_ONCE = 4096  # records compared with all queries at a time: 4096 x 200 scores are 3 MB


def exact_scores(store: Store, queries: Vectors, k: int) -> Vectors:
    """(q, dim) -> (q, at most k): the best scores of each query, best first, from a scan with constant memory."""
    best = np.empty((len(queries), 0), np.float32)
    for records in chunks(store.scan(), _AT_ONCE):
        scores = queries @ np.stack([record.vector for record in records]).T  # (q, dim) @ (dim, n) -> (q, n)
        joined = np.concatenate([best, scores], axis=1)
        best = np.partition(joined, -k, axis=1)[:, -k:] if joined.shape[1] > k else joined
    return np.asarray(-np.sort(-best, axis=1), np.float32)


def recall(hits: Sequence[Sequence[Hit]], truth: Vectors) -> float:
    """The part of the true neighbours that was found, 0 to 1: hits that score no less than the last true one.

    Counted by score and not by id, so that any of several equal pictures will do.
    """
    if truth.shape[1] == 0:
        return 1.0
    right = [sum(hit.score >= row[-1] - SAME for hit in found) for found, row in zip(hits, truth, strict=True)]
    return float(np.mean(np.minimum(right, truth.shape[1])) / truth.shape[1])


def sample_pictures(store: Store, count: int, *, seed: int = 0) -> Vectors:
    """Vectors of some of the pictures, a little moved, as those of new pictures would be: (at most count, dim)."""
    rng = np.random.default_rng(seed)
    kept: list[Record] = []
    for seen, record in enumerate(store.scan()):  # reservoir sampling, Vitter 1985
        if len(kept) < count:
            kept.append(record)
        elif (place := int(rng.integers(0, seen + 1))) < count:
            kept[place] = record
    if not kept:
        return np.empty((0, store.dim), np.float32)
    vectors = np.stack([record.vector for record in kept])
    moved = vectors + 0.3 / np.sqrt(vectors.shape[1]) * rng.standard_normal(vectors.shape).astype(np.float32)
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)
