"""The SQLite database of a local index: tables, connections and transactions, and foreign errors turned into ours."""

import contextlib
import errno
import json
import os
import shutil
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from sightline.errors import (
    DimensionMismatch,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreNotFound,
    StoreTooNew,
    summary,
)
from sightline.stores.local.vectors import DATABASE, create_files, sync_folder
from sightline.types import now

FORMAT = 3
"""The version of tables and vector files. What reads an older one stays; a newer one is refused.

Format 2 has checksums of records and notes, format 3 full text; an older one becomes one of 3 when it is first written
to.
"""
ROTATION = 1
"""The version of the rotation of `search.py`: with another one, every code stored before is wrong."""
INDEXED_FIELDS = ("sha256",)
"""Fields that nearly every record has another value in and that are looked up by equality: SQLite indexes them."""

_WRITER = "writer.json"  # who took the write lock last, for the message of whoever waits in vain
_ASK_AGAIN_S = 0.002
_LEAST_ROOM_BYTES = 64 * 1024
# Mapping the database, reading ten hits takes 0.12 ms instead of 0.16 (measured after a scan).
_READING = ("query_only = 1", f"mmap_size = {2**30}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_MAGIC = b"SQLite format 3\0"
_APPLICATION_ID = 0x53_4C_49_31  # "SLI1" in the database's header says whose it is

# `key` names a record for its life, `slot` its row in the vector files: compaction renumbers slots only.
SLOTS_TABLE = "CREATE TABLE slots (slot INTEGER PRIMARY KEY, key INTEGER NOT NULL UNIQUE)"
# `words` is for the filter $match and has captions, titles and names; `written` is for searching, with all that people
# write.
_FULL_TEXT = """\
CREATE VIRTUAL TABLE written USING fts5 (text, tokenize = 'ascii', detail = 'none', columnsize = 0);
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (written, row);\
"""
_TABLES = f"""
{SLOTS_TABLE};
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE state (version INTEGER, generation INTEGER, slots INTEGER, live INTEGER, next_key INTEGER, residual REAL);
CREATE TABLE records (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, payload TEXT NOT NULL,
                      crc INTEGER);
CREATE TABLE dead (page INTEGER PRIMARY KEY, bits BLOB NOT NULL);
CREATE TABLE batches (first INTEGER PRIMARY KEY, count INTEGER, codes_crc INTEGER, vectors_crc INTEGER);
CREATE TABLE notes (kind TEXT, name TEXT, document TEXT, crc INTEGER, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'ascii', detail = 'none', columnsize = 0);
{_FULL_TEXT}
"""
_FIND_TABLES = "SELECT 1 FROM sqlite_schema WHERE name = 'state'"
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


class Database:
    """Gives transactions: any number that read, and one at a time that writes."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder, self._timeout_s = folder, timeout_s
        self._idle: deque[sqlite3.Connection] = deque()
        self._writer: sqlite3.Connection | None = None
        self._writing = threading.Lock()
        self._is_closed = False
        self._seen: os.stat_result | None = None

    def check_current(self) -> None:
        """Raise `StoreNotFound` if the database is gone, another one took its place, or one was copied over it.

        Connections would go on reading a file that was moved away, and die of a mapped one that was shortened.
        """
        try:
            now = (self._folder / DATABASE).stat()
        except FileNotFoundError:
            raise _removed(self._folder) from None
        if self._seen and (not os.path.samestat(self._seen, now) or now.st_size < self._seen.st_size):
            raise StoreNotFound(f"another index was put at {self._folder} meanwhile: open it again")
        self._seen = now

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Refuse what comes after `close`, and turn the errors of SQLite and of the file system into ours."""
        if self._is_closed:
            raise StoreError(f"{self._folder} was closed: open it again")
        try:
            yield
        except sqlite3.Error as error:
            raise _of_sqlite(self._folder, error) from error
        except OSError as error:
            raise _of_system(self._folder, error) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees the index as it is at its first read, whatever is written meanwhile."""
        with self.guarded():
            self.check_current()
            try:
                connection = self._idle.pop()
            except IndexError:
                log = self._folder / f"{DATABASE}-wal"
                # A folder without permission to write can be read if nobody writes.
                is_still = not os.access(self._folder, os.W_OK) and not (log.exists() and log.stat().st_size > 0)
                mode, settings = ("mode=ro&immutable=1", ()) if is_still else ("mode=rw", _READING)
                connection = _connect(self._folder, mode, self._timeout_s, *settings)
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                try:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                except sqlite3.Error:
                    connection.close()
                    raise
                self._idle.append(connection)
                if self._is_closed:
                    self.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that may write, alone among all processes; durable when this ends without an error."""
        with self.guarded():
            self.check_current()
            if not self._writing.acquire(timeout=self._timeout_s):
                raise _busy(self._folder)
            try:
                connection = self._begin_write()
                try:
                    with contextlib.suppress(OSError):  # only for a better message
                        name = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
                        (self._folder / _WRITER).write_text(json.dumps(name), "utf-8")
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:  # a full disk may already have ended it
                        connection.execute("ROLLBACK")
                    raise
            finally:
                self._writing.release()

    def close(self) -> None:
        """Close what is idle; a transaction under way closes its connection when it ends."""
        with self._writing:
            self._is_closed = True
            if self._writer is not None:
                self._writer.close()
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()

    def _begin_write(self) -> sqlite3.Connection:
        """Wait for other writers by asking often: SQLite asks ten times a second, and busy writers would starve us."""
        if self._writer is None:
            self._writer = _connect_writer(self._folder, self._timeout_s)
            self._writer.execute("PRAGMA busy_timeout = 0")
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                return self._writer
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(_ASK_AGAIN_S)


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


def create_index(folder: Path, dim: int, timeout_s: float) -> None:
    """Make the folder, the tables and the first vector files, unless they are there; for their owner's eyes."""
    folder.mkdir(0o700, parents=True, exist_ok=True)  # paths, captions and places are their owner's
    with contextlib.suppress(FileExistsError):
        os.close(os.open(folder / DATABASE, os.O_CREAT | os.O_EXCL, 0o600))  # all other files take over its mode
    with contextlib.closing(_connect_writer(folder, timeout_s)) as connection:
        if connection.execute(_FIND_TABLES).fetchone():
            return
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute(_FIND_TABLES).fetchone():
            create_files(folder, 0)
            for statement in _TABLES.strip().split(";\n"):
                connection.execute(statement)
            create_field_indexes(connection)
            meta = {"format": FORMAT, "dim": dim, "rotation": ROTATION}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            write_state(connection, State(version=0, generation=0, slots=0, live=0, next_key=1, residual=0.0))
        connection.execute("COMMIT")
    sync_folder(folder.parent)


def create_field_indexes(connection: sqlite3.Connection) -> None:
    """Make the indexes of `INDEXED_FIELDS`, anew if they are there: also of rows that are not what they were."""
    for field in INDEXED_FIELDS:
        for name in (f"records_{field}", f"records_{field}_lists"):
            connection.execute(f"DROP INDEX IF EXISTS {name}")
        for statement in _FIELD_INDEXES.format(field=field).strip().splitlines():
            connection.execute(statement)


def upgrade(connection: sqlite3.Connection) -> None:
    """Give an older index what it lacks; its rows get checksums when they are written or repaired.

    The texts of its records are read later: `unread` in the table `meta` is how many keys may have some, from 1 on.
    """
    (found,) = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    if found < 2:
        for table in ("records", "notes"):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN crc INTEGER")
    if found < FORMAT:
        for statement in _FULL_TEXT.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('unread', ?)", (read_state(connection).next_key - 1,))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'format'", (FORMAT,))


