"""A store's answers compared with the exact ones, for text queries and for picture queries apart."""

import time
from dataclasses import dataclass

import numpy as np

from sightline.calibration.exact import exact_scores, recall
from sightline.calibration.phrases import sample_queries
from sightline.errors import UsageError
from sightline.index import Index
from sightline.stores.base import Store
from sightline.types import Vectors


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
    queries = sample_queries(index.store, index.encoder, sample, seed=seed)
    return [_compare(index.store, kind, vectors, k) for kind, vectors in queries.items()]


def _compare(store: Store, kind: str, queries: Vectors, k: int) -> StoreRecall:
    truth = exact_scores(store, queries, k)
    found, spent = [], []
    for vector in queries:
        began = time.perf_counter()
        found += store.search(vector[None], k)
        spent.append((time.perf_counter() - began) * 1e3)
    return StoreRecall(kind, len(queries), k, recall(found, truth), float(np.median(spent)))
