"""Calls turned into work on a connection that is open: taken from a few, opened again when the server comes back."""

import contextlib
import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from sightline.errors import StoreBusy, StoreError, StoreForbidden, StoreFull, StoreNotFound
from sightline.stores.pgvector.server import Server
from sightline.stores.retries import persist

_log = logging.getLogger(__name__)

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# Deadlock and a row of two writers at once, too many connections, a server that stops, starts or changes roles.
_PASSING = {"23505", "40001", "40P01", "53300", "57P01", "57P02", "57P03", "57P05"}
_FORBIDDEN = {"28000", "28P01", "42501", "25006"}
_SLOW = {"55P03", "57014"}

# An error at connecting has no code, only the server's words.
_REFUSED = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|role .* does not exist|permission denied for database"
)
_NO_DATABASE = re.compile(r"database .* does not exist")


class Connections:
    """At most so many connections of this process, each for one call at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._idle: deque[Connection] = deque()
        self._free = threading.BoundedSemaphore(server.connections)
        self.is_closed = False

    def read(self, action: Callable[[Connection], T]) -> T:
        """What the action gives, each of its statements a transaction; tried again while the server is away."""
        return self._persist(action, self._server.patience_s)

    def transact(self, action: Callable[[Connection], T], *, patience_s: int | None = None) -> T:
        """What the action gives in one transaction, durable when this returns; tried again while the server is away."""

        def in_transaction(connection: Connection) -> T:
            with connection.transaction():
                return action(connection)

        return self._persist(in_transaction, self._server.patience_s if patience_s is None else patience_s)

    def close(self) -> None:
        """Close what is idle; a call under way closes its connection when it ends."""
        self.is_closed = True
        self._forget_idle()

    def _persist(self, action: Callable[[Connection], T], patience_s: int) -> T:
        try:
            return persist(
                lambda: self._once(action), is_passing=_is_passing, what=self._server.name, patience_s=patience_s
            )
        except psycopg.Error as error:
            raise _translated(error, self._server) from error

    def _once(self, action: Callable[[Connection], T]) -> T:
        with self._free:
            self._check_open()
            connection = self._take()
            try:
                result = action(connection)
            except BaseException as error:
                connection.close()
                if isinstance(error, psycopg.Error) and error.sqlstate in (None, "57P01", "57P02"):
                    self._forget_idle()  # the server ended them, too
                    self._check_open()
                raise
            self._idle.append(connection)
            if self.is_closed:
                self._forget_idle()
            return result

    def _take(self) -> Connection:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        # Not prepared: a generic plan knows no filter's value, and poolers between us and the server forget them.
        where = make_conninfo(**self._server.connect)
        connection = psycopg.connect(where, autocommit=True, prepare_threshold=None)
        connection.add_notice_handler(lambda notice: _log.info("%s: %s", self._server.name, notice.message_primary))
        connection.execute("SET jit = off")  # it compiles for longer than these statements run
        return connection

    def _forget_idle(self) -> None:
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()

    def _check_open(self) -> None:
        if self.is_closed:
            raise StoreError(f"{self._server.name} was closed: open it again")


def _is_passing(error: Exception) -> bool:
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate:
        return error.sqlstate in _PASSING or error.sqlstate.startswith("08")
    words = str(error)
    is_lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return is_lost and not _REFUSED.search(words) and not _NO_DATABASE.search(words)


def _translated(error: psycopg.Error, server: Server) -> StoreError:
    words, state = str(error).strip().split("\n", 1)[0], error.sqlstate
    if state in _FORBIDDEN or (state is None and _REFUSED.search(words)):
        return StoreForbidden(
            f"{server.name} refuses ({words}), expected a user and password who may read and write there: correct "
            "them, or grant the user what it names"
        )
    if state is None and _NO_DATABASE.search(words):
        return StoreNotFound(f"{server.name} has no such database ({words}): create it with createdb, then try again")
    if state == "42P01":
        return StoreNotFound(f"the table of {server.name} was removed: build the index again")
    if state == "53100":
        return StoreFull(f"no room is left on the disk of {server.name}: free some and go on; nothing written is lost")
    if state in _SLOW:
        return StoreBusy(f"{server.name} took longer than its own limits allow ({words}): raise them, or try again")
    return StoreError(f"{server.name} failed ({words}): look into the log of the server and try again")
