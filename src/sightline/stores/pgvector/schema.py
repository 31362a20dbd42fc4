"""An index in PostgreSQL: its URL, its two tables and their graph, and the statements that write and read rows."""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import psycopg
from psycopg import pq, sql

from sightline.errors import StoreError, UsageError
from sightline.filters.documents import dump_payload, load_payload
from sightline.stores.pgvector.filters import Condition, fields_of, is_storable
from sightline.stores.remote import TIMEOUT_S, check_marker, missing_index
from sightline.stores.url import StoreUrl, parse_address
from sightline.types import Note, Record, Vector, Vectors

EXACT_BELOW = 20_000
"""Comparing so many takes 25 ms at 512 dimensions, no more than a graph that finds as much."""

_MARK = "Sightline index, leave this comment: "
_OLDEST, _HALF, _ITERATIVE = (0, 6), (0, 7), (0, 8)  # of pgvector: parallel builds, halfvec, iterative scans
_LARGEST_DIM = 16_000
_INLINE_DIM = 1024  # up to here a vector stays in the row's page of 8 KiB, where a scan finds it at once
PAGE_RECORDS = 500
_LONGEST_ID_BYTES = 2600  # an entry of a btree holds 2704
_JSONB_VERSION = b"\x01"
_COLUMNS = "id, uri, embedding, payload"
_GRAPH_DIMS = {True: 4000, False: 2000}  # halfvec or not
_CREATING = 0x5164_6C69  # the advisory lock of all who create

_OURS = ("table", "patience_s", "connections", "m", "ef_construction", "build_memory_mb", "exact_below")
_SECRETS = ("password", "sslpassword", "oauth_client_secret")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")

# A server that vanished without a word is noticed after half a minute, and not after the two hours of TCP.
_DEFAULTS = {
    "application_name": "sightline",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Server:
    """Where a table is; `name` is for messages and `connect` for libpq.

    `m` and `ef_construction` shape the graph, which is built in `build_memory_mb`; at most `connections` are opened.
    Up to `exact_below` records are all compared.
    """

    name: str
    table: str
    connect: Mapping[str, str] = field(repr=False)  # holds the password
    timeout_s: float
    connections: int
    m: int
    ef_construction: int
    build_memory_mb: int
    exact_below: int


@dataclass(frozen=True, slots=True)
class Table:
    """An index in a database. `is_half` says whether its graph is of half precision; vectors are kept in full.

    No more than `few` records are all compared.
    """

    name: str
    dim: int
    is_half: bool
    is_iterative: bool
    few: int

    @property
    def can_have_graph(self) -> bool:
        """Whether pgvector builds a graph of so many dimensions."""
        return self.dim <= _GRAPH_DIMS[self.is_half]

    def query(self, text: str) -> sql.Composed:
        """SQL with the names of this index in place of {table}, {notes}, {graph}, and {nearness} for the operator.

        `{nearness}` is the distance that the graph is ordered by; its parameter is the query as text.
        """
        half, full = f"halfvec({self.dim})", f"vector({self.dim})"
        operand = f"(embedding::{half}) <#> %s::{half}" if self.is_half else f"embedding <#> %s::{full}"
        indexed = f"(embedding::{half}) halfvec_ip_ops" if self.is_half else "embedding vector_ip_ops"
        return sql.SQL(text).format(
            table=sql.Identifier(self.name),
            notes=sql.Identifier(f"{self.name}_notes"),
            graph=sql.Identifier(f"{self.name}_hnsw"),
            filters=sql.Identifier(f"{self.name}_gin"),
            dim=sql.Literal(self.dim),
            nearness=sql.SQL(operand),
            indexed=sql.SQL(indexed),
        )


def parse_server(url: str | StoreUrl) -> Server:
    """The parts of a URL `postgresql://user:password@host:port/database?table=photos`; `UsageError` if it is none.

    What libpq knows as an option passes through: sslmode, target_session_attrs, a socket's folder as host.
    """
    _check_secrets(url)
    of_libpq = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    address = parse_address(url, [*_OURS, *sorted(of_libpq.difference(_SECRETS))])
    table = address.options.get("table", "sightline")
    if not _TABLE.fullmatch(table):
        raise UsageError(
            f"the table {table!r} of {address.text} is not a valid name, expected at most 40 letters, digits, _ and - "
            "after a letter: rename it"
        )
    parts = {"host": address.host, "port": str(address.port or ""), "dbname": address.name, "user": address.user}
    given = {name: value for name, value in address.options.items() if name in of_libpq}
    known = {**parts, "password": address.key, **given}
    return Server(
        name=f"{address.text}?table={table}",
        table=table,
        connect=_DEFAULTS | {name: value for name, value in known.items() if value},
        timeout_s=address.number("patience_s", int(TIMEOUT_S)),
        connections=max(1, address.number("connections", 10)),
        m=address.number("m", 24),
        ef_construction=address.number("ef_construction", 200),
        build_memory_mb=address.number("build_memory_mb", 1024),
        exact_below=address.number("exact_below", EXACT_BELOW),
    )


def open_table(connection: Connection, server: Server, dim: int | None) -> Table:
    """The index of that name, created if `dim` is given and nothing is there; runs in a transaction."""
    version = _check_database(connection, server)
    mark = _read_mark(connection, server)
    if mark is None:
        dim = missing_index(server.name, dim)
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CREATING,))
        mark = _read_mark(connection, server) or _create(connection, server, dim)
        version = _check_database(connection, server)
    found_dim = check_marker(server.name, mark | {"format": mark["version"]}, dim)
    return Table(server.table, found_dim, mark["is_half"], version >= _ITERATIVE, server.exact_below)


