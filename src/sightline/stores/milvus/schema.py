"""An index in Milvus: its URL, its two collections, and records and notes as their rows."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from sightline.errors import UsageError
from sightline.filters.documents import dump_note, dump_payload, load_payload
from sightline.stores.milvus.filters import KEYED, TYPED, filter_row
from sightline.stores.remote import TIMEOUT_S
from sightline.stores.url import Option, StoreUrl, parse_address
from sightline.types import Hit, Note, Record, Vectors

FORMAT = 1
"""The version of the collections; a newer one is refused."""
NOTES_SUFFIX = "_notes"
ARRAYS = ("names", "words", *TYPED)
RECORD_FIELDS = {"id", "uri", "payload", "vector", "fields", KEYED, *ARRAYS}
NOTE_FIELDS = {"id", "kind", "name", "document", "vector"}

_INDEX_TYPES = {"hnsw": "HNSW", "ivf": "IVF_FLAT", "flat": "FLAT"}
_LONGEST_TEXT, _LONGEST_JSON, _MOST_ELEMENTS = 65_535, 65_536, 4096  # the most that a server takes, in bytes
_OPTIONS: Mapping[str, Option] = {
    "collection": "",
    "db": "",
    "tls": False,
    "ca_file": "",
    "consistency": ("session", "strong", "bounded", "eventually"),
    "patience_s": TIMEOUT_S,
    # These count when the collections are made, and are ignored afterwards.
    "index": ("", *_INDEX_TYPES),
    "m": 32,
    "ef_construction": 200,
    "nlist": 1024,
    "partition_key": "",
    "replicas": 1,
    "shards": 1,
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_NAME = 255 - len(NOTES_SUFFIX)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index is, in a file of Milvus Lite or at a server's `uri`, and how it is made; `text` for messages."""

    text: str
    collection: str
    file: Path | None
    uri: str
    token: str = field(repr=False)
    index: str
    consistency: str
    options: Mapping[str, Any]

    @property
    def notes(self) -> str:
        """The collection of the notes."""
        return self.collection + NOTES_SUFFIX


def parse_place(url: str | StoreUrl) -> Place:
    """The place of `milvus://[user:key@]host[:port]/collection?...` or `milvus:path/to/file.db?collection=...`."""
    address = parse_address(url, _OPTIONS)
    options, is_tls = address.options, address.options["tls"]
    file = None if address.host else Path(unquote(urlsplit(StoreUrl(url).reveal()).path)).expanduser()
    if file and (file.suffix != ".db" or not options["collection"]):
        raise UsageError(
            f"{address.text} names neither a server nor a file of Milvus Lite, expected milvus://host/collection or "
            "milvus:///folder/file.db?collection=name: correct it"
        )
    name = options["collection"] if file else address.name
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"the collection {name!r} is not a valid name, expected letters, digits and underscores, at most "
            f"{_LONGEST_NAME}, not a digit first: choose another name"
        )
    port = address.port or (443 if is_tls else 19530)
    return Place(
        text=f"milvus:{file}?collection={name}" if file else address.text,
        collection=name,
        file=file,
        uri="" if file else f"{'https' if is_tls else 'http'}://{address.url_host}:{port}",
        token=f"{address.user}:{address.key}" if address.user else address.key,
        index=options["index"] or ("flat" if file else "hnsw"),
        consistency=options["consistency"].capitalize(),
        options=options,
    )


def vector_index(place: Place) -> dict[str, Any]:
    """How the vectors of the records are indexed."""
    options = place.options
    params = {"hnsw": {"M": options["m"], "efConstruction": options["ef_construction"]},
              "ivf": {"nlist": options["nlist"]}}  # fmt: skip
    return {"index_type": _INDEX_TYPES[place.index], "params": params.get(place.index, {})}


def record_fields(client: Any, dim: int, *, has_partitions: bool) -> Any:
    """The client's schema of the collection of records."""
    from pymilvus import DataType

    schema = fields(client, "records", dim, ("uri", "payload", KEYED))
    schema.add_field("fields", DataType.JSON)
    texts = {"element_type": DataType.VARCHAR, "max_capacity": _MOST_ELEMENTS, "max_length": _LONGEST_TEXT}
    for name in ARRAYS:
        schema.add_field(name, DataType.ARRAY, **texts)
    if has_partitions:
        schema.add_field("partition", DataType.VARCHAR, max_length=_LONGEST_TEXT, is_partition_key=True)
    return schema


def fields(client: Any, what: str, dim: int, texts: Sequence[str]) -> Any:
    """The client's schema of a collection with an id, a vector and columns of text."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=f"Sightline: {what}")
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_LONGEST_TEXT)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    for name in texts:
        schema.add_field(name, DataType.VARCHAR, max_length=_LONGEST_TEXT)
    return schema


def record_rows(records: Sequence[Record], vectors: Vectors, partition_key: str) -> list[Row]:
    """Rows of the collection of records; `UsageError` for what the server cannot hold."""
    rows = []
    for record, vector in zip(records, vectors, strict=True):
        row: Row = {"id": record.id, "uri": record.uri, "payload": dump_payload(record.payload), "vector": vector}
        row |= filter_row(record.payload)
        if partition_key:
            value = record.payload.get(partition_key)
            row["partition"] = value if isinstance(value, str) else ""
        _check(row, record.uri)
        rows.append(row)
    return rows


def note_row(kind: str, name: str, note: Note) -> Row:
    """A row of the collection of notes, which must have a vector, too."""
    row = {"id": note_id(kind, name), "kind": kind, "name": name, "document": dump_note(note), "vector": [0.0, 0.0]}
    _check(row, name)
    return row


def note_id(kind: str, name: str) -> str:
    """The key of a note among those of all kinds."""
    return f"{kind}\x1f{name}"


def row_bytes(row: Row) -> int:
    """The most that a row takes in a message: sent as text, a character takes four bytes; the payload goes twice."""
    return 8 * (len(row.get("payload", "")) + len(row["id"])) + 4 * len(row["vector"])


def record_of(row: Mapping[str, Any]) -> Record:
    """The record of a row with all columns."""
    return Record(row["id"], row["uri"], np.asarray(row["vector"], np.float32), load_payload(row["payload"]))


def hit_of(found: Mapping[str, Any]) -> Hit:
    """A hit of the client as ours."""
    entity = found["entity"]
    score = max(-1.0, min(1.0, float(found["distance"])))
    return Hit(found["id"], entity["uri"], score, load_payload(entity["payload"]))


def _check(row: Row, what: str) -> None:
    for column in ("id", "uri", "payload", "document"):
        size_bytes = len(row.get(column, "").encode())
        if size_bytes > _LONGEST_TEXT:
            raise UsageError(
                f"the {column} of {what[:200]!r} takes {size_bytes} bytes, expected at most {_LONGEST_TEXT}, which is "
                "all that Milvus holds: shorten it"
            )
    size_bytes = len(json.dumps(row.get("fields", {}), ensure_ascii=False).encode())
    if size_bytes > _LONGEST_JSON:
        raise UsageError(
            f"the payload of {what!r} takes {size_bytes} bytes as fields to filter by, expected at most "
            f"{_LONGEST_JSON}: leave a field out, or shorten it"
        )
    for column in ("words", "names", *TYPED):
        if len(row.get(column, ())) > _MOST_ELEMENTS:
            raise UsageError(
                f"the payload of {what!r} has {len(row[column])} {column}, expected at most {_MOST_ELEMENTS}: "
                "leave a field out, or shorten it"
            )
