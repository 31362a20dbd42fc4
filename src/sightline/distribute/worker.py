"""What a worker on a node of the cluster is given, a plan and chunks of items, and what it does with them."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sightline.encoders.hub import Hub
from sightline.errors import ClusterError, SightlineError, SourceError
from sightline.files import default_cache
from sightline.index import Index
from sightline.ingest import Options, Summary, ingest
from sightline.stores.url import StoreUrl
from sightline.types import Item, Note

_FULL = 512  # the weight of a chunk
_WEIGHT = 8  # of an item that is read from a disk: a second or two of one worker's time; one from the web weighs 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What every worker is told; the store's URL holds its key, which whoever may look into the cluster can read.

    `place` is the folder of the pictures, which each node must see. Without `is_cache_chosen` each node keeps its
    models where its own user does.
    """

    url: StoreUrl
    hub: Hub = field(repr=False)
    is_cache_chosen: bool
    workers: int
    cpus: int
    gpus: int
    limit_megapixels: float | None
    place: str | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a worker takes at once: items, and the failure notes that some of them left in earlier runs."""

    number: int
    items: list[Item]
    failed_before: Mapping[str, Note]


def chunks(items: Iterable[Item], failed_before: Mapping[str, Note]) -> Iterator[Chunk]:
    """Items in chunks: 64 from a disk, 512 from the web, so that its slowest answer is waited for less often."""
    number, weight, few = 0, 0, list[Item]()
    for item in items:
        few.append(item)
        weight += 1 if item.is_slow else _WEIGHT
        if weight >= _FULL:
            yield _chunk(number, few, failed_before)
            number, weight, few = number + 1, 0, []
    if few:
        yield _chunk(number, few, failed_before)


def singles(chunk: Chunk) -> list[Chunk]:
    """A chunk taken apart, to find the picture that ends its workers; the numbers are below zero, all different."""
    first = -1 - chunk.number * _FULL
    return [_chunk(first - at, [item], chunk.failed_before) for at, item in enumerate(chunk.items)]


def _chunk(number: int, items: list[Item], failed_before: Mapping[str, Note]) -> Chunk:
    return Chunk(number, items, {item.uri: failed_before[item.uri] for item in items if item.uri in failed_before})


class Worker:
    """One actor: a model and a connection to the store, opened with the first chunk and kept.

    It commits what it did itself and answers with the counts alone. Errors are answers, too: what Ray sees of a worker
    is only whether it lives.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._index: Index | None = None

    def __call__(self, table: Any) -> Iterator[Any]:
        """Tables of Arrow: rows of a chunk (pickled) -> rows of its number and its answer (pickled)."""
        import pyarrow

        for data in table["chunk"].to_pylist():
            chunk = pickle.loads(data)
            answer = pickle.dumps(self.answer(chunk))
            yield pyarrow.table({"number": [chunk.number], "answer": [answer]})

    def answer(self, chunk: Chunk) -> Summary | SightlineError:
        """What became of a chunk, or why nothing did."""
        where, plan = socket.gethostname(), self._plan
        try:
            index = self._opened()
            options = Options(
                workers=plan.cpus,
                limit_megapixels=plan.limit_megapixels,
                retry=True,  # the driver has left out what need not be tried again
                failed_before=chunk.failed_before,
            )
            return ingest(chunk.items, index.encoder, index.store, options=options, seen=set())
        except SightlineError as error:
            return type(error)(f"on {where}: {error}")
        except Exception as error:  # a fault of this program or of a library: it must not look like a dead worker
            return ClusterError(f"a worker on {where} failed ({type(error).__name__}: {error}), expected it to go on")

    def _opened(self) -> Index:
        """The index, whose model is checked to be the one that it was built with."""
        if self._index is None:
            plan = self._plan
            if plan.place is not None and not Path(plan.place).exists():
                raise SourceError(
                    f"{plan.place} is not there, expected each node of the cluster to see the pictures by the same "
                    "path: mount them there"
                )
            hub = plan.hub if plan.is_cache_chosen else replace(plan.hub, cache=default_cache())
            index = Index(plan.url, hub=hub)
            index.encoder  # noqa: B018  loads it
            self._index = index
        return self._index