def read_dim(connection: sqlite3.Connection, folder: Path, dim: int | None) -> int:
    """The length of the vectors; raises if the index is newer than this program, unfinished, or has another dim."""
    if not connection.execute(_FIND_TABLES).fetchone():
        raise StoreNotFound(f"the index at {folder} was never finished: sightline index goes on with it")
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    if not {"format", "rotation", "dim"} <= set(meta):
        raise damaged_database(folder, "meta")
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
    connection.execute("INSERT INTO state VALUES (?, ?, ?, ?, ?, ?)", astuple(state))


def _connect_writer(folder: Path, timeout_s: float) -> sqlite3.Connection:
    """A connection whose commits are on the disk when they return."""
    # fullfsync is for macOS and changes nothing elsewhere
    settings = ("synchronous = FULL", "fullfsync = 1", f"journal_size_limit = {64 * 2**20}")
    return _connect(folder, "mode=rwc", timeout_s, *settings)


def _connect(folder: Path, mode: str, timeout_s: float, *settings: str) -> sqlite3.Connection:
    uri = f"{(folder / DATABASE).absolute().as_uri()}?{mode}"
    connection = sqlite3.connect(uri, timeout=timeout_s, isolation_level=None, check_same_thread=False, uri=True)
    try:
        for setting in settings:
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def _of_sqlite(folder: Path, error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:  # the low byte is the kind, the rest says more
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return _busy(folder)
        case sqlite3.SQLITE_FULL:
            return _full(folder)
        case sqlite3.SQLITE_IOERR if folder.exists() and shutil.disk_usage(folder).free < _LEAST_ROOM_BYTES:
            return _full(folder)  # even reading needs some, for what readers and writers share
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged_database(folder, str(error))
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
            if not (folder / DATABASE).exists():
                return _removed(folder)
            return StoreError(
                f"{folder} cannot be read and written ({error}), expected permission for both: change its "
                "permissions, or copy it to where you may write"
            )
    if "malformed JSON" in str(error) or "Could not decode" in str(error):
        return damaged_record(folder, error)
    return StoreError(f"the database of {folder} failed ({error}): check the disk and try again")


def _of_system(folder: Path, error: OSError) -> StoreError:
    if error.errno in _FULL:
        return _full(folder)
    if error.errno in _FORBIDDEN:
        return StoreError(f"{folder} cannot be written ({error}), expected permission: change it, or use another path")
    if isinstance(error, FileNotFoundError) and not (folder / DATABASE).exists():
        return _removed(folder)
    if isinstance(error, FileNotFoundError):
        return StoreDamaged(
            f"a file of {folder} is missing ({error}): restore it from a backup, or run "
            "sightline status --repair, which removes the records that were lost, and index again"
        )
    return StoreError(f"{folder} cannot be used ({error}): check the disk and try again")


def damaged_database(folder: Path, what: str) -> StoreDamaged:
    """The error for a database that SQLite cannot read."""
    return StoreDamaged(
        f"the database of {folder} is damaged ({what}): restore the folder from a backup, or delete it and index again"
    )


def damaged_record(folder: Path, error: Exception) -> StoreDamaged:
    """The error for a row that is not what was written, as it shows when it is read."""
    return StoreDamaged(
        f"a record of {folder} is damaged ({summary(error)}): run sightline status --repair, which takes out what is "
        "lost, and index again"
    )


def _removed(folder: Path) -> StoreNotFound:
    return StoreNotFound(f"the index at {folder} was removed: build it again")


def _full(folder: Path) -> StoreFull:
    return StoreFull(f"no room is left on the disk of {folder}: free some and index again; nothing written is lost")


def _busy(folder: Path) -> StoreBusy:
    try:
        writer = json.loads((folder / _WRITER).read_text("utf-8"))
        holder = f"process {writer['pid']} on {writer['host']} since {writer['since']}"
    except (OSError, ValueError, KeyError):
        holder = "another process"
    return StoreBusy(f"{folder} is being written by {holder}: wait until it has finished, or end it, and try again")
