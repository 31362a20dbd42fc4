"""What a search needs in memory of one read transaction: mapped vectors, deleted slots, and columns to filter by.

A slot never changes, so a column is built once, at the first filter on its field, and only extended for new slots. A
filter over a million records then takes a millisecond.
"""

import json
import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.filters.documents import TIME
from sightline.stores.local.scan import Codes, Slots
from sightline.stores.local.schema import State, read_state
from sightline.stores.local.vectors import map_codes, map_vectors
from sightline.types import Vectors

PAGE_SLOTS = 65_536
"""Slots per row of the table `dead`: a bit each, so that a million slots are read in 16 rows."""
MISSING, NUMBER, TRUTH, TEXT, MOMENT, LIST = range(6)
"""The kinds of values in `Column.kinds`."""

_KINDS = {
    "integer": NUMBER,
    "real": NUMBER,
    "true": TRUTH,
    "false": TRUTH,
    "text": TEXT,
    "object": MOMENT,
    "array": LIST,
}
_MOST_COLUMNS = 12  # of 9 bytes a slot
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS = 8192  # read at once


class Stale(Exception):
    """What this transaction sees is older than what memory holds, or its files were compacted away: begin another."""


@dataclass(frozen=True, slots=True)
class View:
    """The index as one read transaction sees it."""

    state: State
    codes: Codes
    """(slots, dim)."""
    vectors: Vectors
    """(slots, dim)."""
    tombstones: Slots
    columns: "Columns"


class Views:
    """Keeps the newest view and gives it to every transaction that sees the same version."""

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder, self._dim = folder, dim
        self._lock = threading.Lock()
        self._newest: View | None = None

    def of(self, connection: sqlite3.Connection) -> View:
        """The view of a transaction; `Stale` if the transaction has to begin again."""
        state = read_state(connection)
        view = self._newest
        if view is None or view.state.version != state.version:
            with self._lock:
                view = self._refresh(connection, state)
        return view

    def forget(self) -> None:
        """Unmap the files, as soon as nobody searches in them."""
        self._newest = None

    def _refresh(self, connection: sqlite3.Connection, state: State) -> View:
        newest = self._newest
        if newest is None or newest.state.version < state.version:
            newest = self._newest = self._load(connection, state, newest)
        if newest.state.version > state.version:
            raise Stale
        return newest

    def _load(self, connection: sqlite3.Connection, state: State, old: View | None) -> View:
        tombstones = read_tombstones(connection)
        if old is not None and old.state.generation != state.generation:
            old = None
        if old is not None and old.state.slots == state.slots:
            return View(state, old.codes, old.vectors, tombstones, old.columns)
        try:
            codes = map_codes(self._folder, state.generation, self._dim, state.slots)
            vectors = map_vectors(self._folder, state.generation, self._dim, state.slots)
        except FileNotFoundError as error:
            raise Stale from error
        return View(state, codes, vectors, tombstones, Columns() if old is None else old.columns)


def read_tombstones(connection: sqlite3.Connection) -> Slots:
    """The slots, in order, whose records were replaced or deleted."""
    pages = [
        page * PAGE_SLOTS + np.flatnonzero(_unpack(bits))
        for page, bits in connection.execute("SELECT page, bits FROM dead ORDER BY page")
    ]
    return np.concatenate(pages) if pages else np.empty(0, np.int64)


