"""A store's answers compared with the exact ones, and its search width chosen so that they agree."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sightline.calibration.exact import exact_scores, recall
from sightline.stores.base import Store, Tunable
from sightline.types import Vectors

GOAL = 0.98
"""The recall that a width must reach, for each kind of query apart."""

_KIND = "recall"  # the kind of note, and its key, that keeps what was measured
_K = 10
_GROWTH = 2.0  # a graph that has doubled needs another width


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured at the width in use: recall of the exact best 10 by kind of query, 0 to 1.

    `default` holds the same at the engine's own width, `reached` says whether the goal was met, `pictures` how many
    there were.
    """

    width: int
    recalls: Mapping[str, float]
    default_width: int
    default: Mapping[str, float]
    pictures: int
    reached: bool
    when: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def tune(store: Store, queries: Mapping[str, Vectors], *, goal: float = GOAL) -> Tuning:
    """Set the smallest width that finds `goal` of the true neighbours of each kind of query, and note what it found.

    `queries` are unit vectors (q, dim) by kind: text queries lie elsewhere than pictures, and a width that is right for
    the one loses 20 to 40 % of the other. If none reaches the goal, the widest is set. Costs one scan of the store.
    """
    if not isinstance(store, Tunable):
        raise TypeError("this store is exact: there is nothing to tune")
    truth = {kind: exact_scores(store, vectors, _K) for kind, vectors in queries.items()}

    def measure(width: int) -> dict[str, float]:
        found = {kind: store.search_at(vectors, _K, width) for kind, vectors in queries.items()}
        return {kind: recall(found[kind], truth[kind]) for kind in queries}

    default = measure(store.widths[0])
    width, recalls = _smallest(store, measure, default, goal)
    store.set_width(width)
    is_reached = min(recalls.values(), default=1.0) >= goal
    when = datetime.now(UTC).isoformat(timespec="seconds")
    tuning = Tuning(width, recalls, store.widths[0], default, store.count(), is_reached, when)
    store.write_notes(_KIND, {_KIND: tuning.to_dict()})
    return tuning


def tuning_of(store: Store) -> Tuning | None:
    """What was measured last, if anything was."""
    note = store.notes(_KIND).get(_KIND)
    return Tuning(**note) if note else None


def needs_tuning(store: Store) -> bool:
    """Whether a store that can be tuned never was, or has doubled since."""
    if not isinstance(store, Tunable):
        return False
    last = tuning_of(store)
    return store.count() > 0 and (last is None or store.count() > _GROWTH * max(1, last.pictures))


def _smallest(
    store: Tunable, measure: Callable[[int], dict[str, float]], default: dict[str, float], goal: float
) -> tuple[int, dict[str, float]]:
    """The first of the widths that reaches the goal, by going up; else the last."""
    width, recalls = store.widths[0], default
    for width in store.widths:
        recalls = default if width == store.widths[0] else measure(width)
        if min(recalls.values(), default=1.0) >= goal:
            break
    return width, recalls
