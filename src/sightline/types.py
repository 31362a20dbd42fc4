"""The values that travel between the rooms, and how to take many of them a few at a time."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import unquote_to_bytes
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

_T = TypeVar("_T")

Vector: TypeAlias = NDArray[np.float32]
"""One picture or text as the model sees it: shape (dim,), norm 1."""

Vectors: TypeAlias = NDArray[np.float32]
"""Shape (n, dim), rows of norm 1."""

Pixels: TypeAlias = NDArray[np.uint8]
"""One picture at the model's size: shape (3, height, width), RGB, 0 to 255; stacked: (n, 3, height, width)."""

Value: TypeAlias = str | int | float | bool | list[str] | datetime
"""What a payload may hold. Integers keep within 53 bits, datetimes carry a time zone."""

Payload: TypeAlias = Mapping[str, Value]
"""What is known of a picture besides its vector: a flat mapping."""

Where: TypeAlias = Mapping[str, Any]
"""A filter on payloads, as users of vector databases know it: {"color": "red", "width": {"$gte": 800}}."""

Filter: TypeAlias = Where | str
"""A filter as people write it: a mapping whose dates may be text ("2024-05"), or text such as `width>=800` or JSON."""

Note: TypeAlias = dict[str, Any]
"""A small JSON document that a store keeps beside its records."""

FAILURE = "failure"
"""The kind of note that a picture leaves which could not be indexed; its key is the URI, its fields are `Failure`'s."""


def path_of(uri: str) -> Path:
    """The path of a file: URI, whatever bytes are in its name; `ValueError` for other schemes."""
    if not uri.startswith("file:///"):
        raise ValueError(f"{uri} is not a file on this machine: expected file:///...; fetch it to a folder first")
    path = os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    return Path(path[1:] if os.name == "nt" else path)  # Windows: /C:/photos


def now() -> str:
    """The time of now as notes keep it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_id(uri: str) -> str:
    """The id of the record of a URI: its UUIDv5, so that every machine gives the same picture the same id."""
    return str(uuid5(NAMESPACE_URL, uri))


def chunks(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of that many values, the last one shorter. None is kept once it was given away, as a generator would."""
    iterator = iter(values)
    return iter(lambda: list(islice(iterator, size)), [])


@dataclass(frozen=True, slots=True)
class Item:
    """One picture as a source offers it, not read yet.

    `stamp` changes whenever the content may have changed: an item with the stamp of its record is not read again.
    `read` gives the bytes of the file; it may raise `OSError` or `SourceError`. An item whose `read` waits on a network
    `is_slow`: many such are read at once. `fallback` is what is known of the picture unless its file tells otherwise.
    """

    uri: str
    stamp: str
    read: Callable[[], bytes]
    payload: Payload = field(default_factory=dict)
    is_slow: bool = False
    fallback: Payload = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """One picture as a store keeps it."""

    id: str
    uri: str
    vector: Vector
    payload: Payload = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One picture found. `score` is the cosine to the query, -1 to 1, larger is nearer."""

    id: str
    uri: str
    score: float
    payload: Payload = field(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The picture's file on this machine; None if it lies elsewhere, or within another file."""
        return path_of(self.uri) if self.uri.startswith("file:///") and "#" not in self.uri else None

    def image(self) -> "Image":
        """The picture itself, upright and in RGB, read now; `SourceError` or `ImageError` if it cannot be."""
        found: Image = import_module("sightline.pictures").picture_at(self.uri)  # made above, for whoever asks
        return found


@dataclass(frozen=True, slots=True)
class Failure:
    """One picture that could not be indexed. `stage` is read, decode or encode; `when` is ISO 8601 in UTC."""

    uri: str
    stage: str
    reason: str
    when: str
    retries: int = 0
