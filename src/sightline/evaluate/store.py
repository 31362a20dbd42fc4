"""A store's answers compared with the exact ones, for text queries and for picture queries apart."""

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from sightline.errors import TextNotSupported, UsageError
from sightline.evaluate.phrases import phrases
from sightline.index import Index
from sightline.stores.base import Store
from sightline.types import Record, Vectors

_AT_ONCE = 4096  # records compared with all queries at a time: 4096 x 200 scores are 3 MB
_SAME = 1e-3  # scores as near as this are the same answer: engines keep vectors in half precision


@dataclass(frozen=True, slots=True)
class StoreRecall:
    """How much of the exact best k a store finds, and the median milliseconds of one query."""

    queries: str
    sample: int
    k: int
    recall: float
    ms_per_query: float


def store_recall(index: Index, *, sample: int = 200, k: int = 10, seed: int = 0) -> list[StoreRecall]:
    """Search for phrases and for a sample of the index's own pictures, and compare with a full exact scan.

    An approximate engine that is tuned on picture queries loses text queries silently, since they lie elsewhere: that
    is why the two are measured apart. Of an image-only index, pictures alone are measured.
    """
    if index.count() == 0:
        raise UsageError(f"{index.url} is empty, expected pictures to search: index a folder first")
    found = []
    try:
        texts = index.encoder.encode_texts(list(phrases(sample, seed=seed)))
        found.append(_compare(index.store, "text", texts, k))
    except TextNotSupported:
        pass
    found.append(_compare(index.store, "image", _pictures(index.store, sample, seed), k))
    return found


def exact(store: Store, queries: Vectors, k: int) -> list[list[float]]:
    """The k best scores of each query, best first, from a scan of every record with constant memory."""
    best: list[list[float]] = [[] for _ in queries]
    for records in _chunks(store.scan()):
        scores = queries @ np.stack([record.vector for record in records]).T  # (q, dim) @ (dim, n) -> (q, n)
        for place, row in enumerate(scores):
            best[place] = heapq.nlargest(k, [*best[place], *row.tolist()])
    return best


def _compare(store: Store, kind: str, queries: Vectors, k: int) -> StoreRecall:
    truth = exact(store, queries, k)
    shares, spent = [], []
    for vector, scores in zip(queries, truth, strict=True):
        began = time.perf_counter()
        hits = store.search(vector[None], k)[0]
        spent.append((time.perf_counter() - began) * 1e3)
        right = sum(hit.score >= scores[-1] - _SAME for hit in hits)
        shares.append(min(right, len(scores)) / len(scores))
    return StoreRecall(kind, len(queries), k, float(np.mean(shares)), float(np.median(spent)))


def _pictures(store: Store, sample: int, seed: int) -> Vectors:
    """Vectors of some of the indexed pictures, a little moved, as a new picture's would be: (sample, dim)."""
    rng = np.random.default_rng(seed)
    kept: list[Record] = []
    for seen, record in enumerate(store.scan()):  # reservoir sampling, Vitter 1985
        if len(kept) < sample:
            kept.append(record)
        elif (place := int(rng.integers(0, seen + 1))) < sample:
            kept[place] = record
    vectors = np.stack([record.vector for record in kept])
    moved = vectors + 0.3 / np.sqrt(vectors.shape[1]) * rng.standard_normal(vectors.shape).astype(np.float32)
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


def _chunks(records: Iterator[Record]) -> Iterator[Sequence[Record]]:
    while few := list(islice(records, _AT_ONCE)):
        yield few
