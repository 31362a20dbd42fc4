"""An index in Qdrant: its URL, how its collections are made, and records and notes as their points."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import numpy as np
from qdrant_client import models

from sightline.errors import UsageError
from sightline.filters.documents import dump_note, dump_payload, load_payload, payload_words
from sightline.filters.where import kind_of
from sightline.stores.qdrant.filters import NAMES, PREFIXES, TEXTS, WORDS, moment
from sightline.stores.remote import TIMEOUT_S
from sightline.stores.url import Address, Option, StoreUrl, parse_address
from sightline.types import Hit, Note, Record, Vector

M, EF_CONSTRUCT = 32, 200  # text queries lie off the pictures' distribution: Qdrant's 16 and 100 lose neighbours
INDEXED = {
    **dict.fromkeys(("sha256", "folders", "name", "format", "camera"), "text"),
    **dict.fromkeys(("width", "height", "size_bytes"), "number"),
    **dict.fromkeys(("taken", "modified"), "time"),
}
"""Fields of payloads that are indexed by their kind in every index."""
ID, IS_NAMED, URI, DOCUMENT = "id", "named", "uri", "payload"
"""Fields of a point; the first two are of records alone whose id is no UUID."""
KIND, KEY, NOTE = "kind", "key", "note"
"""Fields of a point that is a note."""
SHOWN = [ID, URI, DOCUMENT]
"""What of a point makes a hit."""

NOTES = "_notes"
"""What stands behind the name of a collection in the name of the one that keeps its notes."""

UNIQUE = ("sha256", "name")  # a value of its own for nearly every picture: looked up on the disk
_OPTIONS: Mapping[str, Option] = {
    "collection": "",
    "consistency": "",  # how many replicas must agree on what is read; the server's choice if the URL does not say
    "grpc": True,
    "grpc_port": int,
    "indexes": "",
    "on_disk": False,
    "ordering": ("weak", "medium", "strong"),
    "patience_s": TIMEOUT_S,
    "replicas": 0,  # 0 leaves a number to the server
    "shards": 0,
    "timeout_s": 60,
    "tls": False,
    "write_consistency": 0,
}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAMES = UUID("5f1d9a3e-0c68-4f55-9d53-6b7a1d2c8e90")  # the namespace of ids that are no UUIDs
_LONGEST_NAME = 255 - len(NOTES)
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


@dataclass(frozen=True, slots=True)
class Collection:
    """The collection of an index. `folder` is empty for a server.

    `indexes` are the fields, and the kinds of their values, that the URL asks for beside those that every store has.
    """

    address: Address
    folder: str
    name: str
    port: int
    grpc_port: int
    consistency: models.ReadConsistencyType | int | None
    indexes: Mapping[str, str]

    @property
    def what(self) -> str:
        """What it is called in messages."""
        return f"Qdrant at {self.folder or self.address.text}"

    @property
    def notes(self) -> str:
        """The collection of the notes."""
        return self.name + NOTES


def parse_collection(url: str | StoreUrl) -> Collection:
    """The collection that a URL names; `UsageError` for what cannot be."""
    address = parse_address(url, _OPTIONS)
    given, word = address.options["collection"], address.options["consistency"].lower()
    if address.host and given:
        raise UsageError(
            f"{address.text} names a collection twice, as {address.name!r} and as collection={given}: "
            "expected it in the path alone, so leave the option out"
        )
    name = address.name if address.host else given or "photos"
    if _NOT_IN_NAMES.search(name) or name in (".", "..") or len(name.encode()) > _LONGEST_NAME:
        raise UsageError(
            f"{name!r} cannot name a collection of Qdrant, expected at most {_LONGEST_NAME} bytes without "
            '< > : " / \\ | ? * and control characters: choose another name'
        )
    consistency: models.ReadConsistencyType | int | None = None
    try:
        if word:
            consistency = int(word) or None if word.isdecimal() else models.ReadConsistencyType(word)
    except ValueError:
        raise UsageError(
            f"consistency={word} of {address.text} is unknown, expected one of majority, quorum, all, or a number"
        ) from None
    indexes = dict[str, str]()
    for one in filter(None, address.options["indexes"].split(",")):
        field, colon, kind = one.rpartition(":")
        field, kind = (field, kind) if colon else (one, "text")
        if kind not in PREFIXES or not field:
            raise UsageError(
                f"indexes={one} of {address.text} has the kind {kind!r}, expected one of {', '.join(PREFIXES)}: "
                "write it like indexes=color,width:number"
            )
        indexes[field] = kind
    port = address.port or 6333
    return Collection(
        address=address,
        folder="" if address.host else address.name if re.match("[A-Za-z]:", address.name) else f"/{address.name}",
        name=name,
        port=port,
        grpc_port=port + 1 if address.options["grpc_port"] is None else address.options["grpc_port"],
        consistency=consistency,
        indexes=indexes,
    )


def point_id(name: str) -> str:
    """The id of a point, which Qdrant wants to be a UUID: the record's own if it is one."""
    return name if _UUID.fullmatch(name) else str(uuid5(_NAMES, name))


