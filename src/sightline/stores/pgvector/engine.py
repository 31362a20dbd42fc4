"""PostgreSQL with pgvector as the engine of a store: one table of records, one of notes, neighbours by HNSW."""

import contextlib
import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np
import psycopg
from psycopg.conninfo import make_conninfo

from sightline.errors import StoreBusy, StoreError, StoreForbidden, StoreFull, StoreNotFound, summary
from sightline.filters.documents import load_payload
from sightline.filters.where import Node
from sightline.stores.pgvector import schema
from sightline.stores.pgvector.filters import Condition, condition_of, is_storable
from sightline.stores.pgvector.schema import COLUMNS, Connection, Server, parse_server
from sightline.stores.remote import EVERYTHING, Calls, TunableEngine, TunableStore
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors, chunks

UNTUNED_WIDTH = 400
"""Until it is measured: pgvector's 40 finds little more than half of the neighbours of a text query."""

_PAGE_RECORDS = 500
_BATCH_RECORDS = 5000  # of one COPY; measured: 25,000 records/s, 17,000 in batches of 1,000
_FEW_IDS = 10_000  # so many may be sorted in memory, instead of walking along the ids
_SLOW_RECORDS_PER_S = 150  # a writer no faster than this waits for its model: a graph keeps up with it
_CHECK_RECORDS = 2000
_MOST_OF_GRAPH = 1000  # hits of one scan of the graph before 0.8, and enough for anybody after it
_SURE = 3  # times as many as a few, because statistics of JSON are rough
_SPARE = 2  # candidates per hit: ranked in half precision, they change places near the end

_FEW = """
WITH few AS MATERIALIZED (SELECT id, embedding <#> %s::vector AS distance FROM {{table}} WHERE {where} LIMIT %s)
SELECT id, uri, payload, -distance, (SELECT count(*) FROM few)
FROM (SELECT * FROM few ORDER BY distance, id LIMIT %s) AS best JOIN {{table}} USING (id) ORDER BY distance, id
"""
# Adding 0 hides the order from the planner, which would take the graph.
_ALL = """
SELECT id, uri, payload, -distance FROM (
    SELECT id, uri, payload, (embedding <#> %s::vector) + 0 AS distance FROM {{table}} WHERE {where}
    ORDER BY distance, id LIMIT %s
) AS best ORDER BY distance, id
"""
_GRAPH = """
SELECT id, uri, payload, -distance FROM (
    SELECT id, uri, payload, embedding <#> %s::vector AS distance FROM (
        SELECT id, uri, payload, embedding FROM {{table}} WHERE {where} ORDER BY {{nearness}} LIMIT %s
    ) AS near ORDER BY distance, id LIMIT %s
) AS best ORDER BY distance, id
"""
_SETTINGS = """
SELECT set_config('enable_seqscan', 'off', true), set_config('hnsw.ef_search', greatest(%s, coalesce(
    %s, (SELECT (entry::json -> 1 ->> 'width')::int FROM {notes} WHERE kind = 'width' LIMIT 1), %s))::text, true)
"""
_ITERATIVE = "SELECT set_config('hnsw.iterative_scan', 'strict_order', true)"
_WRITE_NOTES = """
INSERT INTO {notes} SELECT %s, * FROM unnest(%s::bytea[], %s::text[])
ON CONFLICT (kind, key) DO UPDATE SET entry = excluded.entry
"""
_SIZE = "SELECT sum(pg_total_relation_size(quote_ident(name)::regclass)) FROM unnest(%s::text[]) AS name"

# Deadlock and a row of two writers at once, too many connections, a server that stops, starts or changes roles.
_TRANSIENT = {"23505", "40001", "40P01", "53300", "57P01", "57P02", "57P03", "57P05"}
_FORBIDDEN = {"28000", "28P01", "42501", "25006"}
_SLOW = {"55P03", "57014"}

# An error at connecting has no code, only the server's words.
_REFUSED = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|role .* does not exist|permission denied for database"
)
_NO_DATABASE = re.compile(r"database .* does not exist")

_log = logging.getLogger(__name__)

T = TypeVar("T")


