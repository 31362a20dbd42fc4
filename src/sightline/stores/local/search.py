"""Queries and a view turned into hits: a scan of the codes, exact scores of what came near, ties by id."""

import heapq
import math
import sqlite3
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from sightline.filters.documents import load_payload
from sightline.stores.local.quantise import Quantiser
from sightline.stores.local.scan import NEVER, Scanner, Scores, Slots, exact_scores, near_best
from sightline.stores.local.views import View
from sightline.types import Hit, Vectors

_SCORES_BYTES = 32 * 2**20  # of coded scores at a time, so that many queries over many records stay in bounds
_SCAN_SHARE = 0.15  # of the rows: copying fewer is faster than scanning all (measured)
_ROWS = 500  # read from SQLite at once


def nearest(
    view: View, scanner: Scanner, quantiser: Quantiser, queries: Vectors, wanted: int, passing: Slots | None
) -> Iterator[tuple[Slots, NDArray[np.float32]]]:
    """For each of (q, dim) queries the slots and exact scores of the `wanted` best and those that tie with the last."""
    codes, scales, lost = quantiser.encode_queries(queries)
    margins = [
        math.ceil(quantiser.margin(view.state.residual, *one) / (quantiser.scale * scale))
        for scale, *one in zip(scales, lost, np.linalg.norm(queries, axis=1).tolist(), strict=True)
    ]
    count = view.state.slots if passing is None else len(passing)
    step = max(1, _SCORES_BYTES // (4 * max(1, count)))
    for at in range(0, len(queries), step):
        scores = _coded_scores(view, scanner, codes[at : at + step], passing)  # (step, count)
        for query, some, margin in zip(queries[at:], scores, margins[at:], strict=False):
            near = near_best(some, wanted, margin)
            yield _best(view, near if passing is None else passing[near], query, wanted)


def read_hits(
    connection: sqlite3.Connection, slots: Slots, scores: NDArray[np.float32], offset: int, end: int
) -> list[Hit]:
    """The hits from `offset` to `end`, best first, ties by id."""
    by_slot = dict(zip(slots.tolist(), scores.tolist(), strict=True))
    rows = ((-by_slot[slot], *rest) for slot, *rest in rows_of(connection, by_slot))
    # By score, then by id, which no two rows share. Sorting is faster for a few, and a heap needs no room for all ties.
    best = (sorted(rows) if len(by_slot) <= 2 * end else heapq.nsmallest(end, rows))[offset:end]
    return [Hit(name, uri, max(-1.0, min(1.0, -score)), load_payload(payload)) for score, name, uri, payload in best]


def rows_of(connection: sqlite3.Connection, slots: Iterable[int]) -> Iterator[tuple[int, str, str, str]]:
    """Slot, id, URI and payload as JSON of the records in those slots, in no order."""
    every = list(slots)
    for at in range(0, len(every), _ROWS):
        some = every[at : at + _ROWS]
        yield from connection.execute(
            f"""SELECT slot, id, uri, payload FROM slots JOIN records USING (key)
                WHERE slot IN ({", ".join("?" * len(some))})""",
            some,
        )


def _coded_scores(view: View, scanner: Scanner, queries: NDArray[np.int8], passing: Slots | None) -> Scores:
    if passing is None:
        scores = scanner.scan(view.codes, queries)
        scores[:, view.dead] = NEVER
        return scores
    if len(passing) > _SCAN_SHARE * view.state.slots:
        return scanner.scan(view.codes, queries)[:, passing]
    return scanner.scan_some(view.codes, passing, queries)


def _best(view: View, near: Slots, query: NDArray[np.float32], wanted: int) -> tuple[Slots, NDArray[np.float32]]:
    scores = exact_scores(view.vectors, near, query)
    if len(scores) <= wanted:
        return near, scores
    kth = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
    best = np.flatnonzero(scores >= kth)
    return near[best], scores[best]
