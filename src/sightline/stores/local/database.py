"""The SQLite database of a local index: connections, transactions, and foreign errors turned into ours."""

import contextlib
import errno
import json
import os
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sightline.errors import StoreBusy, StoreDamaged, StoreError, StoreFull, StoreNotFound
from sightline.stores.local.schema import DATABASE

_WRITER = "writer.json"  # who took the write lock last, for the message of whoever waits in vain
_ASK_AGAIN_S = 0.002
_MAPPED_BYTES = 2**30  # of the database: reading ten hits takes 0.12 ms instead of 0.16 (measured after a scan)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class Database:
    """Gives transactions: any number that read, and one at a time that writes."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder, self._timeout_s = folder, timeout_s
        self._idle: deque[sqlite3.Connection] = deque()
        self._writer: sqlite3.Connection | None = None
        self._writing = threading.Lock()
        self._is_closed = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees the index as it is at its first read, whatever is written meanwhile."""
        self._check_open()
        with translated_errors(self._folder):
            connection = self._take()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                self._give_back(connection)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that may write, alone among all processes; durable when this ends without an error."""
        self._check_open()
        if not self._writing.acquire(timeout=self._timeout_s):
            raise _busy(self._folder)
        try:
            with translated_errors(self._folder):
                connection = self._connect_writer()
                try:
                    self._begin_write(connection)
                    self._sign()
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

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreError(f"{self._folder} was closed: open it again")

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return connect_reader(self._folder, self._timeout_s)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            raise
        self._idle.append(connection)
        if self._is_closed:
            self.close()

    def _begin_write(self, connection: sqlite3.Connection) -> None:
        """Wait for other writers by asking often: SQLite asks ten times a second, and busy writers would starve us."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(_ASK_AGAIN_S)

    def _connect_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            if not (self._folder / DATABASE).exists():
                raise StoreNotFound(f"the index at {self._folder} was removed: build it again")
            self._writer = connect_writer(self._folder, self._timeout_s)
            self._writer.execute("PRAGMA busy_timeout = 0")  # _begin_write does the waiting
        return self._writer

    def _sign(self) -> None:
        name = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat("T", "seconds")}
        with contextlib.suppress(OSError):  # only for a better message
            (self._folder / _WRITER).write_text(json.dumps(name), "utf-8")


def connect_reader(folder: Path, timeout_s: float) -> sqlite3.Connection:
    """A connection that never writes records; a folder without permission to write can be read if nobody writes."""
    if not os.access(folder, os.W_OK) and not _has_log(folder):
        return _connect(folder, "mode=ro&immutable=1", timeout_s)
    return _connect(folder, "mode=rw", timeout_s, "query_only = 1", f"mmap_size = {_MAPPED_BYTES}")


def connect_writer(folder: Path, timeout_s: float) -> sqlite3.Connection:
    """A connection whose commits are on the disk when they return."""
    # fullfsync is for macOS and changes nothing elsewhere
    settings = ("synchronous = FULL", "fullfsync = 1", f"journal_size_limit = {64 * 2**20}")
    return _connect(folder, "mode=rwc", timeout_s, *settings)


@contextlib.contextmanager
def translated_errors(folder: Path) -> Iterator[None]:
    """Turn the errors of SQLite and of the file system into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _of_sqlite(folder, error) from error
    except OSError as error:
        raise _of_system(folder, error) from error


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


def _has_log(folder: Path) -> bool:
    log = folder / f"{DATABASE}-wal"
    return log.exists() and log.stat().st_size > 0


def _of_sqlite(folder: Path, error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:  # the low byte is the kind, the rest says more
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return _busy(folder)
        case sqlite3.SQLITE_FULL:
            return _full(folder)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreDamaged(
                f"the database of {folder} is damaged ({error}): restore the folder from a backup, or delete it and "
                "index again"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
            if not (folder / DATABASE).exists():
                return StoreNotFound(f"the index at {folder} was removed: build it again")
            return StoreError(
                f"{folder} cannot be read and written ({error}), expected permission for both: change its "
                "permissions, or copy it to where you may write"
            )
    return StoreError(f"the database of {folder} failed ({error}): check the disk and try again")


def _of_system(folder: Path, error: OSError) -> StoreError:
    if error.errno in _FULL:
        return _full(folder)
    if error.errno in _FORBIDDEN:
        return StoreError(f"{folder} cannot be written ({error}), expected permission: change it, or use another path")
    if isinstance(error, FileNotFoundError) and not (folder / DATABASE).exists():
        return StoreNotFound(f"the index at {folder} was removed: build it again")
    if isinstance(error, FileNotFoundError):
        return StoreDamaged(
            f"a file of {folder} is missing ({error}): restore it from a backup, or run "
            "sightline status --repair, which removes the records that were lost, and index again"
        )
    return StoreError(f"{folder} cannot be used ({error}): check the disk and try again")


def _full(folder: Path) -> StoreFull:
    return StoreFull(f"no room is left on the disk of {folder}: free some and index again; nothing written is lost")


def _busy(folder: Path) -> StoreBusy:
    try:
        writer = json.loads((folder / _WRITER).read_text("utf-8"))
        holder = f"process {writer['pid']} on {writer['host']} since {writer['since']}"
    except (OSError, ValueError, KeyError):
        holder = "another process"
    return StoreBusy(f"{folder} is being written by {holder}: wait until it has finished, or end it, and try again")
