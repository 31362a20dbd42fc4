"""Fields of payloads turned into arrays by slot, so that a filter over a million records takes a millisecond.

A slot never changes, so a column is built once, at the first filter on its field, and only extended for new slots.
"""

import json
import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.filters.documents import TIME

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
