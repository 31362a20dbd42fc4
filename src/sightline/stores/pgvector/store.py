"""The store in PostgreSQL: one table of records, one of notes, searched by pgvector."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from sightline.errors import StoreError, StoreFull, UsageError
from sightline.filters.where import Node, matches, parse_where
from sightline.stores.checks import check_records, check_search
from sightline.stores.pgvector import rows, schema, search
from sightline.stores.pgvector.connections import Connection, Connections
from sightline.stores.pgvector.filters import Condition, condition_of
from sightline.stores.pgvector.server import parse_server
from sightline.stores.ties import settle
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors, Where

_BATCH_RECORDS = 5000  # of one COPY; measured: 25,000 records/s, 17,000 in batches of 1,000
_FEW_IDS = 10_000  # so many may be sorted in memory, instead of walking along the ids
_SLOW_RECORDS_PER_S = 150  # a writer no faster than this waits for its model: a graph keeps up with it
_CHECK_RECORDS = 2000
_NO_LIMIT = 2**31 - 1
_EVERYTHING = Condition("true")

_log = logging.getLogger(__name__)


class PgvectorStore:
    """Keeps records in a table of PostgreSQL; any number of processes may read and write.

    Exact while no more than 20,000 records match; through an HNSW graph beyond, which is built by the first writer that
    closes, or that waits for its model anyway. `dim` creates the table if it is missing; without it, it must exist.
    """

    widths: Sequence[int] = search.WIDTHS

    def __init__(self, url: str | StoreUrl, dim: int | None = None) -> None:
        self._server = parse_server(url)
        self._connections = Connections(self._server)
        try:
            self._table = self._connections.transact(partial(schema.open_table, server=self._server, dim=dim))
        except BaseException:
            self._connections.close()
            raise
        self.dim = self._table.dim
        self._has_graph = False
        self._began, self._written, self._unchecked = 0.0, 0, 0

    @property
    def width(self) -> int:
        """What hnsw.ef_search is set to."""
        return int(self.notes(search.WIDTH).get(search.WIDTH, {}).get(search.WIDTH, search.UNTUNED_WIDTH))

    def upsert(self, records: Sequence[Record]) -> None:
        """Write records, replacing those of the same id; returns when they are committed."""
        last = [record for _, record in sorted({record.id: record for record in records}.items())]
        written = rows.rows_of(last, check_records(last, self.dim))
        self._began = self._began or time.monotonic()
        for at in range(0, max(1, len(written)), _BATCH_RECORDS):
            few = written[at : at + _BATCH_RECORDS]
            self._connections.transact(partial(rows.write_rows, table=self._table, rows=few))
        self._written += len(written)
        self._unchecked += len(written)
        if self._unchecked >= _CHECK_RECORDS and self._written < _SLOW_RECORDS_PER_S * (time.monotonic() - self._began):
            self.build_graph()

    def delete(self, ids: Sequence[str]) -> int:
        """Remove records; gives how many were there."""
        return self._connections.transact(partial(rows.delete_records, table=self._table, ids=ids))

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        """(q, dim) -> for each query the hits from `offset` to `offset + k`, best first."""
        queries = check_search(vectors, k, offset, self.dim)
        condition = _condition(where)
        return [self._settled(rows.vector_text(query), k, offset, condition, None) for query in queries]

    def search_at(self, vectors: Vectors, k: int, width: int) -> list[list[Hit]]:
        """As `search` without a filter, at that hnsw.ef_search."""
        self.build_graph()  # what is measured without it would not hold with it
        queries = check_search(vectors, k, 0, self.dim)
        return [self._settled(rows.vector_text(query), k, 0, _EVERYTHING, _checked(width)) for query in queries]

    def set_width(self, width: int) -> None:
        """Search at that hnsw.ef_search from now on, here and wherever else this table is opened."""
        self.write_notes(search.WIDTH, {search.WIDTH: {search.WIDTH: _checked(width)}})

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """The records of those ids that exist, in the order asked."""
        read = self._connections.read(partial(rows.read_records, table=self._table, ids=ids))
        found = {record.id: record for record in read}
        return [found[name] for name in ids if name in found]

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        """Every record that matches, in order of id, page by page; goes on after a restart of the server."""
        pages = self._pages_of(parse_where(where)) if where else self._pages(_EVERYTHING)
        return (record for page in pages for record in page)

    def count(self, where: Where | None = None) -> int:
        """How many records match."""
        condition = _condition(where)
        return self._connections.read(partial(rows.count_records, table=self._table, condition=condition))

    def notes(self, kind: str) -> dict[str, Note]:
        """The notes of a kind by key."""
        return self._connections.read(partial(rows.read_notes, table=self._table, kind=kind))

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        """Write notes, replacing those of the same key; None removes one."""
        self._connections.transact(partial(rows.write_notes, table=self._table, kind=kind, notes=notes))

    def build_graph(self) -> bool:
        """Build the graph if there are more than 20,000 records and none is there yet; gives whether it was built.

        Searches go on meanwhile, writers wait.
        """
        return self._build_graph(self._server.patience_s)

    def size_bytes(self) -> int:
        """What the tables and their indexes take on the server's disk."""
        return self._connections.read(partial(schema.size_bytes, table=self._table))

    def close(self) -> None:
        """Build the graph if this store has made the table large, and give back the connections."""
        if self._written and not self._connections.is_closed:
            try:
                self._build_graph(patience_s=0)
            except StoreError as error:
                _log.warning("the graph was not built, so searches compare all records until it is: %s", error)
        self._connections.close()

    def drop(self) -> None:
        """Remove the tables, and close the store."""
        self._connections.transact(partial(schema.drop_tables, table=self._table))
        self._connections.close()

    def _settled(self, query: str, k: int, offset: int, condition: Condition, width: int | None) -> list[Hit]:
        def find(limit: int) -> list[Hit]:
            return self._connections.read(lambda connection: self._find(connection, query, limit, condition, width))

        return settle(find, k, offset, most=_NO_LIMIT)

    def _find(
        self, connection: Connection, query: str, limit: int, condition: Condition, width: int | None
    ) -> list[Hit]:
        is_large = self._has_graph and (
            condition == _EVERYTHING or search.looks_large(connection, self._table, condition)
        )
        if not is_large:
            few = search.nearest_of_few(connection, self._table, query, limit, condition)
            if few is not None:
                return few
            self._has_graph = self._has_graph or schema.has_graph(connection, self._table)
        if self._has_graph and search.reaches(limit):
            hits = search.nearest_by_graph(connection, self._table, query, limit, condition, width)
            if len(hits) == limit:
                return hits
        return search.nearest_of_all(connection, self._table, query, limit, condition)

    def _build_graph(self, patience_s: int) -> bool:
        self._unchecked = 0
        if self._has_graph:
            return False
        build = partial(schema.build_graph, table=self._table, server=self._server)
        try:
            return self._connections.transact(build, patience_s=patience_s)
        except StoreFull:  # also what a container says that has no shared memory for the workers
            return self._connections.transact(partial(build, workers=0), patience_s=patience_s)

    def _pages_of(self, node: Node) -> Iterator[list[Record]]:
        condition = condition_of(node)
        ids = self._connections.read(partial(rows.read_ids, table=self._table, condition=condition, most=_FEW_IDS))
        if ids is None:
            yield from self._pages(condition)
        else:
            for at in range(0, len(ids), rows.PAGE_RECORDS):
                page = self.fetch(ids[at : at + rows.PAGE_RECORDS])
                yield [record for record in page if matches(record.payload, node)]

    def _pages(self, condition: Condition) -> Iterator[list[Record]]:
        read, last = partial(rows.read_page, table=self._table, condition=condition), ""
        while page := self._connections.read(partial(read, after=last)):
            yield page
            last = page[-1].id


def _condition(where: Where | None) -> Condition:
    return condition_of(parse_where(where)) if where else _EVERYTHING


def _checked(width: int) -> int:
    if not search.WIDTHS[0] <= width <= search.WIDTHS[-1]:
        raise UsageError(
            f"the width is {width}, expected {search.WIDTHS[0]} to {search.WIDTHS[-1]}: choose one of {search.WIDTHS}"
        )
    return width
