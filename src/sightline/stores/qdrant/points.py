"""Records and notes turned into points of Qdrant, and back."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import numpy as np
from qdrant_client import models

from sightline.filters.documents import dump_note, dump_payload, load_payload
from sightline.filters.where import kind_of
from sightline.filters.words import payload_words
from sightline.stores.qdrant.filters import NAMES, PREFIXES, TEXTS, WORDS, moment
from sightline.types import Hit, Note, Payload, Record, Vector

ID, IS_NAMED, URI, DOCUMENT = "id", "named", "uri", "payload"
"""Fields of a point; the first two are of records alone whose id is no UUID."""
KIND, KEY, NOTE = "kind", "key", "note"
"""Fields of a point that is a note."""
SHOWN = [ID, URI, DOCUMENT]
"""What of a point makes a hit."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAMES = UUID("5f1d9a3e-0c68-4f55-9d53-6b7a1d2c8e90")  # the namespace of ids that are no UUIDs


def point_id(name: str) -> str:
    """The id of a point, which Qdrant wants to be a UUID: the record's own if it is one."""
    return name if _UUID.fullmatch(name) else str(uuid5(_NAMES, name))


def note_id(kind: str, key: str) -> str:
    """The id of the point that keeps a note."""
    return str(uuid5(_NAMES, f"{kind}\0{key}"))


def point_of(record: Record, vector: Vector) -> models.PointStruct:
    """A record as a point."""
    identity = point_id(record.id)
    named = {} if identity == record.id else {ID: record.id, IS_NAMED: True}
    document = {URI: record.uri, DOCUMENT: dump_payload(record.payload)}
    payload = {**named, **document, **_filtered_by(record.payload)}
    return models.PointStruct(id=identity, vector=vector.tolist(), payload=payload)


def note_point(kind: str, key: str, note: Note) -> models.PointStruct:
    """A note as a point without a vector."""
    payload = {KIND: kind, KEY: key, NOTE: dump_note(note)}
    return models.PointStruct(id=note_id(kind, key), vector={}, payload=payload)


def record_of(point: models.Record) -> Record:
    """The record that `point_of` made a point of."""
    payload = point.payload or {}
    vector = np.asarray(point.vector, np.float32)
    return Record(payload.get(ID, str(point.id)), payload[URI], vector, load_payload(payload[DOCUMENT]))


def hit_of(point: models.ScoredPoint) -> Hit:
    """A point that was found as a hit; its score is the inner product."""
    payload = point.payload or {}
    score = max(-1.0, min(1.0, float(point.score)))
    return Hit(payload.get(ID, str(point.id)), payload[URI], score, load_payload(payload[DOCUMENT]))


def _filtered_by(payload: Payload) -> Mapping[str, Any]:
    """The values again, in an object for each kind, so that {"s": {"year": "5"}} and {"n": {"year": 5}} stay apart."""
    found: dict[str, Any] = {}
    for field, value in payload.items():
        kind = "text" if isinstance(value, list) else kind_of(value)
        found.setdefault(PREFIXES[kind], {})[field] = _stored(value)
    texts = list(found.get(PREFIXES["text"], {}))
    return found | {NAMES: list(payload), TEXTS: texts, WORDS: sorted(payload_words(payload))}


def _stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return moment(value).isoformat()
    return value + 0.0 if isinstance(value, float) else value
