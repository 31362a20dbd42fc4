"""The collections of an index: made, recognised and read back."""

from collections.abc import Mapping
from typing import Any

from sightline.errors import DimensionMismatch, StoreError, StoreTooNew, UsageError
from sightline.stores.checks import check_dim
from sightline.stores.milvus.connection import Connection
from sightline.stores.milvus.filters import KEYED, TYPED
from sightline.stores.milvus.place import Place
from sightline.stores.milvus.rows import LONGEST_TEXT, MOST_ELEMENTS

FORMAT = 1
"""The version of the collections; a newer one is refused."""

_ARRAYS = ("names", "words", *TYPED)
_RECORDS = {"id", "uri", "payload", "vector", "fields", KEYED, *_ARRAYS}
_NOTES = {"id", "kind", "name", "document", "vector"}
_TYPES = {"hnsw": "HNSW", "ivf": "IVF_FLAT", "flat": "FLAT"}
_LITE_NLIST = 128  # Lite 3.2.2 does not see what pymilvus 3.0.2 sends as parameters of an index
_LOAD_S = 120.0  # loading reads the collection into memory


def create(connection: Connection, place: Place, dim: int) -> dict[str, Any]:
    """Make both collections and give the settings. Safe to repeat and to do in two processes at once."""
    check_dim(dim)
    if place.partition_key and not connection.can_upsert_partitions:
        raise UsageError(
            f"partition_key={place.partition_key} needs a newer server than Milvus {connection.version}, which puts "
            "replaced records into the wrong partition, expected 2.4 or later: leave the option out"
        )
    _make(connection, place.collection, _record_fields(connection, place, dim), _vector_index(place), place)
    _make(connection, place.notes, _note_fields(connection), {"index_type": "FLAT", "params": {}}, place)
    nlist = _LITE_NLIST if connection.is_lite else place.nlist
    return {"format": FORMAT, "dim": dim, "index": place.index, "nlist": nlist, "partition": place.partition_key}


def check(connection: Connection, place: Place) -> None:
    """Raise `StoreError` if a collection of that name is something else's."""
    for name, expected in ((place.collection, _RECORDS), (place.notes, _NOTES)):
        if not connection.call("has_collection", name):
            if name == place.notes:
                continue  # the making of it was cut off between both
            raise StoreError(f"the collection {name!r} of {place.text} is gone: index again")
        found = {field["name"] for field in _describe(connection, name)["fields"]}
        if found - {"partition"} != expected:
            raise StoreError(
                f"the collection {name!r} of {place.text} has the fields {', '.join(sorted(found))}, which are not "
                "those of an index, expected one that Sightline made: name another collection"
            )


def check_settings(settings: Mapping[str, Any], place: Place, dim: int | None) -> None:
    """Raise for an index of a newer version or of another dim."""
    if settings["format"] > FORMAT:
        raise StoreTooNew(
            f"{place.text} has format {settings['format']}, expected at most {FORMAT}: upgrade Sightline to open it"
        )
    if dim not in (None, settings["dim"]):
        raise DimensionMismatch(
            f"{place.text} holds vectors of {settings['dim']} dimensions, expected {dim}: open it with the model it "
            "was built with, or name another collection"
        )


def read_dim(connection: Connection, place: Place) -> int:
    """The length of the vectors that the collection holds."""
    fields = _describe(connection, place.collection)["fields"]
    return next(int(field["params"]["dim"]) for field in fields if field["name"] == "vector")


def load(connection: Connection, place: Place) -> None:
    """Have the server hold both collections in memory, which it needs for any answer: both at once, it takes 3 s."""
    names = [name for name in (place.collection, place.notes) if not _is_loaded(connection, name)]
    options: dict[str, Any] = {} if connection.is_lite else {"replica_number": place.replicas}
    for name in names:
        connection.call("load_collection", name, _async=True, **options)
    for name in names:
        connection.call("load_collection", name, timeout=_LOAD_S, **options)


def _is_loaded(connection: Connection, name: str) -> bool:
    state = connection.call("get_load_state", name)
    return str(state["state"].name) == "Loaded"


def _make(connection: Connection, name: str, schema: Any, vector_index: Mapping[str, Any], place: Place) -> None:
    if not connection.call("has_collection", name):
        shards = {} if connection.is_lite else {"num_shards": place.shards if name == place.collection else 1}
        # Another process may have been faster: the server takes the same schema twice.
        connection.call("create_collection", name, schema=schema, consistency_level="Strong", **shards)
    params = connection.client.prepare_index_params()
    params.add_index("vector", index_name="vector", metric_type="IP", **vector_index)
    connection.call("create_index", name, params)
    if name == place.collection:
        arrays = _ARRAYS if connection.has_array_indexes else ()
        for column in (KEYED, *arrays):
            scalar = connection.client.prepare_index_params()
            scalar.add_index(column, index_name=column, index_type=connection.text_index)
            connection.call("create_index", name, scalar)


def _vector_index(place: Place) -> dict[str, Any]:
    params = {"hnsw": {"M": place.m, "efConstruction": place.ef_construction}, "ivf": {"nlist": place.nlist}}
    return {"index_type": _TYPES[place.index], "params": params.get(place.index, {})}


def _record_fields(connection: Connection, place: Place, dim: int) -> Any:
    from pymilvus import DataType

    schema = connection.client.create_schema(
        auto_id=False, enable_dynamic_field=False, description="Sightline: records"
    )
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=LONGEST_TEXT)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    for name in ("uri", "payload", KEYED):
        schema.add_field(name, DataType.VARCHAR, max_length=LONGEST_TEXT)
    schema.add_field("fields", DataType.JSON)
    texts = {"element_type": DataType.VARCHAR, "max_capacity": MOST_ELEMENTS, "max_length": LONGEST_TEXT}
    for name in _ARRAYS:
        schema.add_field(name, DataType.ARRAY, **texts)
    if place.partition_key:
        schema.add_field("partition", DataType.VARCHAR, max_length=LONGEST_TEXT, is_partition_key=True)
    return schema


def _note_fields(connection: Connection) -> Any:
    from pymilvus import DataType

    schema = connection.client.create_schema(auto_id=False, enable_dynamic_field=False, description="Sightline: notes")
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=LONGEST_TEXT)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    for name in ("kind", "name", "document"):
        schema.add_field(name, DataType.VARCHAR, max_length=LONGEST_TEXT)
    return schema


def _describe(connection: Connection, name: str) -> Any:
    return connection.call("describe_collection", name)