def has_graph(connection: Connection, table: Table) -> bool:
    """Whether the graph is built."""
    found = connection.execute(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(quote_ident(%s))", (f"{table.name}_hnsw",)
    ).fetchone()
    return bool(found and found[0])


def build_graph(connection: Connection, table: Table, server: Server, *, workers: int | None = None) -> bool:
    """Build the graph if there are more than a few records and none is there; runs in a transaction.

    Gives whether it was built now. Readers go on meanwhile, writers wait.
    """
    if not table.can_have_graph or has_graph(connection, table) or not _is_large(connection, table):
        return False
    (is_ours,) = _one(connection.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", (_CREATING, table.name)))
    if not is_ours:
        return False  # another process is building it
    settings = {"maintenance_work_mem": f"{server.build_memory_mb}MB"}
    if workers is not None:
        settings["max_parallel_maintenance_workers"] = str(workers)
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, true)", (name, value))
    shape = f"m = {server.m}, ef_construction = {server.ef_construction}"
    connection.execute(
        table.query(f"CREATE INDEX IF NOT EXISTS {{graph}} ON {{table}} USING hnsw ({{indexed}}) WITH ({shape})")
    )
    # Measured while every record was compared: it does not hold for the graph, so that it is measured again.
    connection.execute(table.query("DELETE FROM {notes} WHERE kind IN ('width', 'recall')"))
    connection.execute(table.query("ANALYZE {table}"))
    return True


def drop_tables(connection: Connection, table: Table) -> None:
    """Remove everything."""
    connection.execute(table.query("DROP TABLE IF EXISTS {table}, {notes}"))


def size_bytes(connection: Connection, table: Table) -> int:
    """What the index takes on the disk."""
    names = [table.name, f"{table.name}_notes"]
    sizes = "SELECT sum(pg_total_relation_size(quote_ident(name)::regclass)) FROM unnest(%s::text[]) AS name"
    return int(_one(connection.execute(sizes, (names,)))[0])


def rows_of(records: Sequence[Record], vectors: Vectors) -> list[tuple[object, ...]]:
    """Rows of id, uri, embedding, payload, fields for a binary COPY; vectors are (n, dim)."""
    head = struct.pack("!HH", vectors.shape[1], 0)  # pgvector's vector_send: dimensions, unused, big-endian floats
    rows = list[tuple[object, ...]]()
    for record, vector in zip(records, vectors.astype(">f4"), strict=True):
        if len(record.id.encode()) > _LONGEST_ID_BYTES:
            raise UsageError(
                f"the id of {record.uri!r} has {len(record.id)} characters, expected at most {_LONGEST_ID_BYTES} bytes "
                "in PostgreSQL: use record_id(uri)"
            )
        fields = _JSONB_VERSION + fields_of(record.payload).encode()
        rows.append((record.id, record.uri, head + vector.tobytes(), dump_payload(record.payload), fields))
    return rows


