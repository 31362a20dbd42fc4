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
from sightline.stores.url import Address, StoreUrl, parse_address
from sightline.types import Hit, Note, Payload, Record, Vector

M, EF_CONSTRUCT = 32, 200  # text queries lie off the pictures' distribution: Qdrant's 16 and 100 lose neighbours
INDEXED = (
    ("sha256", "text"),
    ("folders", "text"),
    ("name", "text"),
    ("format", "text"),
    ("camera", "text"),
    ("width", "number"),
    ("height", "number"),
    ("size_bytes", "number"),
    ("taken", "time"),
    ("modified", "time"),
)
"""Fields of payloads that are indexed by their kind in every index."""
ID, IS_NAMED, URI, DOCUMENT = "id", "named", "uri", "payload"
"""Fields of a point; the first two are of records alone whose id is no UUID."""
KIND, KEY, NOTE = "kind", "key", "note"
"""Fields of a point that is a note."""
SHOWN = [ID, URI, DOCUMENT]
"""What of a point makes a hit."""

_KINDS = ("text", "number", "truth", "time")
NOTES = "_notes"
"""What stands behind the name of a collection in the name of the one that keeps its notes."""

UNIQUE = ("sha256", "name")  # a value of its own for nearly every picture: looked up on the disk
_OPTIONS = (
    "collection",
    "consistency",
    "grpc",
    "grpc_port",
    "indexes",
    "on_disk",
    "ordering",
    "patience_s",
    "replicas",
    "shards",
    "timeout_s",
    "tls",
    "write_consistency",
)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAMES = UUID("5f1d9a3e-0c68-4f55-9d53-6b7a1d2c8e90")  # the namespace of ids that are no UUIDs
_LONGEST_NAME = 255 - len(NOTES)
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


@dataclass(frozen=True, slots=True)
class Collection:
    """The collection of an index. `folder` is empty for a server; None leaves a number to the server.

    `indexes` are (field, kind) pairs that the URL asks for beside those that every store has.
    """

    address: Address
    folder: str
    name: str
    port: int
    grpc_port: int
    is_tls: bool
    is_grpc: bool
    is_on_disk: bool
    shards: int | None
    replicas: int | None
    write_consistency: int | None
    ordering: str
    consistency: str | int | None
    indexes: tuple[tuple[str, str], ...]
    request_timeout_s: int
    timeout_s: float

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
    folder = "" if address.host else _folder(address.name)
    return Collection(
        address=address,
        folder=folder,
        name=_collection(address),
        port=address.port or 6333,
        grpc_port=address.number("grpc_port", (address.port or 6333) + 1),
        is_tls=address.is_on("tls"),
        is_grpc="grpc" not in address.options or address.is_on("grpc"),
        is_on_disk=address.is_on("on_disk"),
        shards=address.number("shards", 0) or None,
        replicas=address.number("replicas", 0) or None,
        write_consistency=address.number("write_consistency", 0) or None,
        ordering=address.choice("ordering", ("weak", "medium", "strong"), "weak"),
        consistency=_consistency(address),
        indexes=_indexes(address),
        request_timeout_s=address.number("timeout_s", 60),
        timeout_s=address.number("patience_s", int(TIMEOUT_S)),
    )


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


def field_index(kind: str, *, is_unique: bool = False) -> Any:
    """The index of the values of that kind of a field."""
    match kind:
        case "number":  # an integer index would pass over fractions
            return models.FloatIndexParams(type=models.FloatIndexType.FLOAT)
        case "truth":
            return models.BoolIndexParams(type=models.BoolIndexType.BOOL)
        case "time":
            return models.DatetimeIndexParams(type=models.DatetimeIndexType.DATETIME)
    return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, on_disk=is_unique or None)


def record_collection(collection: Collection, dim: int) -> dict[str, Any]:
    """How the collection of records is made."""
    return {
        "vectors_config": models.VectorParams(
            size=dim, distance=models.Distance.DOT, on_disk=collection.is_on_disk or None
        ),
        "shard_number": collection.shards,
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
        "replication_factor": collection.replicas,
        "write_consistency_factor": collection.write_consistency,
        "on_disk_payload": True,
    }


def _folder(name: str) -> str:
    return name if re.match(r"[A-Za-z]:", name) else f"/{name}"


def _collection(address: Address) -> str:
    given = address.options.get("collection", "")
    name = (address.name if address.host else given or "photos") if not (address.host and given) else ""
    if address.host and given:
        raise UsageError(
            f"{address.text} names a collection twice, as {address.name!r} and as collection={given}: "
            "expected it in the path alone, so leave the option out"
        )
    if _NOT_IN_NAMES.search(name) or name in (".", "..") or len(name.encode()) > _LONGEST_NAME:
        raise UsageError(
            f"{name!r} cannot name a collection of Qdrant, expected at most {_LONGEST_NAME} bytes without "
            '< > : " / \\ | ? * and control characters: choose another name'
        )
    return name


def _consistency(address: Address) -> str | int | None:
    if address.options.get("consistency", "").isdecimal():
        return address.number("consistency", 1) or None
    return address.choice("consistency", ("majority", "quorum", "all"), "") or None


def _indexes(address: Address) -> tuple[tuple[str, str], ...]:
    pairs = list[tuple[str, str]]()
    for one in filter(None, address.options.get("indexes", "").split(",")):
        field, colon, kind = one.rpartition(":")
        field, kind = (field, kind) if colon else (one, "text")
        if kind not in _KINDS or not field:
            raise UsageError(
                f"indexes={one} of {address.text} has the kind {kind!r}, expected one of {', '.join(_KINDS)}: "
                "write it like indexes=color,width:number"
            )
        pairs.append((field, kind))
    return tuple(pairs)


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
