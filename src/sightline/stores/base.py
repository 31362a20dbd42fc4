"""What a store is, a URL turned into one, and what is given to a store, checked before any store takes it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import Protocol, runtime_checkable

import numpy as np

from sightline.errors import DimensionMismatch, ExtraMissing, UsageError
from sightline.filters.where import LARGEST_INTEGER
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Payload, Record, Vectors, Where

_LARGEST_DIM = 65_536
_NORM_TOLERANCE = 0.01  # encoders normalise in float32 or float16; what is further off was not normalised


class Store(Protocol):
    """Keeps records and finds the nearest ones.

    Scores are cosines, larger is nearer; ties go to the smaller id. Every method may be called from many threads.
    """

    dim: int
    """The length of a vector."""

    def upsert(self, records: Sequence[Record]) -> None:
        """Write records, replacing those of the same id; returns when they are durable."""

    def delete(self, ids: Sequence[str]) -> int:
        """Remove records; gives how many were there."""

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        """(q, dim) -> for each query the hits from `offset` to `offset + k`, best first."""

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """The records of those ids that exist, in the order asked."""

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        """Every record that matches, in order of id, with constant memory; the store may be written meanwhile."""

    def count(self, where: Where | None = None) -> int:
        """How many records match."""

    def notes(self, kind: str) -> dict[str, Note]:
        """The notes of a kind by key: small JSON documents, such as the index's identity or its failures."""

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        """Write notes, replacing those of the same key; None removes one."""

    def close(self) -> None:
        """Give back files and connections; further calls raise `StoreError`."""


@runtime_checkable
class Tunable(Protocol):
    """A store whose engine finds approximately: the wider it searches, the more of the true neighbours it finds.

    The width stands for what the engine calls ef, nprobe or candidates. It is kept in the engine, for all who open it.
    """

    widths: Sequence[int]
    """The widths to choose from, smallest first; the first is the engine's default."""
    width: int
    """The width that `search` uses."""

    def search_at(self, vectors: Vectors, k: int, width: int) -> list[list[Hit]]:
        """As `search` without a filter, at that width."""

    def set_width(self, width: int) -> None:
        """Search at that width from now on, here and wherever else this store is opened."""


@runtime_checkable
class Droppable(Protocol):
    """A store that can be removed from its server for good."""

    def drop(self) -> None:
        """Remove records, notes and schema, and close the store."""


OPENERS = {
    "file": "sightline.stores.local.store:LocalStore",
    "memory": "sightline.stores.memory:open_url",
    "milvus": "sightline.stores.milvus.engine:open_url",
    "pinecone": "sightline.stores.pinecone.engine:open_url",
    "postgres": "sightline.stores.pgvector.engine:open_url",
    "postgresql": "sightline.stores.pgvector.engine:open_url",
    "qdrant": "sightline.stores.qdrant.engine:open_url",
    "vespa": "sightline.stores.vespa.engine:open_url",
}
"""For each scheme the function `(url: StoreUrl, *, dim) -> Store` that opens it, imported only when it is used."""


def open_store(url: str | StoreUrl, *, dim: int | None = None) -> Store:
    """The store that a path or URL names, created if `dim` is given and nothing is there.

    A path is a local index. Packages add schemes by entry points of the group `sightline.stores`, which name functions
    such as those of `OPENERS`. Raises `UsageError` for an unknown scheme and `StoreError` as the store does.
    """
    url = StoreUrl(url)
    scheme = url.scheme
    if scheme in OPENERS:
        module, function = OPENERS[scheme].split(":")
        try:
            opener: Callable[..., Store] = getattr(import_module(module), function)
            return opener(url, dim=dim)
        except ImportError as error:
            if (error.name or "").startswith("sightline"):
                raise
            raise ExtraMissing(
                f"a {scheme}: URL needs a package that is not installed or does not load ({error}): "
                f"pip install 'sightline[{module.split('.')[2]}]'"
            ) from error
    from importlib.metadata import entry_points  # 10 ms that known schemes do not need

    others = {point.name: point for point in entry_points(group="sightline.stores")}
    if scheme in others:
        plugged: Store = others[scheme].load()(url, dim=dim)
        return plugged
    known = ", ".join(sorted({*OPENERS, *others}))
    raise UsageError(
        f"{str(url)!r} has the unknown scheme {scheme!r}, expected a path or one of {known}: install the package "
        f"of that store, or write ./{url} if it is a path"
    )