def note_id(kind: str, key: str) -> str:
    """The id of the point that keeps a note."""
    return str(uuid5(_NAMES, f"{kind}\0{key}"))


def point_of(record: Record, vector: Vector) -> models.PointStruct:
    """A record as a point.

    It has the values again, in an object for each kind, so that {"s": {"year": "5"}} and {"n": {"year": 5}} stay apart.
    """
    identity = point_id(record.id)
    payload: dict[str, Any] = {} if identity == record.id else {ID: record.id, IS_NAMED: True}
    payload |= {URI: record.uri, DOCUMENT: dump_payload(record.payload), NAMES: list(record.payload)}
    for field, value in record.payload.items():
        kind = "text" if isinstance(value, list) else kind_of(value)
        stored = moment(value).isoformat() if isinstance(value, datetime) else value
        payload.setdefault(PREFIXES[kind], {})[field] = stored + 0.0 if isinstance(stored, float) else stored
    payload |= {TEXTS: list(payload.get(PREFIXES["text"], {})), WORDS: sorted(payload_words(record.payload))}
    return models.PointStruct(id=identity, vector=vector.tolist(), payload=payload)


def note_point(kind: str, key: str, note: Note) -> models.PointStruct:
    """A note as a point without a vector."""
    payload = {KIND: kind, KEY: key, NOTE: dump_note(note)}
    return models.PointStruct(id=note_id(kind, key), vector={}, payload=payload)


def record_of(point: models.Record) -> Record:
    """The record that `point_of` made a point of."""
    hit = hit_of(point)
    return Record(hit.id, hit.uri, np.asarray(point.vector, np.float32), hit.payload)


def hit_of(point: models.Record | models.ScoredPoint, score: float = 0.0) -> Hit:
    """A point that was found as a hit; its score is the inner product."""
    payload = point.payload or {}
    score = max(-1.0, min(1.0, score))
    return Hit(payload.get(ID, str(point.id)), payload[URI], score, load_payload(payload[DOCUMENT]))


def field_index(kind: str, *, is_unique: bool = False) -> Any:
    """The index of the values of that kind of a field."""
    others = {
        "number": models.FloatIndexParams(type=models.FloatIndexType.FLOAT),  # one of integers passes over fractions
        "truth": models.BoolIndexParams(type=models.BoolIndexType.BOOL),
        "time": models.DatetimeIndexParams(type=models.DatetimeIndexType.DATETIME),
    }
    text = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, on_disk=is_unique or None)
    return others.get(kind, text)


def record_collection(collection: Collection, dim: int) -> dict[str, Any]:
    """How the collection of records is made."""
    options = collection.address.options
    return {
        "vectors_config": models.VectorParams(
            size=dim, distance=models.Distance.DOT, on_disk=options["on_disk"] or None
        ),
        "shard_number": options["shards"] or None,
        "hnsw_config": models.HnswConfigDiff(m=M, ef_construct=EF_CONSTRUCT),
        "quantization_config": models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        ),
        **_replication(collection),
    }


def note_collection(collection: Collection) -> dict[str, Any]:
    """How the collection of notes is made."""
    few = models.OptimizersConfigDiff(default_segment_number=1)
    return {"vectors_config": {}, "shard_number": 1, "optimizers_config": few, **_replication(collection)}


def _replication(collection: Collection) -> dict[str, Any]:
    return {
        "replication_factor": collection.address.options["replicas"] or None,
        "write_consistency_factor": collection.address.options["write_consistency"] or None,
        "on_disk_payload": True,
    }