def open_url(url: StoreUrl | str, *, dim: int | None = None) -> "TunableStore[PgvectorEngine]":
    """The index in a table that a postgresql: URL names, created if `dim` is given and nothing is there."""
    return TunableStore(PgvectorEngine(parse_server(url), dim))


class PgvectorEngine(TunableEngine):
    """Keeps records in a table of PostgreSQL; any number of processes may read and write.

    Exact while no more than 20,000 records match; through an HNSW graph beyond, which is built by the first writer that
    closes, or that waits for its model anyway. `dim` creates the table if it is missing; without it, it must exist. The
    width is hnsw.ef_search.
    """

    most_hits = 2**31 - 1
    widths: Sequence[int] = (40, 64, 100, 160, 250, 400, 630, 1000)  # from pgvector's default to its limit
    untuned_width = UNTUNED_WIDTH
    reads_width = True

    def __init__(self, server: Server, dim: int | None) -> None:
        self.server = server
        timeout_s = server.options["patience_s"]
        self.calls = Calls(server.name, timeout_s, is_transient=_is_transient, translate=self._translated)
        self._idle: deque[Connection] = deque()
        self._free = threading.BoundedSemaphore(max(1, server.options["connections"]))
        self._has_graph = False
        self._began, self._written, self._unchecked = 0.0, 0, 0
        with self.opening():
            self.table = self.transact(partial(schema.open_table, server=server, dim=dim))
        self.dim = self.table.dim

    def write(self, records: Sequence[Record], vectors: Vectors) -> None:
        """Deleting and copying, because it is up to 1.5 times as fast as a temporary table with INSERT ... ON CONFLICT.

        Of two writers of one new id the second fails with a unique violation, and is tried again.
        """
        copied = self.table.query(f"COPY {{table}} ({COLUMNS}, fields) FROM STDIN WITH (FORMAT binary)")

        def replace(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
            self._delete(connection, [row[0] for row in rows])
            with connection.cursor() as cursor, cursor.copy(copied) as copy:
                for row in rows:
                    copy.write_row(row)

        self._began = self._began or time.monotonic()
        for rows in chunks(schema.rows_of(records, vectors), _BATCH_RECORDS):
            self.transact(partial(replace, rows=rows))
        self._written += len(records)
        self._unchecked += len(records)
        if self._unchecked >= _CHECK_RECORDS and self._written < _SLOW_RECORDS_PER_S * (time.monotonic() - self._began):
            self.build_graph()

    def delete(self, ids: Sequence[str]) -> int:
        return self.transact(partial(self._delete, ids=ids))

    def nearest(self, queries: Vectors, limit: int, node: Node, width: int | None) -> list[list[Hit]]:
        """The best of each query; `width` is the noted one when it is None."""
        find = partial(self._find, limit=limit, condition=condition_of(node), width=width)
        texts = (f"[{','.join(map(repr, query.tolist()))}]" for query in queries)
        return [self.read(partial(find, query=text)) for text in texts]

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        return self._records("WHERE id = ANY(%s)", list(filter(is_storable, ids)))

    def scan(self, node: Node, *, with_vectors: bool) -> Iterator[Record]:
        """The records that match, in order of id, page by page; goes on after a restart of the server."""
        where, given = condition_of(node)
        if node != EVERYTHING:
            few = self._rows(f"SELECT id FROM {{table}} WHERE {where} LIMIT %s", *given, _FEW_IDS + 1)
            if len(few) <= _FEW_IDS:
                for ids in chunks(sorted(name for (name,) in few), _PAGE_RECORDS):
                    yield from sorted(self.fetch(ids), key=lambda record: record.id)
                return
        last, rest = "", f"WHERE id > %s AND {where} ORDER BY id LIMIT %s"
        while page := self._records(rest, last, *given, _PAGE_RECORDS):
            yield from page
            last = page[-1].id

    def count(self, node: Node) -> int:
        where, given = condition_of(node)
        return int(self._rows(f"SELECT count(*) FROM {{table}} WHERE {where}", *given)[0][0])

    def notes(self, kind: str) -> Iterable[tuple[str, Note]]:
        found = (json.loads(entry) for (entry,) in self._rows("SELECT entry FROM {notes} WHERE kind = %s", kind))
        return ((key, note) for key, note in found)

    def write_notes(self, kind: str, notes: Mapping[str, Note], removed: Sequence[str]) -> None:
        # Sorted, so that two writers of the same notes wait for each other and not both.
        kept = sorted((_digest(key), json.dumps([key, note])) for key, note in notes.items())
        gone = sorted(map(_digest, removed))

        def write(connection: Connection) -> None:
            if gone:
                remove = self.table.query("DELETE FROM {notes} WHERE kind = %s AND key = ANY(%s)")
                connection.execute(remove, (kind, gone))
            if kept:
                keys, entries = zip(*kept, strict=True)
                connection.execute(self.table.query(_WRITE_NOTES), (kind, list(keys), list(entries)))

        self.transact(write)

    def finish_indexing(self) -> None:
        self.build_graph()  # recall differs with it, so it must be there before it is measured

    def build_graph(self, timeout_s: float | None = None) -> bool:
        """Build the graph if there are more than 20,000 records and none is there yet; gives whether it was built."""
        self._unchecked = 0
        if self._has_graph:
            return False
        build = partial(schema.build_graph, table=self.table, server=self.server)
        try:
            return self.transact(build, timeout_s=timeout_s)
        except StoreFull:  # also what a container says that has no shared memory for the workers
            return self.transact(partial(build, workers=0), timeout_s=timeout_s)

    def size_bytes(self) -> int:
        return int(self._rows(_SIZE, [self.table.name, f"{self.table.name}_notes"])[0][0])

    def drop(self) -> None:
        statement = self.table.query("DROP TABLE IF EXISTS {table}, {notes}")
        self.transact(lambda connection: connection.execute(statement))
        self._written = 0

    def close(self) -> None:
        """Build the graph if this store has made the table large, and give back the connections."""
        if self._written and not self.calls.is_closed:
            try:
                self.build_graph(timeout_s=0)
            except StoreError as error:
                _log.warning("the graph was not built, so searches compare all records until it is: %s", error)
        self.calls.close()
        self._close_idle()  # a call under way closes its connection when it ends

    def read(self, action: Callable[[Connection], T]) -> T:
        """What the action gives, each of its statements a transaction; tried again while the server is away."""
        return self.calls.make(lambda: self._once(action))

    def transact(self, action: Callable[[Connection], T], *, timeout_s: float | None = None) -> T:
        """What the action gives in one transaction, durable when this returns; tried again while the server is away."""

        def in_transaction(connection: Connection) -> T:
            with connection.transaction():
                return action(connection)

        return self.calls.make(lambda: self._once(in_transaction), timeout_s=timeout_s)

    def _rows(self, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        statement = self.table.query(text)
        return self.read(lambda connection: connection.execute(statement, parameters).fetchall())

    def _records(self, rest: str, *parameters: object) -> list[Record]:
        statement = self.table.query(f"SELECT {COLUMNS} FROM {{table}} {rest}")

        def select(connection: Connection) -> list[tuple[Any, ...]]:
            with connection.cursor(binary=True) as cursor:
                return cursor.execute(statement, parameters).fetchall()

        return [
            Record(name, uri, np.frombuffer(data, ">f4", offset=4).astype(np.float32), load_payload(payload))
            for name, uri, data, payload in self.read(select)
        ]

    def _delete(self, connection: Connection, ids: Sequence[str]) -> int:
        statement = self.table.query("DELETE FROM {table} WHERE id = ANY(%s)")
        return connection.execute(statement, (list(filter(is_storable, ids)),)).rowcount

    def _find(
        self, connection: Connection, query: str, limit: int, condition: Condition, width: int | None
    ) -> list[Hit]:
        where, given = condition
        is_large = self._has_graph
        if is_large and given:  # the planner may be sure that many fulfil the condition, without a look at them
            statement = self.table.query(f"EXPLAIN (FORMAT JSON) SELECT FROM {{table}} WHERE {where}")
            (((plan,),),) = connection.execute(statement, given)
            is_large = bool(plan["Plan"]["Plan Rows"] > _SURE * self.table.few)
        if not is_large:
            statement = self.table.query(_FEW.format(where=where))
            found = connection.execute(statement, (query, *given, self.table.few + 1, limit)).fetchall()
            if not found or found[0][4] <= self.table.few:
                return _hits(found)
            self._has_graph = self._has_graph or schema.has_graph(connection, self.table)
        if self._has_graph and limit <= _MOST_OF_GRAPH:
            hits = self._nearest_by_graph(connection, query, limit, condition, width)
            if len(hits) == limit:
                return hits
        statement = self.table.query(_ALL.format(where=where))
        return _hits(connection.execute(statement, (query, *given, limit)).fetchall())

    def _nearest_by_graph(
        self, connection: Connection, query: str, limit: int, condition: Condition, width: int | None
    ) -> list[Hit]:
        """The nearest records that the graph finds, fewer than `limit` where it does not find as many.

        Ranked by the full vectors. Runs in one round trip.
        """
        candidates = min(_SPARE * limit, _MOST_OF_GRAPH) if self.table.is_half else limit
        parameters = (query, *condition.parameters, query, candidates, limit)
        # The filter takes away from what the graph finds, so it needs the widest; from 0.8 on the scan then goes on.
        least = _MOST_OF_GRAPH if condition.parameters else candidates
        pipeline = connection.pipeline() if psycopg.Pipeline.is_supported() else contextlib.nullcontext()
        with pipeline, connection.transaction():
            connection.execute(self.table.query(_SETTINGS), (least, width, UNTUNED_WIDTH))
            if self.table.is_iterative:
                connection.execute(_ITERATIVE)
            found = connection.execute(self.table.query(_GRAPH.format(where=condition.sql)), parameters).fetchall()
        return _hits(found)

    def _once(self, action: Callable[[Connection], T]) -> T:
        """What the action gives on one of a few connections.

        Not psycopg_pool: it connects in threads of its own, so that a wrong password is no error of the caller's but a
        time limit that passes.
        """
        with self._free:
            self.calls.check_open()
            connection = self._take()
            try:
                result = action(connection)
            except BaseException as error:
                connection.close()
                if isinstance(error, psycopg.Error) and error.sqlstate in (None, "57P01", "57P02"):
                    self._close_idle()  # the server ended them, too
                raise
            self._idle.append(connection)
            if self.calls.is_closed:
                self._close_idle()
            return result

    def _take(self) -> Connection:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        # Not prepared: a generic plan knows no filter's value, and poolers between us and the server forget them.
        where = make_conninfo(**self.server.connect)
        connection = psycopg.connect(where, autocommit=True, prepare_threshold=None)
        connection.add_notice_handler(lambda notice: _log.info("%s: %s", self.server.name, notice.message_primary))
        connection.execute("SET jit = off")  # it compiles for longer than these statements run
        return connection

    def _close_idle(self) -> None:
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()

    def _translated(self, error: Exception) -> StoreError | None:
        if not isinstance(error, psycopg.Error):
            return None
        what, words, state = self.server.name, summary(error), error.sqlstate
        if state in _FORBIDDEN or (state is None and _REFUSED.search(str(error))):
            return StoreForbidden(
                f"{what} refuses ({words}), expected a user and password who may read and write there: correct them, "
                "or grant the user what it names"
            )
        if state is None and _NO_DATABASE.search(str(error)):
            return StoreNotFound(f"{what} has no such database ({words}): create it with createdb, then try again")
        if state == "42P01":
            return StoreNotFound(f"the table of {what} was removed: build the index again")
        if state == "53100":
            return StoreFull(f"no room is left on the disk of {what}: free some and go on; nothing written is lost")
        if state in _SLOW:
            return StoreBusy(f"{what} took longer than its own limits allow ({words}): raise them, or try again")
        return StoreError(f"{what} failed ({words}): look into the log of the server and try again")


def _is_transient(error: Exception) -> bool:
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate:
        return error.sqlstate in _TRANSIENT or error.sqlstate.startswith("08")
    words = str(error)
    is_lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return is_lost and not _REFUSED.search(words) and not _NO_DATABASE.search(words)


def _hits(found: Sequence[tuple[Any, ...]]) -> list[Hit]:
    return [
        Hit(name, uri, max(-1.0, min(1.0, score)), load_payload(payload)) for name, uri, payload, score, *_ in found
    ]


def _digest(key: str) -> bytes:
    """Stands for a key, which may be a URI that is too long for an index."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
