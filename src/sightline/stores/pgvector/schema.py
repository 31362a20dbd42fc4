"""An index in PostgreSQL: its URL, its two tables, and the graph over the vectors."""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg import pq, sql

from sightline.errors import StoreError, UsageError
from sightline.filters.documents import dump_payload
from sightline.stores.pgvector.filters import fields_of
from sightline.stores.remote import TIMEOUT_S, check_marker, missing_index
from sightline.stores.url import Option, StoreUrl, parse_address
from sightline.types import Record, Vectors

EXACT_BELOW = 20_000
"""Comparing so many takes 25 ms at 512 dimensions, no more than a graph that finds as much."""
COLUMNS = "id, uri, embedding, payload"
"""What of a row makes a record."""

_MARK = "Sightline index, leave this comment: "
_OLDEST, _HALF, _ITERATIVE = (0, 6), (0, 7), (0, 8)  # of pgvector: parallel builds, halfvec, iterative scans
_LARGEST_DIM = 16_000
_INLINE_DIM = 1024  # up to here a vector stays in the row's page of 8 KiB, where a scan finds it at once
_LONGEST_ID_BYTES = 2600  # an entry of a btree holds 2704
_JSONB_VERSION = b"\x01"
_GRAPH_DIMS = {True: 4000, False: 2000}  # halfvec or not
_CREATING = 0x5164_6C69  # the advisory lock of all who create

_OPTIONS: Mapping[str, Option] = {
    "table": "sightline",
    "patience_s": TIMEOUT_S,
    "connections": 10,  # at most
    "m": 24,  # of the graph, as ef_construction
    "ef_construction": 200,
    "build_memory_mb": 1024,
    "exact_below": EXACT_BELOW,  # up to so many records are all compared
}
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
    """Where a table is; `name` is for messages, `connect` for libpq, `options` are those of the URL that are ours."""

    name: str
    table: str
    connect: Mapping[str, str] = field(repr=False)  # holds the password
    options: Mapping[str, Any]


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
    given = {name for name, _ in parse_qsl(urlsplit(StoreUrl(url).reveal()).query, keep_blank_values=True)}
    for name in given.intersection(_SECRETS):
        raise UsageError(
            f"a postgresql: URL has {name}= behind its question mark, where messages show it, expected "
            "postgresql://user:password@host/database: move it there, or into a file and write key_file=path"
        )
    of_libpq = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}.difference(_SECRETS)
    address = parse_address(url, {**dict.fromkeys(of_libpq, ""), **_OPTIONS})
    table = address.options["table"]
    if not _TABLE.fullmatch(table):
        raise UsageError(
            f"the table {table!r} of {address.text} is not a valid name, expected at most 40 letters, digits, _ and - "
            "after a letter: rename it"
        )
    parts = {"host": address.host, "port": str(address.port or ""), "dbname": address.name, "user": address.user}
    asked = {name: address.options[name] for name in of_libpq if address.options[name]}
    known = {name: value for name, value in {**parts, "password": address.key}.items() if value}
    return Server(f"{address.text}?table={table}", table, _DEFAULTS | known | asked, address.options)


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
    return Table(server.table, found_dim, mark["is_half"], version >= _ITERATIVE, server.options["exact_below"])


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
    if not table.can_have_graph or has_graph(connection, table):
        return False
    few = table.query("SELECT count(*) FROM (SELECT FROM {table} LIMIT %s) AS counted")
    ((counted,),) = connection.execute(few, (table.few + 1,))
    if counted <= table.few:
        return False
    ((is_ours,),) = connection.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", (_CREATING, table.name))
    if not is_ours:
        return False  # another process is building it
    settings = {"maintenance_work_mem": f"{server.options['build_memory_mb']}MB"}
    if workers is not None:
        settings["max_parallel_maintenance_workers"] = str(workers)
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, true)", (name, value))
    shape = f"m = {server.options['m']}, ef_construction = {server.options['ef_construction']}"
    connection.execute(
        table.query(f"CREATE INDEX IF NOT EXISTS {{graph}} ON {{table}} USING hnsw ({{indexed}}) WITH ({shape})")
    )
    # Measured while every record was compared: it does not hold for the graph, so that it is measured again.
    connection.execute(table.query("DELETE FROM {notes} WHERE kind IN ('width', 'recall')"))
    connection.execute(table.query("ANALYZE {table}"))
    return True


def rows_of(records: Sequence[Record], vectors: Vectors) -> list[tuple[Any, ...]]:
    """Rows of id, uri, embedding, payload, fields for a binary COPY; vectors are (n, dim)."""
    head = struct.pack("!HH", vectors.shape[1], 0)  # pgvector's vector_send: dimensions, unused, big-endian floats
    rows = list[tuple[Any, ...]]()
    for record, vector in zip(records, vectors.astype(">f4"), strict=True):
        if len(record.id.encode()) > _LONGEST_ID_BYTES:
            raise UsageError(
                f"the id of {record.uri!r} has {len(record.id)} characters, expected at most {_LONGEST_ID_BYTES} bytes "
                "in PostgreSQL: use record_id(uri)"
            )
        fields = _JSONB_VERSION + fields_of(record.payload).encode()
        rows.append((record.id, record.uri, head + vector.tobytes(), dump_payload(record.payload), fields))
    return rows


def _check_database(connection: Connection, server: Server) -> tuple[int, ...]:
    """The version of pgvector, (0,) where it is not there yet."""
    ((encoding,),) = connection.execute("SHOW server_encoding")
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
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        raise StoreError(
            f"{server.name} is a PostgreSQL without pgvector, expected the extension vector: install it on the server "
            "(package postgresql-NN-pgvector, or the image pgvector/pgvector)"
        ) from error
    is_half = _check_database(connection, server) >= _HALF
    table = Table(server.table, dim, is_half, is_iterative=False, few=0)
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
    mark = {"version": 1, "dim": dim, "is_half": is_half}
    connection.execute(table.query("COMMENT ON TABLE {table} IS ") + sql.Literal(_MARK + json.dumps(mark)))
    return mark