def check_records(records: Sequence[Record], dim: int) -> Vectors:
    """The vectors of n records as (n, dim) float32; raises for ids, vectors or payloads that cannot be."""
    for record in records:
        if not record.id or not _is_storable(record.id) or not _is_storable(record.uri):
            raise UsageError(
                f"the record of {record.uri!r} has the id {record.id!r}, expected valid Unicode for both and an id "
                "that is not empty: use record_id(uri)"
            )
        if np.shape(record.vector) != (dim,):
            raise DimensionMismatch(
                f"the vector of {record.uri!r} has the shape {np.shape(record.vector)}, expected ({dim},): "
                "encode it with the model of this index"
            )
        check_payload(record.payload, record.uri)
    vectors = np.array([record.vector for record in records], np.float32).reshape(len(records), dim)
    norms = np.linalg.norm(vectors, axis=1)  # (n, dim) -> (n,)
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_TOLERANCE))
    if len(wrong):
        raise UsageError(
            f"the vector of {records[wrong[0]].uri!r} has the norm {norms[wrong[0]]:.4g}, expected 1: normalise it"
        )
    return vectors


def check_dim(dim: int) -> None:
    """Raise `UsageError` for a length that vectors cannot have."""
    if not 1 <= dim <= _LARGEST_DIM:
        raise UsageError(f"dim is {dim}, expected 1 to {_LARGEST_DIM}: give the length of the model's vectors")


def check_search(vectors: Vectors, k: int, offset: int, dim: int) -> Vectors:
    """The queries as (q, dim) float32; raises for queries, k or offset that cannot be."""
    queries = np.ascontiguousarray(vectors, np.float32)
    if queries.ndim != 2:
        raise UsageError(f"the queries have the shape {queries.shape}, expected (q, {dim}): add a first axis")
    if queries.shape[1] != dim:
        raise DimensionMismatch(
            f"the queries have {queries.shape[1]} dimensions, expected {dim}: encode them with the model of this index"
        )
    if not np.isfinite(queries).all():
        raise UsageError("a query holds a value that is not finite, expected numbers: look at what encoded it")
    if k < 1 or offset < 0:
        raise UsageError(f"k is {k} and offset is {offset}, expected k >= 1 and offset >= 0: change them")
    return queries


def check_payload(payload: Payload, uri: str) -> None:
    """Raise `UsageError`, naming field and value, for a payload that a store cannot keep or filter."""
    for name, value in payload.items():
        fault = _name_fault(name) or _value_fault(value)
        if fault:
            raise UsageError(f"the field {name!r} of {uri!r} is {value!r}, {fault}")


def _name_fault(name: object) -> str:
    if not isinstance(name, str) or not name or name.startswith("$"):
        return "expected a name that is text, not empty and without a leading $: rename the field"
    if not name.isprintable() or '"' in name or "\\" in name:
        return "expected a name without quotes, backslashes and control characters: rename the field"
    return ""


def _value_fault(value: object) -> str:
    match value:
        case bool():
            return ""
        case int():
            return "" if abs(value) <= LARGEST_INTEGER else "expected an integer within 53 bits: store it as text"
        case float():
            return "" if math.isfinite(value) else "expected a finite number: leave the field out"
        case str():
            return "" if _is_storable(value) else "expected valid Unicode without NUL: replace what is not"
        case datetime():
            return "" if value.utcoffset() is not None else "expected a time zone: add tzinfo=timezone.utc"
        case list() if all(isinstance(element, str) and _is_storable(element) for element in value):
            return ""
        case list():
            return "expected a list of text in valid Unicode: turn its elements into text"
    return "expected text, a number, true, false, a datetime or a list of text: convert it, or leave it out"


def _is_storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
