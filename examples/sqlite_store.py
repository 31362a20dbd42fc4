"""A store in one SQLite table, compared in numpy: all that an engine must do, and no more."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sightline.errors import StoreError
from sightline.filters.documents import dump_note, dump_payload, load_note, load_payload
from sightline.filters.where import Node, matches
from sightline.stores.remote import Calls, Engine, RemoteStore, check_marker, missing_index
from sightline.stores.url import StoreUrl, parse_address
from sightline.types import Hit, Note, Record, Vectors

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (id TEXT PRIMARY KEY, uri TEXT, payload TEXT, vector BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (kind TEXT, name TEXT, note TEXT, PRIMARY KEY (kind, name));
"""
MARKER = "sqlite"  # the kind of note, and its key, that says what the index is


def open_url(url: StoreUrl | str, *, dim: int | None = None) -> "RemoteStore[SqliteEngine]":
    """The store of `sqlite:/folder/photos.db`, created if `dim` is given and nothing is there."""
    address = parse_address(url, {"patience_s": 5})
    return RemoteStore(SqliteEngine(Path("/", address.name), address.options["patience_s"], dim))


class SqliteEngine(Engine):
    """What SQLite does; the rest is done by `RemoteStore`."""

    most_hits = 1_000_000

    def __init__(self, path: Path, timeout_s: float, dim: int | None) -> None:
        self.calls = Calls(f"sqlite:{path}", timeout_s, is_transient=_is_locked, translate=self._translated)
        if not path.exists():
            missing_index(self.calls.what, dim)
        self._lock = threading.Lock()  # one connection for all threads
        self._database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        with self.opening():
            self._execute_all([(one, [()]) for one in SCHEMA.strip().split("\n")])
            marker = dict(self.notes(MARKER)).get(MARKER)
            if marker is None:
                marker = {"format": 1, "dim": missing_index(self.calls.what, dim)}
                self.write_notes(MARKER, {MARKER: marker}, [])
            self.dim = check_marker(self.calls.what, marker, dim)

    def write(self, records: Sequence[Record], vectors: Vectors) -> None:
        rows = [
            (record.id, record.uri, dump_payload(record.payload), vector.astype("<f4").tobytes())
            for record, vector in zip(records, vectors, strict=True)
        ]
        self._execute_all([("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", rows)])

    def delete(self, ids: Sequence[str]) -> int:
        return self._execute_all([("DELETE FROM records WHERE id = ?", [(name,) for name in ids])])

    def nearest(self, queries: Vectors, limit: int, node: Node, width: int | None) -> list[list[Hit]]:
        records = [record for record in self.scan(node, with_vectors=True) if matches(record.payload, node)]
        if not records:
            return [[] for _ in queries]
        scores = np.clip(queries @ np.stack([record.vector for record in records]).T, -1, 1)  # -> (q, n)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :limit]
        return [
            [Hit(records[at].id, records[at].uri, float(row[at]), records[at].payload) for at in places]
            for row, places in zip(scores, best, strict=True)
        ]

    def fetch(self, ids: Sequence[str]) -> Iterable[Record]:
        found = (self._select("SELECT * FROM records WHERE id = ?", name) for name in ids)
        return [_record(row) for rows in found for row in rows]

    def scan(self, node: Node, *, with_vectors: bool) -> Iterator[Record]:
        last = ""
        while page := self._select("SELECT * FROM records WHERE id > ? ORDER BY id LIMIT 500", last):
            yield from map(_record, page)
            last = page[-1][0]

    def count(self, node: Node) -> int | None:
        return None  # the records are looked at one by one

    def notes(self, kind: str) -> Iterable[tuple[str, Note]]:
        found = self._select("SELECT name, note FROM notes WHERE kind = ?", kind)
        return [(json.loads(name), load_note(note)) for name, note in found]

    def write_notes(self, kind: str, notes: Mapping[str, Note], removed: Sequence[str]) -> None:
        kept = [(kind, json.dumps(name), dump_note(note)) for name, note in notes.items()]
        gone = [(kind, json.dumps(name)) for name in removed]
        self._execute_all(
            [
                ("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", kept),
                ("DELETE FROM notes WHERE kind = ? AND name = ?", gone),
            ]
        )

    def size_bytes(self) -> int | None:
        ((pages, size),) = self._select("SELECT * FROM pragma_page_count, pragma_page_size")
        return int(pages) * int(size)

    def drop(self) -> None:
        self._execute_all([("DROP TABLE records", [()]), ("DROP TABLE notes", [()])])

    def close(self) -> None:
        if not self.calls.is_closed:
            self.calls.close()
            self._database.close()

    def _select(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        def select() -> list[tuple[str, ...]]:
            with self._lock:
                return self._database.execute(statement, values).fetchall()

        return self.calls.make(select)

    def _execute_all(self, statements: Sequence[tuple[str, Sequence[tuple[object, ...]]]]) -> int:
        """All of it or nothing, durable when this returns; gives how many rows were changed."""

        def execute() -> int:
            with self._lock, self._database:
                self._database.execute("BEGIN IMMEDIATE")
                return sum(
                    self._database.execute(statement, row).rowcount for statement, rows in statements for row in rows
                )

        return self.calls.make(execute)

    def _translated(self, error: Exception) -> StoreError | None:
        if isinstance(error, sqlite3.Error | ValueError):
            return StoreError(f"{self.calls.what} failed ({error}): check that it is a database of this store")
        return None


def _is_locked(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _record(row: tuple[str, ...]) -> Record:
    name, uri, payload, vector = row
    return Record(name, uri, np.frombuffer(vector, "<f4"), load_payload(payload))  # type: ignore[call-overload]
