"""A place turned into the settings of the index there, which is made if it may be."""

from pathlib import Path
from typing import Any

from sightline.errors import StoreError, StoreNotFound
from sightline.stores.milvus import schema
from sightline.stores.milvus.connection import Connection
from sightline.stores.milvus.notes import read_notes, write_notes
from sightline.stores.milvus.place import Place
from sightline.stores.milvus.reading import Reader

_SETTINGS = "settings"


def open_or_create(connection: Connection, place: Place, dim: int | None) -> dict[str, Any]:
    """The settings `format`, `dim`, `index`, `nlist` and `partition`; both collections are loaded.

    Making may be cut off at any moment, and done by two processes at once: whoever opens with a dim goes on with it.
    """
    exists = connection.call("has_collection", place.collection)
    if not exists and dim is None:
        raise StoreNotFound(
            f"there is no index at {place.text}, expected its collection: check the name, or index something"
        )
    if exists:
        schema.check(connection, place)
        schema.check_settings({"format": 0, "dim": schema.read_dim(connection, place)}, place, dim)
    made = None
    if not connection.call("has_collection", place.notes):
        if dim is None:
            raise StoreError(f"{place.text} has no collection of notes, expected one: index again, which makes it")
        made = _made(connection, place, dim)
    schema.load(connection, place)
    reader = Reader(connection, place, "flat", 1)
    settings = read_notes(reader, _SETTINGS).get(_SETTINGS)
    if settings is None:
        settings = made or _made(connection, place, dim or schema.read_dim(connection, place))
        write_notes(connection, place, _SETTINGS, {_SETTINGS: settings})
    schema.check_settings(settings, place, dim)
    reader.catch_up()  # from here on this client sees all that anyone was acknowledged before it was opened
    return settings


def check_file(file: Path, *, may_create: bool) -> None:
    """Raise `StoreNotFound` if a file of Lite, which is a folder, is missing and may not be made, or is no such one."""
    is_free = not file.exists() or (file.is_dir() and not any(file.iterdir()))
    if not is_free and not (file / "LOCK").exists():
        raise StoreNotFound(f"{file} is no file of Milvus Lite, expected a folder that it made: name another path")
    if is_free and not may_create:
        raise StoreNotFound(f"there is no index at {file}: check the path, or build one with sightline index")
    file.parent.mkdir(parents=True, exist_ok=True)


def _made(connection: Connection, place: Place, dim: int) -> dict[str, Any]:
    with connection.writing:
        return schema.create(connection, place, dim)
