"""A read transaction turned into what a search needs in memory: mapped vectors, dead slots, filter columns."""

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.stores.local.columns import Columns
from sightline.stores.local.quantise import Codes
from sightline.stores.local.scan import Slots
from sightline.stores.local.schema import State, read_state
from sightline.stores.local.vectors import map_codes, map_vectors
from sightline.types import Vectors

PAGE_SLOTS = 65_536
"""Slots per row of the table `dead`: a bit each, so that a million slots are read in 16 rows."""


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
    dead: Slots
    columns: Columns


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
        dead = read_dead(connection)
        if old is not None and old.state.generation != state.generation:
            old = None
        if old is not None and old.state.slots == state.slots:
            return View(state, old.codes, old.vectors, dead, old.columns)
        try:
            codes = map_codes(self._folder, state.generation, self._dim, state.slots)
            vectors = map_vectors(self._folder, state.generation, self._dim, state.slots)
        except FileNotFoundError as error:
            raise Stale from error
        return View(state, codes, vectors, dead, Columns() if old is None else old.columns)


def read_dead(connection: sqlite3.Connection) -> Slots:
    """The slots, in order, whose records were replaced or deleted."""
    pages = [
        page * PAGE_SLOTS + np.flatnonzero(_unpack(bits))
        for page, bits in connection.execute("SELECT page, bits FROM dead ORDER BY page")
    ]
    return np.concatenate(pages) if pages else np.empty(0, np.int64)


def mark_dead(connection: sqlite3.Connection, slots: Slots) -> None:
    """Note that slots hold no record any more."""
    for page in np.unique(slots // PAGE_SLOTS).tolist():
        row = connection.execute("SELECT bits FROM dead WHERE page = ?", (page,)).fetchone()
        flags = _unpack(row[0]) if row else np.zeros(PAGE_SLOTS, np.uint8)
        flags[slots[slots // PAGE_SLOTS == page] % PAGE_SLOTS] = 1
        bits = np.packbits(flags, bitorder="little").tobytes()
        connection.execute("INSERT OR REPLACE INTO dead VALUES (?, ?)", (page, bits))


def _unpack(bits: bytes) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