def mark_deleted(connection: sqlite3.Connection, slots: Slots) -> None:
    """Note that slots hold no record any more."""
    for page in np.unique(slots // PAGE_SLOTS).tolist():
        row = connection.execute("SELECT bits FROM dead WHERE page = ?", (page,)).fetchone()
        flags = _unpack(row[0]) if row else np.zeros(PAGE_SLOTS, np.uint8)
        flags[slots[slots // PAGE_SLOTS == page] % PAGE_SLOTS] = 1
        bits = np.packbits(flags, bitorder="little").tobytes()
        connection.execute("INSERT OR REPLACE INTO dead VALUES (?, ?)", (page, bits))


def _unpack(bits: bytes) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")


@dataclass(frozen=True, slots=True)
class Column:
    """One field of every slot."""

    version: int
    """Of the transaction that read the last rows: an older one may still see records that these rows miss."""
    kinds: NDArray[np.uint8]
    """(slots,)"""
    values: NDArray[np.int64]
    """(slots,): a number's float64 bits, 0 or 1, a text's hash, or microseconds since 1970."""
    element_slots: NDArray[np.int64]
    """(e,): the slot of each element of a list of text."""
    element_hashes: NDArray[np.int64]
    """(e,)"""

    def numbers(self) -> NDArray[np.float64]:
        """(slots,): the values as numbers; nonsense where the kind is another."""
        return self.values.view(np.float64)


class Columns:
    """The columns of one generation, the least recently used ones forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._building: dict[str, threading.Lock] = {}
        self._columns: OrderedDict[str, Column] = OrderedDict()

    def column(self, connection: sqlite3.Connection, field: str, slots: int, version: int) -> Column:
        """The column of a field for at least `slots` slots, built or extended if needed."""
        with self._lock:
            building = self._building.setdefault(field, threading.Lock())
        with building:
            column = self._columns.get(field)
            if column is None or len(column.kinds) < slots:
                column = _extended(connection, field, column, slots, version)
            with self._lock:
                self._columns[field] = column
                self._columns.move_to_end(field)
                if len(self._columns) > _MOST_COLUMNS:
                    self._columns.popitem(last=False)
        return column


def path_of(field: str) -> str:
    """The field as SQLite's JSON functions name it."""
    return f'$."{field}"'


def microseconds(moment: datetime) -> int:
    """Since 1970 in UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def text_hash(text: str) -> int:
    """64 bits that tell texts apart within this process."""
    return hash(text)


def _extended(connection: sqlite3.Connection, field: str, old: Column | None, slots: int, version: int) -> Column:
    start = 0 if old is None else len(old.kinds)
    kinds, values = np.zeros(slots - start, np.uint8), np.zeros(slots - start, np.int64)
    lists = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    rows = connection.execute(
        "SELECT slot, json_type(payload, ?1), json_extract(payload, ?1) FROM slots JOIN records USING (key) "
        "WHERE slot >= ?2 AND json_type(payload, ?1) IS NOT NULL ORDER BY slot",
        (path_of(field), start),
    )
    while some := rows.fetchmany(_ROWS):
        numbers, names, found = zip(*some, strict=True)
        at = np.array(numbers, np.int64)
        of = kinds[at - start] = np.array([_KINDS[name] for name in names], np.uint8)
        for kind in np.unique(of).tolist():
            where = np.flatnonzero(of == kind)
            chosen = [found[index] for index in where.tolist()]
            if kind == LIST:
                lists.append(_elements(at[where], chosen))
            else:
                values[at[where] - start] = _encoded(kind, chosen)
    new = Column(version, kinds, values, *(np.concatenate(arrays) for arrays in zip(*lists, strict=True)))
    return new if old is None else _joined(old, new)


def _encoded(kind: int, found: list[Any]) -> NDArray[np.int64]:
    if kind == NUMBER:
        return np.array(found, np.float64).view(np.int64)
    if kind == TEXT:
        found = [text_hash(text) for text in found]
    if kind == MOMENT:
        found = [microseconds(datetime.fromisoformat(json.loads(text)[TIME])) for text in found]
    return np.array(found, np.int64)


def _elements(slots: NDArray[np.int64], found: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lists of text as JSON and their slots, (n,) -> the slot (e,) and the hash (e,) of each element."""
    hashes = [[text_hash(element) for element in json.loads(text)] for text in found]
    lengths = [len(some) for some in hashes]
    return np.repeat(slots, lengths), np.array([one for some in hashes for one in some], np.int64)


def _joined(old: Column, new: Column) -> Column:
    return Column(
        new.version,
        np.concatenate([old.kinds, new.kinds]),
        np.concatenate([old.values, new.values]),
        np.concatenate([old.element_slots, new.element_slots]),
        np.concatenate([old.element_hashes, new.element_hashes]),
    )
