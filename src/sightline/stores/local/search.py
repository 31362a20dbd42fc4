"""A search in a view: slots that pass the filter, a scan of their codes, exact scores of the best, ties by id."""

import heapq
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sightline.filters.documents import load_payload
from sightline.filters.where import And, Compare, Exists, In, Match, Node, Not, Or, Scalar, kind_of
from sightline.stores.local.scan import NEVER, Quantiser, Scanner, Scores, Slots, exact_scores, near_best
from sightline.stores.local.schema import INDEXED_FIELDS
from sightline.stores.local.views import (
    MISSING,
    MOMENT,
    NUMBER,
    TEXT,
    TRUTH,
    Column,
    Stale,
    View,
    microseconds,
    path_of,
    text_hash,
)
from sightline.types import Hit, Vectors

Mask: TypeAlias = NDArray[np.bool_]
"""Shape (slots,)."""

_KINDS = {"number": NUMBER, "truth": TRUTH, "text": TEXT, "time": MOMENT}
_ORDERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "$gt": np.greater,
    "$gte": np.greater_equal,
    "$lt": np.less,
    "$lte": np.less_equal,
}
_SYMBOLS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_FEW = 8  # values: up to here comparing with each is faster than a binary search
_MOST_PARAMETERS = 500  # of one statement, well below SQLite's limits
_SCORES_BYTES = 32 * 2**20  # of coded scores at a time, so that many queries over many records stay in bounds
_SCAN_SHARE = 0.15  # of the rows: copying fewer is faster than scanning all (measured)
_ROWS = 500  # read from SQLite at once


def passing(connection: sqlite3.Connection, view: View, node: Node) -> Slots:
    """The slots of the records that pass, in order."""
    mask = _mask(connection, view, node)
    mask[view.tombstones] = False
    return np.flatnonzero(mask)


def _mask(connection: sqlite3.Connection, view: View, node: Node) -> Mask:
    match node:
        case And(parts):
            return _merged(connection, view, parts, np.logical_and, start=True)
        case Or(parts):
            return _merged(connection, view, parts, np.logical_or, start=False)
        case Not(part):
            return ~_mask(connection, view, part)
        case In(field, values):
            if field in INDEXED_FIELDS and all(isinstance(value, str) for value in values):
                return _looked_up(connection, view, field, values)
            return _in(_column(connection, view, field), values)
        case Compare(field, operator, bound):
            if isinstance(bound, str):
                return _compared_texts(connection, view, field, operator, bound)
            return _compared(_column(connection, view, field), operator, bound)
        case Exists(field):
            return np.not_equal(_column(connection, view, field).kinds, MISSING)
        case Match(words):
            return _matched(connection, view, words)


def _merged(connection: sqlite3.Connection, view: View, parts: Sequence[Node], merge: Any, *, start: bool) -> Mask:
    mask = np.full(view.state.slots, start)
    for part in parts:
        merge(mask, _mask(connection, view, part), out=mask)
    return mask


def _column(connection: sqlite3.Connection, view: View, field: str) -> Column:
    column = view.columns.column(connection, field, view.state.slots, view.state.version)
    if column.version > view.state.version:
        raise Stale
    return column


def _in(column: Column, values: Sequence[Scalar]) -> Mask:
    mask = np.zeros(len(column.kinds), np.bool_)
    by_kind: dict[int, list[Any]] = {}
    for value in values:
        by_kind.setdefault(_KINDS[kind_of(value)], []).append(_stored(value))
    for kind, wanted in by_kind.items():
        stored = column.numbers() if kind == NUMBER else column.values
        mask |= (column.kinds == kind) & _is_one_of(stored, wanted)
    if TEXT in by_kind and len(column.element_slots):
        mask[column.element_slots[_is_one_of(column.element_hashes, by_kind[TEXT])]] = True
    return mask


def _compared(column: Column, operator: str, bound: Scalar) -> Mask:
    kind = _KINDS[kind_of(bound)]
    stored = column.numbers() if kind == NUMBER else column.values
    with np.errstate(invalid="ignore"):  # the bits of other kinds may spell a NaN
        held: Mask = _ORDERINGS[operator](stored, _stored(bound))
    held &= column.kinds == kind
    return held


def _stored(value: Scalar) -> int | float:
    """A value as `Column.values` holds it."""
    if isinstance(value, str):
        return text_hash(value)
    return value if isinstance(value, bool | int | float) else microseconds(value)


def _is_one_of(stored: NDArray[Any], wanted: list[Any]) -> Mask:
    if len(wanted) > _FEW:
        return np.isin(stored, np.array(wanted, stored.dtype))
    mask = np.zeros(len(stored), np.bool_)
    with np.errstate(invalid="ignore"):
        for value in wanted:
            mask |= stored == value
    return mask


def _looked_up(connection: sqlite3.Connection, view: View, field: str, values: Sequence[Scalar]) -> Mask:
    """By SQLite's index of the field; the second half finds lists of text, by an index that is empty as a rule."""
    mask = np.zeros(view.state.slots, np.bool_)
    path = path_of(field)
    for at in range(0, len(values), _MOST_PARAMETERS):
        some = values[at : at + _MOST_PARAMETERS]
        marks = ", ".join("?" * len(some))
        rows = connection.execute(
            f"""SELECT slot FROM records JOIN slots USING (key)
                WHERE json_extract(payload, '{path}') IN ({marks}) AND json_type(payload, '{path}') = 'text'
                UNION ALL SELECT slot FROM records JOIN slots USING (key), json_each(records.payload, '{path}') AS e
                WHERE json_type(payload, '{path}') = 'array' AND e.value IN ({marks})""",
            (*some, *some),
        )
        mask[[slot for (slot,) in rows]] = True
    return mask


def _compared_texts(connection: sqlite3.Connection, view: View, field: str, operator: str, bound: str) -> Mask:
    """By SQLite, which orders text by its UTF-8 bytes, as Python orders it by code points: the same order."""
    symbol = _SYMBOLS[operator]
    rows = connection.execute(
        f"""SELECT slot FROM records JOIN slots USING (key)
            WHERE json_type(payload, ?1) = 'text' AND json_extract(payload, ?1) {symbol} ?2
            UNION ALL SELECT slot FROM records JOIN slots USING (key), json_each(records.payload, ?1) AS element
            WHERE json_type(payload, ?1) = 'array' AND element.value {symbol} ?2""",
        (path_of(field), bound),
    )
    return _mask_of(view, rows)


def _matched(connection: sqlite3.Connection, view: View, words: Sequence[str]) -> Mask:
    wanted = " ".join(f'"{word}"' for word in words)
    return _mask_of(
        view,
        connection.execute("SELECT slot FROM words JOIN slots ON key = words.rowid WHERE words MATCH ?", (wanted,)),
    )


def _mask_of(view: View, rows: sqlite3.Cursor) -> Mask:
    mask = np.zeros(view.state.slots, np.bool_)
    mask[[slot for (slot,) in rows]] = True
    return mask


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
        scores[:, view.tombstones] = NEVER
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
