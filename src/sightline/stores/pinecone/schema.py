"""Records and notes as Pinecone keeps them: an id, numbers and metadata, within its limits."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from sightline.errors import StoreDamaged, UsageError
from sightline.filters.documents import dump_note, dump_payload, load_payload, payload_words
from sightline.filters.where import kind_of, plain
from sightline.types import Hit, Note, Payload, Record, Value, Vectors

MOST_METADATA_BYTES = 40_960
"""Of one record; Pinecone counts the JSON text and says "40 KB"."""
MOST_BYTES, MOST_ENTRIES = 1_900_000, 1000
"""Of one upsert: Pinecone's limit is 2 MB for the whole request."""

_NUMBER_BYTES = 24  # the longest text of a float32 that was made a float64, with its comma
_MOST_ID = 512  # characters of an id
_ESCAPED = re.compile(r"[\x00-!~-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One vector as Pinecone keeps it."""

    key: str
    values: list[float]
    metadata: dict[str, Any]
    metadata_bytes: int

    @property
    def most_bytes(self) -> int:
        """The most that its JSON text can have."""
        return self.metadata_bytes + _NUMBER_BYTES * len(self.values) + 2 * len(self.key) + 64

    def to_dict(self) -> dict[str, Any]:
        """As the client takes it."""
        return {"id": self.key, "values": self.values, "metadata": self.metadata}


def entries_of(records: Sequence[Record], vectors: Vectors) -> list[Entry]:
    """Records and their vectors as entries; `UsageError` if one is too large."""
    written, entries = mark(), list[Entry]()
    for record, vector in zip(records, vectors, strict=True):
        what, payload = f"the record of {record.uri[:200]!r}", record.payload
        kept = {"id": record.id, "uri": record.uri, "payload": dump_payload(payload), **fields(payload)}
        entries.append(_entry(what, key_of(record.id), vector.tolist(), kept, written, payload))
    return entries


def note_entry(kind: str, key: str, note: Note, values: list[float], written: int) -> Entry:
    """A note as an entry; `UsageError` if it is too large."""
    identity = note_key(kind, key)
    kept = {"id": identity, "kind": kind, "key": key, "note": dump_note(note)}
    return _entry(f"the note {key[:200]!r} of kind {kind!r}", identity, values, kept, written, {})


def _entry(what: str, key: str, values: list[float], metadata: dict[str, Any], written: int, payload: Payload) -> Entry:
    """An entry with the mark of its writing and its place in the order of keys."""
    metadata = {**metadata, "mark": written, "place": place(key)}
    size_bytes = _json_bytes(metadata)
    if size_bytes > MOST_METADATA_BYTES:
        sizes = {name: _json_bytes(_field(name, value)[1]) for name, value in payload.items()}
        largest = max(sizes, key=lambda name: sizes[name], default="")
        blamed = f", whose field {largest!r} has {sizes[largest]:,} bytes," if largest else ""
        raise UsageError(
            f"{what}{blamed} needs {size_bytes:,} bytes of metadata, expected at most {MOST_METADATA_BYTES:,}, which "
            "is Pinecone's limit, and what can be filtered stands there twice: shorten it"
        )
    return Entry(key, values, metadata, size_bytes)


def fields(payload: Payload) -> dict[str, Any]:
    """What filters look into: a field of the payload stands under its kind and name, so that kinds stay apart."""
    found = dict(_field(name, value) for name, value in payload.items())
    words = sorted(payload_words(payload))
    return {**found, "words": words} if words else found


def _field(name: str, value: Value) -> tuple[str, Any]:
    if isinstance(value, list):
        return (f"text:{name}", value) if value else (f"none:{name}", True)
    return f"{kind_of(value)}:{name}", plain(value)


def note_key(kind: str, key: str) -> str:
    """The id in Pinecone of a note."""
    return sha256(f"{len(kind)} {kind}{key}".encode()).hexdigest()


def key_of(identity: str) -> str:
    """The id in Pinecone of a record: visible ASCII in the same order as the record's own id, 512 at most.

    Space and below become !xx and what is not ASCII becomes ~xxxxxx, which sort as the characters do. UUIDs stay as
    they are. What is longer than 512 is cut and ends in its SHA-256.
    """
    key = _ESCAPED.sub(_escape, identity)
    return key if len(key) <= _MOST_ID else f"{key[:440]}~~{sha256(identity.encode()).hexdigest()}"


def place(key: str) -> int:
    """A number below 2**48 that grows with the key, by which an index without listing can be walked in order."""
    return int.from_bytes(key.encode()[:6].ljust(6, b"\0"))


def mark() -> int:
    """A number that grows with time, by which a write is known when it is seen."""
    return time.time_ns() // 1000


def record_of(vector: Any) -> Record:
    """A vector of the client's as the record it was."""
    hit = hit_of(vector)
    return Record(hit.id, hit.uri, np.array(vector.values, np.float32), hit.payload)


def hit_of(vector: Any, score: float = 0.0) -> Hit:
    """A vector of the client's, with its metadata, as a hit."""
    metadata: Mapping[str, Any] = vector.metadata or {}
    try:
        return Hit(metadata["id"], metadata["uri"], score, load_payload(metadata["payload"]))
    except (KeyError, ValueError) as error:
        raise StoreDamaged(
            f"the record {vector.id!r} in Pinecone lacks what Sightline writes ({error!r}), expected id, uri and "
            "payload: use a namespace that nothing else writes to"
        ) from error


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"!{code:02x}" if code <= ord("!") else f"~{code:06x}"
