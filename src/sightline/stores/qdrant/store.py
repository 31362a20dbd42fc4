"""A store in two collections of Qdrant: one of records, one of notes."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import merge

from qdrant_client import QdrantClient, models

from sightline.filters.documents import load_note
from sightline.filters.where import parse_where
from sightline.stores.checks import check_records, check_search
from sightline.stores.qdrant.connection import Connection
from sightline.stores.qdrant.filters import Pushed, has_value, passes, push
from sightline.stores.qdrant.paging import PAGE, Pages, batches
from sightline.stores.qdrant.points import (
    ID,
    IS_NAMED,
    KEY,
    KIND,
    NOTE,
    SHOWN,
    note_id,
    note_point,
    point_id,
    point_of,
    record_of,
)
from sightline.stores.qdrant.schema import ask_filtered, drop_collections, open_collections
from sightline.stores.qdrant.search import Finder, consistency
from sightline.stores.qdrant.settings import settings_of
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors, Where

_WRITERS = 4  # requests at a time: the client makes one batch while the server takes in others
_WIDTH = "width"  # the kind of note, and its key, that keeps the width


class QdrantStore:
    """Keeps records in a collection of Qdrant; any number of processes may read and write.

    Search is approximate (HNSW over int8 codes, ranked again by the full vectors). Writes return when they are applied,
    so that the next read sees them. `dim` makes the collection if it is missing; without it, it must exist.
    """

    widths: Sequence[int] = (100, 200, 400, 800, 1600, 3200)
    """Of the list of candidates that a search keeps, `hnsw_ef`; 100 is what Qdrant itself would take."""

    def __init__(self, url: str | StoreUrl, dim: int | None = None) -> None:
        self._settings = settings_of(url)
        self._connection = Connection(self._settings)
        try:
            self.dim = open_collections(self._connection, self._settings, dim)
            self.width = int(self.notes(_WIDTH).get(_WIDTH, {}).get(_WIDTH, self.widths[0]))
        except BaseException:
            self._connection.close()
            raise

    def upsert(self, records: Sequence[Record]) -> None:
        """Write records, replacing those of the same id; returns when they are applied and in the write-ahead log."""
        last = list({record.id: record for record in records}.values())
        vectors = check_records(last, self.dim)
        points = (point_of(record, vector) for record, vector in zip(last, vectors, strict=True))
        self._write(self._settings.name, list(batches(points, self.dim)))

    def delete(self, ids: Sequence[str]) -> int:
        """Remove records; gives how many were there."""
        points = list({point_id(name) for name in ids})
        there = [str(point.id) for point in self._retrieve(points, with_payload=False, with_vectors=False)]
        self._remove(self._settings.name, there)
        return len(there)

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        """(q, dim) -> for each query the hits from `offset` to `offset + k`, best first."""
        return self._search(vectors, k, offset, _pushed(where), self.width)

    def search_at(self, vectors: Vectors, k: int, width: int) -> list[list[Hit]]:
        """As `search` without a filter, at that width."""
        return self._search(vectors, k, 0, None, width)

    def set_width(self, width: int) -> None:
        """Search at that width from now on, here and wherever else this store is opened."""
        self.write_notes(_WIDTH, {_WIDTH: {_WIDTH: width}})
        self.width = width

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """The records of those ids that exist, in the order asked."""
        points = self._retrieve(list({point_id(name) for name in ids}), with_payload=True, with_vectors=True)
        found = {record.id: record for record in map(record_of, points)}
        return [found[name] for name in ids if name in found]

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        """Every record that matches, in order of id; the store may be written meanwhile.

        With constant memory for ids that are UUIDs, which is the order of the points; other ids are sorted here.
        """
        return self._scan(_pushed(where))

    def count(self, where: Where | None = None) -> int:
        """How many records match."""
        pushed = _pushed(where)
        if pushed and not pushed.is_exact:
            payloads = (record_of(point).payload for point in self._pages(pushed.filter, SHOWN, pushed))
            return sum(passes(payload, pushed) for payload in payloads)

        def ask(client: QdrantClient) -> int:
            return client.count(self._settings.name, pushed.filter if pushed else None, exact=True).count

        return ask_filtered(self._connection, self._settings, pushed, ask)

    def notes(self, kind: str) -> dict[str, Note]:
        """The notes of a kind by key."""
        only = models.Filter(must=[has_value(KIND, kind)])
        points = Pages(self._connection, self._settings, self._settings.notes, only, [KEY, NOTE])
        found = {(point.payload or {})[KEY]: load_note((point.payload or {})[NOTE]) for point in points}
        return dict(sorted(found.items()))

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        """Write notes, replacing those of the same key; None removes one."""
        points = (note_point(kind, key, note) for key, note in notes.items() if note is not None)
        self._write(self._settings.notes, list(batches(points, 0)))
        self._remove(self._settings.notes, [note_id(kind, key) for key, note in notes.items() if note is None])

    def drop(self) -> None:
        """Remove both collections and close the store."""
        drop_collections(self._connection, self._settings)
        self.close()

    def close(self) -> None:
        """Give back the connections; further calls raise `StoreError`."""
        self._connection.close()

    def _search(self, vectors: Vectors, k: int, offset: int, pushed: Pushed | None, width: int) -> list[list[Hit]]:
        queries = check_search(vectors, k, offset, self.dim)
        return Finder(self._connection, self._settings, width, pushed).find(queries, k, offset)

    def _scan(self, pushed: Pushed | None) -> Iterator[Record]:
        only: list[models.Condition] = [pushed.filter] if pushed else []
        named = self._pages(models.Filter(must=[*only, has_value(IS_NAMED, True)]), [ID], pushed)
        names = sorted(str((point.payload or {})[ID]) for point in named)
        without: list[models.Condition] = [has_value(IS_NAMED, True)] if names else []
        others = self._pages(models.Filter(must=only, must_not=without), SHOWN, pushed, with_vectors=True)
        by_uuid = (record_of(point) for point in others if ID not in (point.payload or {}))
        by_name = (record for at in range(0, len(names), PAGE) for record in self.fetch(names[at : at + PAGE]))
        for record in merge(by_uuid, by_name, key=lambda record: record.id):
            if passes(record.payload, pushed):
                yield record

    def _pages(
        self, only: models.Filter, fields: list[str], pushed: Pushed | None, *, with_vectors: bool = False
    ) -> Pages:
        return Pages(self._connection, self._settings, self._settings.name, only, fields, with_vectors, pushed)

    def _retrieve(self, points: list[str], *, with_payload: bool, with_vectors: bool) -> Iterator[models.Record]:
        fields = models.PayloadSelectorInclude(include=SHOWN) if with_payload else False
        for at in range(0, len(points), PAGE):
            some = points[at : at + PAGE]

            def ask(client: QdrantClient) -> list[models.Record]:
                return client.retrieve(
                    self._settings.name,
                    some,  # noqa: B023 (called at once)
                    with_payload=fields,
                    with_vectors=with_vectors,
                    consistency=consistency(self._settings),
                )

            yield from self._connection.ask(ask)

    def _write(self, name: str, every: list[list[models.PointStruct]]) -> None:
        def write(points: list[models.PointStruct]) -> None:
            self._connection.ask(lambda client: client.upsert(name, points, wait=True, ordering=self._ordering))

        self._connection.opened()
        if len(every) == 1:
            write(every[0])
        elif every:
            with ThreadPoolExecutor(min(_WRITERS, len(every)), "sightline-qdrant") as pool:
                for done in [pool.submit(write, points) for points in every]:
                    done.result()

    def _remove(self, name: str, points: list[str]) -> None:
        for at in range(0, len(points), PAGE):
            some = models.PointIdsList(points=list[models.ExtendedPointId](points[at : at + PAGE]))
            self._connection.ask(
                lambda client: client.delete(name, some, wait=True, ordering=self._ordering)  # noqa: B023
            )

    @property
    def _ordering(self) -> models.WriteOrdering:
        return models.WriteOrdering(self._settings.ordering)


def _pushed(where: Where | None) -> Pushed | None:
    return push(parse_where(where)) if where else None