def write_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Replace the records of those ids, in a transaction.

    Deleting and copying, because it is up to 1.5 times as fast as a temporary table with INSERT ... ON CONFLICT; of two
    writers of one new id the second fails with a unique violation, and is to be tried again.
    """
    delete_records(connection, table, [row[0] for row in rows])
    with connection.cursor() as cursor:
        statement = f"COPY {{table}} ({_COLUMNS}, fields) FROM STDIN WITH (FORMAT binary)"
        with cursor.copy(table.query(statement)) as copy:
            for row in rows:
                copy.write_row(row)


def delete_records(connection: Connection, table: Table, ids: Sequence[str]) -> int:
    """Remove records; gives how many were there."""
    return connection.execute(table.query("DELETE FROM {table} WHERE id = ANY(%s)"), (storable(ids),)).rowcount


def read_records(connection: Connection, table: Table, ids: Sequence[str]) -> list[Record]:
    """The records of those ids that exist, in any order."""
    return _select(connection, table, "WHERE id = ANY(%s)", (storable(ids),))


def read_page(connection: Connection, table: Table, condition: Condition, after: str) -> list[Record]:
    """The next records in order of id that fulfil the condition."""
    rest = f"WHERE id > %s AND {condition.sql} ORDER BY id LIMIT %s"
    return _select(connection, table, rest, (after, *condition.parameters, PAGE_RECORDS))


def read_ids(connection: Connection, table: Table, condition: Condition, most: int) -> list[str] | None:
    """The ids of the records that fulfil the condition, in order; None if there are more than that."""
    statement = table.query(f"SELECT id FROM {{table}} WHERE {condition.sql} LIMIT %s")
    found = connection.execute(statement, (*condition.parameters, most + 1)).fetchall()
    return sorted(name for (name,) in found) if len(found) <= most else None


def count_records(connection: Connection, table: Table, condition: Condition) -> int:
    """How many records fulfil the condition."""
    statement = table.query(f"SELECT count(*) FROM {{table}} WHERE {condition.sql}")
    return sum(number for (number,) in connection.execute(statement, condition.parameters))


def read_notes(connection: Connection, table: Table, kind: str) -> list[tuple[str, Note]]:
    """The notes of a kind and their keys."""
    found = connection.execute(table.query("SELECT entry FROM {notes} WHERE kind = %s"), (kind,))
    return [(key, note) for key, note in (json.loads(entry) for (entry,) in found)]


def write_notes(
    connection: Connection, table: Table, kind: str, notes: Mapping[str, Note], removed: Sequence[str]
) -> None:
    """Write some notes and remove others; runs in a transaction."""
    # Sorted, so that two writers of the same notes wait for each other and not both.
    kept = sorted((_digest(key), json.dumps([key, note])) for key, note in notes.items())
    if gone := sorted(map(_digest, removed)):
        connection.execute(table.query("DELETE FROM {notes} WHERE kind = %s AND key = ANY(%s)"), (kind, gone))
    if kept:
        statement = (
            "INSERT INTO {notes} SELECT %s, * FROM unnest(%s::bytea[], %s::text[])"
            " ON CONFLICT (kind, key) DO UPDATE SET entry = excluded.entry"
        )
        keys, entries = zip(*kept, strict=True)
        connection.execute(table.query(statement), (kind, list(keys), list(entries)))


def storable(ids: Sequence[str]) -> list[str]:
    """The ids that a database can hold; no record has another."""
    return [name for name in ids if is_storable(name)]


def vector_text(vector: Vector) -> str:
    """A vector as SQL writes it."""
    return f"[{','.join(map(repr, vector.tolist()))}]"


def _check_database(connection: Connection, server: Server) -> tuple[int, ...]:
    """The version of pgvector, (0,) where it is not there yet."""
    (encoding,) = _one(connection.execute("SHOW server_encoding"))
    if encoding != "UTF8":
        raise StoreError(
            f"the database of {server.name} has the encoding {encoding}, expected UTF8: create one with "
            "createdb --encoding=UTF8 --template=template0"
        )
    found = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    version = tuple(int(part) for part in found[0].split(".")) if found else (0,)
    if found and version < _OLDEST:
        raise StoreError(
            f"{server.name} has pgvector {found[0]}, expected 0.6 or newer: upgrade it, then run "
            "ALTER EXTENSION vector UPDATE"
        )
    return version


def _read_mark(connection: Connection, server: Server) -> dict[str, Any] | None:
    """What we wrote to the table when we made it; None if there is no table. Raises if it is someone else's."""
    found = connection.execute(
        "SELECT obj_description(oid, 'pg_class'), to_regclass(quote_ident(%s)) IS NOT NULL"
        " FROM pg_class WHERE oid = to_regclass(quote_ident(%s))",
        (f"{server.table}_notes", server.table),
    ).fetchone()
    if found is None:
        return None
    comment, has_notes = found
    if not has_notes or not str(comment).startswith(_MARK):
        raise StoreError(
            f"{server.name} was made by something else, expected a table that Sightline made: give the URL another "
            "?table="
        )
    mark: dict[str, Any] = json.loads(comment.removeprefix(_MARK))
    return mark


