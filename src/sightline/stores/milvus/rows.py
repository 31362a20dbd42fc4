"""Records turned into Milvus's rows, checked against its limits, and back."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sightline.errors import UsageError
from sightline.filters.documents import dump_note, dump_payload, load_payload
from sightline.stores.milvus.filters import TYPED, filter_row, partition_of
from sightline.types import Hit, Note, Record, Vectors

LONGEST_TEXT = 65_535
"""Bytes of a text, the most that a server takes."""
MOST_ELEMENTS = 4096
"""Elements of an array, the most that a server takes."""

_LONGEST_JSON = 65_536  # bytes
_BATCH_BYTES = 8 << 20  # a server takes 64 MB a message; beyond a few MB larger ones gain nothing
_BATCH_ROWS = 2_000

Row = dict[str, Any]


def record_rows(records: Sequence[Record], vectors: Vectors, partition_key: str) -> list[Row]:
    """Rows of the collection of records; `UsageError` for what the server cannot hold."""
    rows = []
    for record, vector in zip(records, vectors, strict=True):
        row: Row = {"id": record.id, "uri": record.uri, "payload": dump_payload(record.payload), "vector": vector}
        row |= filter_row(record.payload)
        if partition_key:
            row["partition"] = partition_of(record.payload, partition_key)
        _check(row, record.uri)
        rows.append(row)
    return rows


def note_row(kind: str, name: str, note: Note) -> Row:
    """A row of the collection of notes, which must have a vector, too."""
    row = {"id": note_id(kind, name), "kind": kind, "name": name, "document": dump_note(note), "vector": [0.0, 0.0]}
    for column in ("id", "document"):
        _check_text(str(row[column]), column, name)
    return row


def note_id(kind: str, name: str) -> str:
    """The key of a note among those of all kinds."""
    return f"{kind}\x1f{name}"


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows in messages that the server takes."""
    batch, size_bytes = list[Row](), 0
    for row in rows:
        # Sent as text, a character takes four bytes at most; the payload goes twice, once as fields.
        row_bytes = 8 * (len(row.get("payload", "")) + len(row["id"])) + 4 * len(row["vector"])
        if batch and (size_bytes + row_bytes > _BATCH_BYTES or len(batch) == _BATCH_ROWS):
            yield batch
            batch, size_bytes = [], 0
        batch.append(row)
        size_bytes += row_bytes
    if batch:
        yield batch


def record_of(row: Mapping[str, Any]) -> Record:
    """The record of a row with all columns."""
    return Record(row["id"], row["uri"], np.asarray(row["vector"], np.float32), load_payload(row["payload"]))


def hit_of(found: Mapping[str, Any]) -> Hit:
    """A hit of the client as ours."""
    entity = found["entity"]
    score = max(-1.0, min(1.0, float(found["distance"])))
    return Hit(found["id"], entity["uri"], score, load_payload(entity["payload"]))


def _check(row: Row, uri: str) -> None:
    for column in ("id", "uri", "payload"):
        _check_text(row[column], column, uri)
    size_bytes = len(json.dumps(row["fields"], ensure_ascii=False).encode())
    if size_bytes > _LONGEST_JSON:
        raise UsageError(
            f"the payload of {uri!r} takes {size_bytes} bytes as fields to filter by, expected at most "
            f"{_LONGEST_JSON}: leave a field out, or shorten it"
        )
    for column in ("words", "names", *TYPED):
        if len(row[column]) > MOST_ELEMENTS:
            raise UsageError(
                f"the payload of {uri!r} has {len(row[column])} {column}, expected at most {MOST_ELEMENTS}: "
                "leave a field out, or shorten it"
            )


def _check_text(text: str, column: str, uri: str) -> None:
    size_bytes = len(text.encode())
    if size_bytes > LONGEST_TEXT:
        raise UsageError(
            f"the {column} of {uri[:200]!r} takes {size_bytes} bytes, expected at most {LONGEST_TEXT}, which is all "
            "that Milvus holds: shorten it"
        )
