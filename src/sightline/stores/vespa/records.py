"""Records and notes turned into Vespa's documents, and back."""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import numpy as np

from sightline.filters.documents import dump_note, dump_payload, load_note, load_payload
from sightline.stores.vespa.longs import id_long, kind_long, payload_longs, payload_ranks, places
from sightline.types import Note, Record, Vector

_LONGEST_NAME = 400  # of a document's id, which travels in the URL

Fields = Mapping[str, Any]


def document_name(*names: str) -> str:
    """The last part of a document's id: percent-encoded, or a hash where that is long."""
    text = ":".join(quote(name, safe="") for name in names)
    return text if len(text) <= _LONGEST_NAME else f"={sha256(text.encode()).hexdigest()}"


def record_document(record: Record, vector: Vector) -> tuple[str, Fields]:
    """A record as the name and the fields of a document; vectors as hexadecimal text are read fastest."""
    ordered = [{"which": which, "amount": amount} for which, amount in payload_ranks(record.payload)]
    return document_name(record.id), {
        "record": _dump([record.id, record.uri, dump_payload(record.payload)]),
        "vector": {"values": vector.astype(">f4").tobytes().hex()},
        "tokens": payload_longs(record.payload),
        "ordered": ordered,
        **_looked_up(record.id),
    }


def note_document(kind: str, key: str, note: Note) -> tuple[str, Fields]:
    """A note as the name and the fields of a document."""
    fields = {"record": _dump([key, kind, dump_note(note)]), "kind": kind_long(kind), **_looked_up(key)}
    return document_name(kind, key), fields


def document_id(fields: Fields) -> str:
    """The id of the record, or the key of the note, of a document."""
    return str(json.loads(fields["record"])[0])


def document_record(fields: Fields) -> Record:
    """The record of a document; without a vector if the document comes without one."""
    name, uri, payload = json.loads(fields["record"])
    vector = np.array(fields["vector"]["values"] if "vector" in fields else (), np.float32)
    return Record(name, uri, vector, load_payload(payload))


def document_note(fields: Fields) -> tuple[str, str, Note]:
    """The key, kind and content of a document that is a note."""
    key, kind, note = json.loads(fields["record"])
    return key, kind, load_note(note)


def hit_fields(root: Fields) -> Iterator[Fields]:
    """The fields of each hit of an answer."""
    for hit in root.get("children", ()):
        yield hit["fields"]


def _looked_up(name: str) -> dict[str, Any]:
    parts, rest = places(name)
    return {"lookup": id_long(name), **{f"place{at}": part for at, part in enumerate(parts)}, "rest": rest}


def _dump(values: Sequence[str]) -> str:
    """JSON in ASCII: Vespa's strings refuse control characters and the like."""
    return json.dumps(values)
