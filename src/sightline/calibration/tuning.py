"""A store's answers compared with the exact ones, and its search width chosen so that they agree."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sightline.stores.base import Store, Tunable
from sightline.types import Hit, Vectors, chunks, now

GOAL = 0.98
"""The recall that a width must reach, for each kind of query apart."""
SAME = 1e-3  # scores as near as this are the same answer: engines keep vectors in half precision

_KIND = "recall"  # the kind of note, and its key, that keeps what was measured
_K = 10
_GROWTH = 2.0  # a graph that has doubled needs another width
_AT_ONCE = 4096  # records compared with all queries at a time: 4096 x 200 scores are 3 MB


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured at the width in use, with so many pictures: recall of the exact best 10 by kind of query.

    `default` holds the same at the engine's own width, `reached` says whether the goal was met.
    """

    width: int
    recalls: Mapping[str, float]
    default_width: int
    default: Mapping[str, float]
    pictures: int
    reached: bool
    when: str

    def __str__(self) -> str:
        def shares(recalls: Mapping[str, float]) -> str:
            return " and ".join(f"{kind} queries {value:.3f}" for kind, value in recalls.items())

        text = f"recall@10 of {shares(self.recalls)} at width {self.width}"
        if self.width != self.default_width:
            text += f"; at the engine's own {self.default_width}: {shares(self.default)}"
        return text if self.reached else f"{text}; no width reached a recall of {GOAL}"


def tune(store: Store, queries: Mapping[str, Vectors], *, goal: float = GOAL) -> Tuning:
    """Set the smallest width that finds `goal` of the true neighbours of each kind of query, and note what it found.

    `queries` are unit vectors (q, dim) by kind: a width that is right for texts loses 20 to 40 % of pictures. If none
    reaches the goal, the widest is set. Costs one scan of the store.
    """
    if not isinstance(store, Tunable):
        raise TypeError("this store is exact: there is nothing to tune")
    truth = {kind: exact_scores(store, vectors, _K) for kind, vectors in queries.items()}
    measured = dict[int, dict[str, float]]()
    for width in store.widths:
        found = {kind: store.search_at(vectors, _K, width) for kind, vectors in queries.items()}
        measured[width] = {kind: recall(found[kind], truth[kind]) for kind in queries}
        is_reached = min(measured[width].values(), default=1.0) >= goal
        if is_reached:
            break
    store.set_width(width)
    first, when = store.widths[0], now()
    tuning = Tuning(width, measured[width], first, measured[first], store.count(), is_reached, when)
    store.write_notes(_KIND, {_KIND: asdict(tuning)})
    return tuning


def needs_tuning(store: Store) -> bool:
    """Whether a store that can be tuned never was, or has doubled since."""
    if not isinstance(store, Tunable):
        return False
    last = store.notes(_KIND).get(_KIND)
    return store.count() > 0 and (not last or store.count() > _GROWTH * max(1, last["pictures"]))


def exact_scores(store: Store, queries: Vectors, k: int) -> Vectors:
    """(q, dim) -> (q, at most k): the best scores of each query, best first, from a scan with constant memory."""
    best = np.empty((len(queries), 0), np.float32)
    for records in chunks(store.scan(), _AT_ONCE):
        scores = queries @ np.stack([record.vector for record in records]).T  # (q, dim) @ (dim, n) -> (q, n)
        joined = np.concatenate([best, scores], axis=1)
        best = np.partition(joined, -k, axis=1)[:, -k:] if joined.shape[1] > k else joined
    return np.asarray(-np.sort(-best, axis=1), np.float32)


def recall(hits: Sequence[Sequence[Hit]], truth: Vectors) -> float:
    """The part of the true neighbours that was found, 0 to 1: hits that score no less than the last true one."""
    if truth.shape[1] == 0:
        return 1.0
    right = [sum(hit.score >= row[-1] - SAME for hit in found) for found, row in zip(hits, truth, strict=True)]
    return float(np.mean(np.minimum(right, truth.shape[1])) / truth.shape[1])
