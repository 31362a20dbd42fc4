"""A filter turned into the slots that pass it."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sightline.filters.where import And, Compare, Exists, In, Match, Node, Not, Or, Scalar, kind_of
from sightline.stores.local.columns import (
    MISSING,
    MOMENT,
    NUMBER,
    TEXT,
    TRUTH,
    Column,
    microseconds,
    path_of,
    text_hash,
)
from sightline.stores.local.scan import Slots
from sightline.stores.local.schema import INDEXED_FIELDS
from sightline.stores.local.views import Stale, View

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


def passing(connection: sqlite3.Connection, view: View, node: Node) -> Slots:
    """The slots of the records that pass, in order."""
    mask = _mask(connection, view, node)
    mask[view.dead] = False
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
