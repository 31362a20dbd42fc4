"""A database turned into the two tables of an index, with what marks them as ours."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg import sql

from sightline.errors import DimensionMismatch, StoreError, StoreNotFound, StoreTooNew
from sightline.stores.checks import check_dim
from sightline.stores.pgvector.connections import Connection
from sightline.stores.pgvector.server import Server

_MARK = "Sightline index, leave this comment: "
_VERSION = 1
_OLDEST, _HALF, _ITERATIVE = (0, 6), (0, 7), (0, 8)  # of pgvector: parallel builds, halfvec, iterative scans
_LARGEST_DIM = 16_000
_INLINE_DIM = 1024  # up to here a vector stays in the row's page of 8 KiB, where a scan finds it at once
_GRAPH_DIMS = {True: 4000, False: 2000}  # halfvec or not
_CREATING = 0x5164_6C69  # the advisory lock of all who create


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


def open_table(connection: Connection, server: Server, dim: int | None) -> Table:
    """The index of that name, created if `dim` is given and nothing is there; runs in a transaction."""
    version = _check_database(connection, server)
    mark = _read_mark(connection, server)
    if mark is None:
        if dim is None:
            raise StoreNotFound(f"{server.name} holds no index, expected one: index something into it first")
        check_dim(dim)
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CREATING,))
        mark = _read_mark(connection, server) or _create(connection, server, dim)
        version = _check_database(connection, server)
    if mark["version"] > _VERSION:
        raise StoreTooNew(
            f"{server.name} has the format {mark['version']}, expected at most {_VERSION}: upgrade Sightline"
        )
    if dim is not None and dim != mark["dim"]:
        raise DimensionMismatch(
            f"{server.name} holds vectors of {mark['dim']} dimensions, not {dim}: open it with the model that built "
            "it, or build a new index under another table"
        )
    return Table(server.table, mark["dim"], mark["is_half"], version >= _ITERATIVE, server.exact_below)


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
    mark = _Mark(_VERSION, dim, table.is_half)
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
