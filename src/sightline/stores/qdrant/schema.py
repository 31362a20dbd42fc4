"""The two collections of a store: made, recognised and dropped."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from qdrant_client import QdrantClient, models

from sightline.errors import DimensionMismatch, StoreError, StoreForbidden, StoreNotFound, StoreTooNew
from sightline.stores.checks import check_dim
from sightline.stores.qdrant.connection import Connection, Refused
from sightline.stores.qdrant.filters import NAMES, TEXTS, WORDS, Pushed, looked_into, path
from sightline.stores.qdrant.points import IS_NAMED, KIND, note_id
from sightline.stores.qdrant.settings import Settings

T = TypeVar("T")

FORMAT = 1
M, EF_CONSTRUCT = 32, 200  # text queries lie off the pictures' distribution: Qdrant's 16 and 100 lose neighbours

_MARKER = note_id("$store", "")
_FIELDS = (
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
_UNIQUE = ("sha256", "name")  # a value of its own for nearly every picture: looked up on the disk


def open_collections(connection: Connection, settings: Settings, dim: int | None) -> int:
    """The length of the vectors; makes the collections if `dim` is given and nothing is there.

    The notes come first, with a mark that they are ours, and the records after them: a crash between leaves nothing
    that another try does not complete.
    """
    is_there = connection.ask(lambda client: client.collection_exists(settings.name))
    marker = _marker(connection, settings, is_there=is_there)
    if marker.get("is_dropping"):
        drop_collections(connection, settings)
        is_there, marker = False, {}
    if not is_there:
        if dim is None:
            raise StoreNotFound(
                f"{settings.address.text} holds no collection {settings.name!r}, expected one that Sightline made: "
                "index something first, or correct the name"
            )
        check_dim(dim)
        _make(connection, settings, dim)
    return _check(connection, settings, dim)


def drop_collections(connection: Connection, settings: Settings) -> None:
    """Remove both collections; what an interruption leaves is removed by the next opening."""
    _mark(connection, settings, is_dropping=True)
    for name in (settings.name, settings.notes):
        with suppress(StoreNotFound):
            connection.ask(lambda client: client.delete_collection(name))  # noqa: B023 (called at once)


def ask_filtered(
    connection: Connection, settings: Settings, pushed: Pushed | None, call: Callable[[QdrantClient], T]
) -> T:
    """A call that filters; the indexes that strict mode (the rule on Qdrant's cloud) wants for it are made first."""
    try:
        return connection.ask(call)
    except Refused as refusal:
        if pushed is None or "Index required" not in str(refusal):
            raise
    for field, kind in looked_into(pushed.node):
        make_index(connection, settings, field, kind)
    return connection.ask(call)


def make_index(connection: Connection, settings: Settings, field: str, kind: str) -> None:
    """Let the engine look up the values of that kind of a field of the payload."""
    is_unique = field in _UNIQUE
    _index(connection, settings.name, path(field, kind), _schema(kind, is_unique=is_unique))


def _marker(connection: Connection, settings: Settings, *, is_there: bool) -> dict[str, Any]:
    """What the notes say of this store, nothing if there is none; `StoreError` if someone else made what is there."""
    found: dict[str, Any] = {}
    is_ours = not is_there
    if connection.ask(lambda client: client.collection_exists(settings.notes)):
        info = connection.ask(lambda client: client.get_collection(settings.notes))
        points = connection.ask(lambda client: client.retrieve(settings.notes, [_MARKER], with_payload=True))
        found = (points[0].payload or {}) if points else {}
        is_ours = bool(found) or (not is_there and not info.config.params.vectors and not info.points_count)
    if not is_ours:
        raise StoreError(
            f"the collection {settings.name!r} or {settings.notes!r} of {settings.address.text} was made by someone "
            "else, expected none or those that Sightline made: choose another name"
        )
    if found.get("format", FORMAT) > FORMAT:
        raise StoreTooNew(
            f"{settings.address.text} has the format {found['format']}, expected at most {FORMAT}: upgrade Sightline"
        )
    return found


def _mark(connection: Connection, settings: Settings, *, is_dropping: bool) -> None:
    payload = {"made_by": "sightline", "format": FORMAT, "is_dropping": is_dropping}
    point = models.PointStruct(id=_MARKER, vector={}, payload=payload)
    connection.ask(lambda client: client.upsert(settings.notes, [point], wait=True))


def _make(connection: Connection, settings: Settings, dim: int) -> None:
    shared: dict[str, Any] = {
        "replication_factor": settings.replicas,
        "write_consistency_factor": settings.write_consistency,
        "on_disk_payload": True,
    }
    few = models.OptimizersConfigDiff(default_segment_number=1)

    def make_notes(client: QdrantClient) -> object:
        return client.create_collection(
            settings.notes, vectors_config={}, shard_number=1, optimizers_config=few, **shared
        )

    def make_records(client: QdrantClient) -> object:
        return client.create_collection(
            settings.name,
            vectors_config=models.VectorParams(
                size=dim, distance=models.Distance.DOT, on_disk=settings.is_on_disk or None
            ),
            shard_number=settings.shards,
            hnsw_config=models.HnswConfigDiff(m=M, ef_construct=EF_CONSTRUCT),
            quantization_config=models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
            ),
            **shared,
        )

    _create(connection, make_notes)
    _index(connection, settings.notes, KIND, models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD))
    _mark(connection, settings, is_dropping=False)
    _create(connection, make_records)
    for field in (NAMES, TEXTS, WORDS):
        _index(connection, settings.name, field, _schema("text"))
    _index(connection, settings.name, IS_NAMED, _schema("truth"))
    for field, kind in _FIELDS:  # before the first record: the graph is then built with them in mind
        make_index(connection, settings, field, kind)


def _create(connection: Connection, make: Any) -> None:
    try:
        connection.ask(make)
    except Refused as refusal:
        if "already exists" not in str(refusal):
            raise


def _check(connection: Connection, settings: Settings, dim: int | None) -> int:
    info = connection.ask(lambda client: client.get_collection(settings.name))
    vectors = info.config.params.vectors
    if not isinstance(vectors, models.VectorParams) or vectors.distance != models.Distance.DOT:
        raise StoreError(
            f"the collection {settings.name!r} of {settings.address.text} compares by {vectors}, expected one vector "
            "without a name and the distance Dot: it was changed or made by someone else, so choose another name"
        )
    if dim is not None and dim != vectors.size:
        raise DimensionMismatch(
            f"{settings.address.text} holds vectors of {vectors.size} dimensions, expected {dim}: open it with the "
            "model that built it, or choose another name"
        )
    for field, kind in settings.indexes:
        if path(field, kind) not in (info.payload_schema or {}):
            try:
                make_index(connection, settings, field, kind)
            except StoreForbidden:  # a key that may only read
                break
    return vectors.size


def _index(connection: Connection, name: str, key: str, schema: Any) -> None:
    if not connection.is_local:  # which has none
        connection.ask(lambda client: client.create_payload_index(name, key, field_schema=schema, wait=True))


def _schema(kind: str, *, is_unique: bool = False) -> Any:
    match kind:
        case "number":  # an integer index would pass over fractions
            return models.FloatIndexParams(type=models.FloatIndexType.FLOAT)
        case "truth":
            return models.BoolIndexParams(type=models.BoolIndexType.BOOL)
        case "time":
            return models.DatetimeIndexParams(type=models.DatetimeIndexType.DATETIME)
    return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, on_disk=is_unique or None)
