"""What a store is, and a URL turned into one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Protocol, runtime_checkable

from sightline.errors import ExtraMissing, UsageError
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors, Where


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
        except ImportError as error:
            if (error.name or "").startswith("sightline"):
                raise
            raise ExtraMissing(
                f"a {scheme}: URL needs a package that is not installed or does not load ({error}): "
                f"pip install 'sightline[{module.split('.')[2]}]'"
            ) from error
        return opener(url, dim=dim)
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
