"""The tables of a local index: made, recognised and read back."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import DimensionMismatch, StoreDamaged, StoreNotFound, StoreTooNew
from sightline.stores.local.scan import ROTATION
from sightline.stores.local.vectors import create_files

DATABASE = "index.sqlite"
"""The file name of the database inside the folder of an index."""

FORMAT = 1
"""The version of tables and vector files. What reads an older one stays; a newer one is refused."""

INDEXED_FIELDS = ("sha256",)
"""Fields that nearly every record has another value in and that are looked up by equality: SQLite indexes them."""

_MAGIC = b"SQLite format 3\0"
_APPLICATION_ID = 0x53_4C_49_31  # "SLI1" in the database's header says whose it is

# `key` names a record for its life, `slot` its row in the vector files: compaction renumbers slots only.
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE state (version INTEGER, generation INTEGER, slots INTEGER, live INTEGER, next_key INTEGER, residual REAL);
CREATE TABLE records (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE slots (slot INTEGER PRIMARY KEY, key INTEGER NOT NULL UNIQUE);
CREATE TABLE dead (page INTEGER PRIMARY KEY, bits BLOB NOT NULL);
CREATE TABLE batches (first INTEGER PRIMARY KEY, count INTEGER, codes_crc INTEGER, vectors_crc INTEGER);
CREATE TABLE notes (kind TEXT, name TEXT, document TEXT, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'ascii', detail = 'none', columnsize = 0);
"""
_FIELD_INDEXES = """
CREATE INDEX records_{field} ON records (json_extract(payload, '$."{field}"'));
CREATE INDEX records_{field}_lists ON records (key) WHERE json_type(payload, '$."{field}"') = 'array';
"""


@dataclass(frozen=True, slots=True)
class State:
    """The counters of an index, in one row that every commit of records replaces."""

    version: int
    """Counts commits: a reader that saw the same version saw the same records."""
    generation: int
    slots: int
    """Rows of the vector files in use, deleted ones included."""
    live: int
    next_key: int
    residual: float
    """The largest distance between a rotated vector and its codes."""


def check_folder(folder: Path, *, may_create: bool) -> None:
    """Raise `StoreNotFound` if the index is missing and may not be created, or if the folder is something else's."""
    file = folder / DATABASE
    if folder.exists() and not folder.is_dir():
        raise StoreNotFound(f"{folder} is a file, expected the folder of an index: name another path")
    if not folder.exists() or not any(folder.iterdir()):
        if may_create:
            return
        raise StoreNotFound(f"there is no index at {folder}: check the path, or build one with sightline index")
    if not file.exists():
        raise StoreNotFound(
            f"{folder} holds files but no {DATABASE}, expected an index or an empty folder: name another path"
        )
    with file.open("rb") as opened:
        header = opened.read(100)
    if not header:  # who creates it was interrupted before the first byte, or is at it now
        if may_create:
            return
        raise StoreNotFound(f"the index at {folder} is not finished yet: build it with sightline index")
    if not header.startswith(_MAGIC):
        raise StoreDamaged(f"{file} is not a database, expected one: restore it from a backup, or delete {folder}")
    if int.from_bytes(header[68:72], "big") != _APPLICATION_ID:
        raise StoreNotFound(f"{file} belongs to another program, expected an index of Sightline: name another path")


def create_index(connection: sqlite3.Connection, folder: Path, dim: int) -> None:
    """Make the tables and the first vector files, unless they are there."""
    if _has_tables(connection):
        return
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    if not _has_tables(connection):
        create_files(folder, 0)
        for statement in _TABLES.strip().split(";\n"):
            connection.execute(statement)
        for field in INDEXED_FIELDS:
            for statement in _FIELD_INDEXES.format(field=field).strip().splitlines():
                connection.execute(statement)
        meta = {"format": FORMAT, "dim": dim, "rotation": ROTATION}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        write_state(connection, State(version=0, generation=0, slots=0, live=0, next_key=1, residual=0.0))
    connection.execute("COMMIT")


def read_dim(connection: sqlite3.Connection, folder: Path, dim: int | None) -> int:
    """The length of the vectors; raises if the index is newer than this program, unfinished, or has another dim."""
    if not _has_tables(connection):
        raise StoreNotFound(f"the index at {folder} was never finished: delete the folder and build it again")
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    if meta["format"] > FORMAT or meta["rotation"] > ROTATION:
        raise StoreTooNew(
            f"{folder} has the format {meta['format']}.{meta['rotation']}, expected at most {FORMAT}.{ROTATION}: "
            "update Sightline"
        )
    if dim is not None and dim != meta["dim"]:
        raise DimensionMismatch(
            f"{folder} holds vectors of {meta['dim']} dimensions, not {dim}: open it with the model that built it, "
            "or build a new index"
        )
    return int(meta["dim"])


def read_state(connection: sqlite3.Connection) -> State:
    """The counters as this transaction sees them."""
    return State(*connection.execute("SELECT * FROM state").fetchone())


def write_state(connection: sqlite3.Connection, state: State) -> None:
    """Replace the counters."""
    connection.execute("DELETE FROM state")
    row = (state.version, state.generation, state.slots, state.live, state.next_key, state.residual)
    connection.execute("INSERT INTO state VALUES (?, ?, ?, ?, ?, ?)", row)


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'state'").fetchone() is not None
