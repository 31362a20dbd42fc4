"""Points read and written in pages that a request can hold."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qdrant_client import QdrantClient, models

from sightline.stores.qdrant.connection import Connection
from sightline.stores.qdrant.filters import Pushed
from sightline.stores.qdrant.points import DOCUMENT
from sightline.stores.qdrant.schema import ask_filtered
from sightline.stores.qdrant.search import consistency
from sightline.stores.qdrant.settings import Settings

PAGE = 500
"""Points in one answer; ids in one request."""

_BATCH_POINTS = 256
_BATCH_BYTES = 16_000_000  # of JSON; servers take 32 MB
_FLOAT_BYTES = 22  # of one number of a vector in JSON, at most


@dataclass(frozen=True, slots=True)
class Pages:
    """Points of one collection that pass, page by page, in order of their ids.

    A page begins at the id that the one before named, so that writes in between move nothing.
    """

    connection: Connection
    settings: Settings
    name: str
    only: models.Filter | None
    fields: list[str]
    with_vectors: bool = False
    pushed: Pushed | None = None

    def __iter__(self) -> Iterator[models.Record]:
        start: models.ExtendedPointId | None = None
        while True:
            page, start = self._page(start)
            yield from page
            if start is None:
                return

    def _page(self, start: models.ExtendedPointId | None) -> tuple[list[models.Record], models.ExtendedPointId | None]:
        def ask(client: QdrantClient) -> tuple[list[models.Record], models.ExtendedPointId | None]:
            return client.scroll(
                self.name,
                scroll_filter=self.only,
                limit=PAGE,
                offset=start,
                with_payload=models.PayloadSelectorInclude(include=self.fields),
                with_vectors=self.with_vectors,
                consistency=consistency(self.settings),
            )

        return ask_filtered(self.connection, self.settings, self.pushed, ask)


def batches(points: Iterable[models.PointStruct], dim: int) -> Iterator[list[models.PointStruct]]:
    """Points in lists of a size that Qdrant advises and its request limit allows."""
    batch, size = list[models.PointStruct](), 0
    for point in points:
        weight = _FLOAT_BYTES * dim + 4 * len((point.payload or {}).get(DOCUMENT, ""))
        if batch and (len(batch) == _BATCH_POINTS or size + weight > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += weight
    if batch:
        yield batch
