"""Records and notes turned into rows, in PostgreSQL's binary form, and back."""

import json
import struct
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from sightline.errors import UsageError
from sightline.filters.documents import dump_payload, load_payload
from sightline.stores.pgvector.connections import Connection
from sightline.stores.pgvector.filters import Condition, fields_of, is_storable
from sightline.stores.pgvector.schema import Table
from sightline.types import Note, Record, Vector, Vectors

PAGE_RECORDS = 500

_LONGEST_ID_BYTES = 2600  # an entry of a btree holds 2704
_JSONB_VERSION = b"\x01"
_COLUMNS = "id, uri, embedding, payload"


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


def read_notes(connection: Connection, table: Table, kind: str) -> dict[str, Note]:
    """The notes of a kind by key."""
    found = connection.execute(table.query("SELECT entry FROM {notes} WHERE kind = %s"), (kind,))
    return dict(sorted(json.loads(entry) for (entry,) in found))


def write_notes(connection: Connection, table: Table, kind: str, notes: Mapping[str, Note | None]) -> None:
    """Write notes, replacing those of the same key; None removes one; runs in a transaction."""
    # Sorted, so that two writers of the same notes wait for each other and not both.
    kept = sorted((_digest(key), json.dumps([key, note])) for key, note in notes.items() if note is not None)
    gone = sorted(_digest(key) for key, note in notes.items() if note is None)
    if gone:
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
