"""What a read transaction sees of the index: mapped vectors, deleted slots, columns, and the slots that pass a filter.

A slot never changes, so a column is built once, at the first filter on its field, and only extended for new slots. A
filter over a million records then takes a millisecond.
"""

import json
import mmap
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sightline.errors import StoreDamaged
from sightline.filters.documents import TIME
from sightline.filters.where import And, Compare, Exists, In, Match, Node, Not, Or, Scalar, kind_of, microseconds
from sightline.stores.local.database import INDEXED_FIELDS, State, read_state
from sightline.stores.local.vectors import Codes, Slots, check_size, map_files
from sightline.types import Vectors, chunks

Mask: TypeAlias = NDArray[np.bool_]
"""Shape (slots,)."""

PAGE_SLOTS = 65_536
"""Slots per row of the table `dead`: a bit each, so that a million slots are read in 16 rows."""

_MISSING, _NUMBER, _TRUTH, _TEXT, _MOMENT, _LIST = range(6)  # the kinds of values in a column
_KINDS_OF_JSON = {"integer": _NUMBER, "real": _NUMBER, "true": _TRUTH, "false": _TRUTH, "text": _TEXT,
                  "object": _MOMENT, "array": _LIST}  # fmt: skip
_KINDS = {"number": _NUMBER, "truth": _TRUTH, "text": _TEXT, "time": _MOMENT}
_ORDERINGS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "$gt": (">", np.greater),
    "$gte": (">=", np.greater_equal),
    "$lt": ("<", np.less),
    "$lte": ("<=", np.less_equal),
}
_MOST_COLUMNS = 12  # of 9 bytes a slot
_ROWS = 8192  # read at once
_FEW = 8  # values: up to here comparing with each is faster than a binary search
_MOST_PARAMETERS = 500  # of one statement, well below SQLite's limits


class Stale(Exception):
    """What this transaction sees is older than what memory holds, or its files were compacted away: begin another."""


@dataclass(frozen=True, slots=True)
class View:
    """The index as one read transaction sees it; codes and vectors are (slots, dim)."""

    folder: Path
    state: State
    codes: Codes
    vectors: Vectors
    mapped: list[mmap.mmap]
    tombstones: Slots
    columns: "Columns"

    def check(self) -> None:
        """Raise `StoreDamaged` if a file was shortened: a mapped page beyond its end would end the process.

        It takes a microsecond. Call it right before rows are read, and after: in the last page they are zeros.
        """
        for file in self.mapped:
            check_size(self.folder, file.size(), len(file))


@dataclass(slots=True)
class Views:
    """Keeps the newest view and gives it to every transaction that sees the same version."""

    folder: Path
    dim: int
    newest: View | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, connection: sqlite3.Connection) -> View:
        """The view of a transaction; `Stale` if the transaction has to begin again, `StoreDamaged`."""
        state, view = read_state(connection), self.newest
        if view is None or view.state.version != state.version:
            with self.lock:
                view = self.newest
                if view is not None and view.state.version > state.version:
                    raise Stale
                if view is None or view.state.version < state.version:
                    tombstones = read_tombstones(connection)
                    if view is not None and view.state.generation != state.generation:
                        view = None
                    if view is not None and view.state.slots == state.slots:
                        view = replace(view, state=state, tombstones=tombstones)
                    else:
                        try:
                            codes, vectors, mapped = map_files(self.folder, state.generation, self.dim, state.slots)
                        except FileNotFoundError as error:
                            raise Stale from error
                        columns = view.columns if view else Columns()
                        view = View(self.folder, state, codes, vectors, mapped, tombstones, columns)
                    self.newest = view
        try:
            view.check()
        except StoreDamaged:
            self.newest = None  # it may be restored
            raise
        return view


def passing(connection: sqlite3.Connection, view: View, node: Node) -> Slots:
    """The slots of the records that pass, in order."""
    mask = _mask(connection, view, node)
    mask[view.tombstones] = False
    return np.flatnonzero(mask)


def rows_of(connection: sqlite3.Connection, column: str, values: Iterable[Any]) -> Iterator[tuple[int, str, str, str]]:
    """Slot, id, URI and payload as JSON of the records with those slots or ids, by the column's name; in no order."""
    for some in chunks(values, _MOST_PARAMETERS):
        marks = ", ".join("?" * len(some))
        yield from connection.execute(
            f"SELECT slot, id, uri, payload FROM slots JOIN records USING (key) WHERE {column} IN ({marks})", some
        )