def _create(connection: Connection, server: Server, dim: int) -> dict[str, Any]:
    if dim > _LARGEST_DIM:
        raise StoreError(f"dim is {dim}, expected at most {_LARGEST_DIM} in pgvector: use another model or store")
    _create_extension(connection, server)
    table = Table(
        server.table, dim, _check_database(connection, server) >= _HALF, is_iterative=False, few=server.exact_below
    )
    mark = _Mark(1, dim, table.is_half)
    statements = [
        # The target keeps PostgreSQL from moving payloads elsewhere because the vector beside them is long.
        'CREATE TABLE {table} (id text COLLATE "C" PRIMARY KEY, uri text NOT NULL, embedding vector({dim}) NOT NULL,'
        " payload text NOT NULL, fields jsonb NOT NULL) WITH (toast_tuple_target = 8160)",
        "CREATE INDEX {filters} ON {table} USING gin (fields jsonb_path_ops)",
        "CREATE TABLE {notes} (kind text, key bytea, entry text NOT NULL, PRIMARY KEY (kind, key))",
    ]
    if dim <= _INLINE_DIM:
        statements.append("ALTER TABLE {table} ALTER embedding SET STORAGE PLAIN")
    for statement in statements:
        connection.execute(table.query(statement))
    comment = sql.Literal(_MARK + json.dumps(asdict(mark)))
    connection.execute(table.query("COMMENT ON TABLE {table} IS ") + comment)
    return asdict(mark)


@dataclass(frozen=True, slots=True)
class _Mark:
    version: int
    dim: int
    is_half: bool


def _create_extension(connection: Connection, server: Server) -> None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        raise StoreError(
            f"{server.name} is a PostgreSQL without pgvector, expected the extension vector: install it on the server "
            "(package postgresql-NN-pgvector, or the image pgvector/pgvector)"
        ) from error


def _is_large(connection: Connection, table: Table) -> bool:
    counted = connection.execute(
        table.query("SELECT count(*) FROM (SELECT FROM {table} LIMIT %s) AS counted"), (table.few + 1,)
    )
    return bool(_one(counted)[0] > table.few)


def _one(cursor: psycopg.Cursor[tuple[Any, ...]]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise psycopg.DataError("a row was expected")
    return row


def _check_secrets(url: str | StoreUrl) -> None:
    given = {name for name, _ in parse_qsl(urlsplit(StoreUrl(url).reveal()).query, keep_blank_values=True)}
    for name in given.intersection(_SECRETS):
        raise UsageError(
            f"a postgresql: URL has {name}= behind its question mark, where messages show it, expected "
            "postgresql://user:password@host/database: move it there, or into a file and write key_file=path"
        )


def _select(connection: Connection, table: Table, rest: str, parameters: tuple[object, ...]) -> list[Record]:
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(table.query(f"SELECT {_COLUMNS} FROM {{table}} {rest}"), parameters).fetchall()
    return [
        Record(name, uri, np.frombuffer(data, ">f4", offset=4).astype(np.float32), load_payload(payload))
        for name, uri, data, payload in rows
    ]


def _digest(key: str) -> bytes:
    """Stands for a key, which may be a URI that is too long for an index."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