def read_tombstones(connection: sqlite3.Connection) -> Slots:
    """The slots, in order, whose records were replaced or deleted."""
    pages = [
        page * PAGE_SLOTS + np.flatnonzero(unpacked(bits))
        for page, bits in connection.execute("SELECT page, bits FROM dead ORDER BY page")
    ]
    return np.concatenate(pages) if pages else np.empty(0, np.int64)


def unpacked(bits: bytes) -> NDArray[np.uint8]:
    """A row of the table `dead` as a flag for each of its slots."""
    return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")


@dataclass(frozen=True, slots=True)
class Column:
    """One field of every slot.

    `version` is of the transaction that read the last rows: an older one may still see records that these rows miss.
    `values` are (slots,): a number's float64 bits, 0 or 1, a text's hash, or microseconds since 1970. The elements of
    lists of text have their slots and hashes in arrays of their own, (e,).
    """

    version: int
    kinds: NDArray[np.uint8]
    values: NDArray[np.int64]
    element_slots: NDArray[np.int64]
    element_hashes: NDArray[np.int64]

    def values_of(self, kind: int) -> NDArray[Any]:
        """The values as that kind; nonsense where the kind is another."""
        return self.values.view(np.float64) if kind == _NUMBER else self.values


@dataclass(slots=True)
class Columns:
    """The columns of one generation, the least recently used ones forgotten."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    building: dict[str, threading.Lock] = field(default_factory=dict)
    kept: OrderedDict[str, Column] = field(default_factory=OrderedDict)

    def column(self, connection: sqlite3.Connection, name: str, state: State) -> Column:
        """The column of a field for at least the slots of a state, built or extended if needed; may raise `Stale`."""
        with self.lock:
            building = self.building.setdefault(name, threading.Lock())
        with building:
            column = self.kept.get(name)
            if column is None or len(column.kinds) < state.slots:
                column = _extended(connection, name, column, state)
            with self.lock:
                self.kept[name] = column
                self.kept.move_to_end(name)
                if len(self.kept) > _MOST_COLUMNS:
                    self.kept.popitem(last=False)
        if column.version > state.version:
            raise Stale
        return column


def _extended(connection: sqlite3.Connection, name: str, old: Column | None, state: State) -> Column:
    start = 0 if old is None else len(old.kinds)
    kinds, values = np.zeros(state.slots - start, np.uint8), np.zeros(state.slots - start, np.int64)
    lists = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    rows = connection.execute(
        "SELECT slot, json_type(payload, ?1), json_extract(payload, ?1) FROM slots JOIN records USING (key) "
        "WHERE slot >= ?2 AND json_type(payload, ?1) IS NOT NULL ORDER BY slot",
        (_path_of(name), start),
    )
    while some := rows.fetchmany(_ROWS):
        numbers, names, found = zip(*some, strict=True)
        at = np.array(numbers, np.int64)
        of = kinds[at - start] = np.array([_KINDS_OF_JSON[one] for one in names], np.uint8)
        for kind in np.unique(of).tolist():
            where = np.flatnonzero(of == kind)
            chosen = [found[index] for index in where.tolist()]
            if kind == _LIST:  # texts as JSON (n,) -> the slot (e,) and the hash (e,) of each element
                hashes = [[hash(element) for element in json.loads(text)] for text in chosen]
                repeated = np.repeat(at[where], [len(one) for one in hashes])
                lists.append((repeated, np.array([one for few in hashes for one in few], np.int64)))
            else:
                values[at[where] - start] = _encoded(kind, chosen)
    arrays: list[NDArray[Any]] = [kinds, values, *(np.concatenate(parts) for parts in zip(*lists, strict=True))]
    if old is not None:
        before: list[NDArray[Any]] = [old.kinds, old.values, old.element_slots, old.element_hashes]
        arrays = [np.concatenate(pair) for pair in zip(before, arrays, strict=True)]
    return Column(state.version, *arrays)


def _encoded(kind: int, found: list[Any]) -> NDArray[np.int64]:
    if kind == _NUMBER:
        return np.array(found, np.float64).view(np.int64)
    if kind == _MOMENT:
        found = [datetime.fromisoformat(json.loads(text)[TIME]) for text in found]
    return np.array(found if kind == _TRUTH else [_stored(value) for value in found], np.int64)


def _stored(value: Scalar) -> int | float:
    """A value as `Column.values` holds it; a text's 64 bits tell it apart within this process."""
    if isinstance(value, str):
        return hash(value)
    return microseconds(value) if isinstance(value, datetime) else value


def _path_of(name: str) -> str:
    """A field as SQLite's JSON functions name it."""
    return f'$."{name}"'


def _mask(connection: sqlite3.Connection, view: View, node: Node) -> Mask:
    match node:
        case And(parts) | Or(parts):
            mask = np.full(view.state.slots, isinstance(node, And))
            merge = np.logical_and if isinstance(node, And) else np.logical_or
            for part in parts:
                merge(mask, _mask(connection, view, part), out=mask)
            return mask
        case Not(part):
            return ~_mask(connection, view, part)
        case In(name, values):
            if name in INDEXED_FIELDS and all(isinstance(value, str) for value in values):
                return _looked_up(connection, view, name, values)
            return _in(view.columns.column(connection, name, view.state), values)
        case Compare(name, operator, str() as bound):
            return _compared_texts(connection, view, name, operator, bound)
        case Compare(name, operator, bound):
            return _compared(view.columns.column(connection, name, view.state), operator, bound)
        case Exists(name):
            return np.not_equal(view.columns.column(connection, name, view.state).kinds, _MISSING)
        case Match(words):
            statement = "SELECT slot FROM words JOIN slots ON key = words.rowid WHERE words MATCH ?"
            return _mask_of(view, connection.execute(statement, (" ".join(f'"{word}"' for word in words),)))


def _in(column: Column, values: Sequence[Scalar]) -> Mask:
    mask = np.zeros(len(column.kinds), np.bool_)
    by_kind: dict[int, list[Any]] = {}
    for value in values:
        by_kind.setdefault(_KINDS[kind_of(value)], []).append(_stored(value))
    for kind, wanted in by_kind.items():
        mask |= (column.kinds == kind) & _is_one_of(column.values_of(kind), wanted)
    if _TEXT in by_kind and len(column.element_slots):
        mask[column.element_slots[_is_one_of(column.element_hashes, by_kind[_TEXT])]] = True
    return mask


def _is_one_of(stored: NDArray[Any], wanted: list[Any]) -> Mask:
    if len(wanted) > _FEW:
        return np.isin(stored, np.array(wanted, stored.dtype))
    mask = np.zeros(len(stored), np.bool_)
    with np.errstate(invalid="ignore"):
        for value in wanted:
            mask |= stored == value
    return mask


def _compared(column: Column, operator: str, bound: Scalar) -> Mask:
    kind = _KINDS[kind_of(bound)]
    _, is_so = _ORDERINGS[operator]
    with np.errstate(invalid="ignore"):  # the bits of other kinds may spell a NaN
        held: Mask = is_so(column.values_of(kind), _stored(bound))
    held &= column.kinds == kind
    return held


def _looked_up(connection: sqlite3.Connection, view: View, name: str, values: Sequence[Scalar]) -> Mask:
    """By SQLite's index of the field; the second half finds lists of text, by an index that is empty as a rule."""
    mask, path = np.zeros(view.state.slots, np.bool_), _path_of(name)
    for some in chunks(values, _MOST_PARAMETERS):
        marks = ", ".join("?" * len(some))
        rows = connection.execute(
            f"""SELECT slot FROM records JOIN slots USING (key)
                WHERE json_extract(payload, '{path}') IN ({marks}) AND json_type(payload, '{path}') = 'text'
                UNION ALL SELECT slot FROM records JOIN slots USING (key), json_each(records.payload, '{path}') AS e
                WHERE json_type(payload, '{path}') = 'array' AND e.value IN ({marks})""",
            (*some, *some),
        )
        mask |= _mask_of(view, rows)
    return mask


def _compared_texts(connection: sqlite3.Connection, view: View, name: str, operator: str, bound: str) -> Mask:
    """By SQLite, which orders text by its UTF-8 bytes, as Python orders it by code points: the same order."""
    symbol, _ = _ORDERINGS[operator]
    rows = connection.execute(
        f"""SELECT slot FROM records JOIN slots USING (key)
            WHERE json_type(payload, ?1) = 'text' AND json_extract(payload, ?1) {symbol} ?2
            UNION ALL SELECT slot FROM records JOIN slots USING (key), json_each(records.payload, ?1) AS element
            WHERE json_type(payload, ?1) = 'array' AND element.value {symbol} ?2""",
        (_path_of(name), bound),
    )
    return _mask_of(view, rows)


def _mask_of(view: View, rows: sqlite3.Cursor) -> Mask:
    mask = np.zeros(view.state.slots, np.bool_)
    mask[[slot for (slot,) in rows]] = True
    return mask
