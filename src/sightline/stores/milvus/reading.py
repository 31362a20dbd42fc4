"""Rows read from Milvus: by id, by expression a page after the other, and by vector."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.errors import UsageError
from sightline.stores.milvus.connection import Connection
from sightline.stores.milvus.filters import EVERYTHING, joined, listed, quoted
from sightline.stores.milvus.place import Place
from sightline.stores.milvus.rows import Row, hit_of
from sightline.stores.ties import settle
from sightline.types import Hit, Vectors

IDS_AT_ONCE = 1_000
"""Ids of one expression."""

_WINDOW = 16_384  # rows that a server gives at most for one call
_PAGE_ROWS = 500
_WIDEST_GRAPH = 32_768  # the most that a server takes as ef


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the collections of a place. `index` is flat, hnsw or ivf; `widest` is the largest width of all."""

    connection: Connection
    place: Place
    index: str
    widest: int

    def query(
        self, collection: str, expression: str, columns: list[str], consistency: str = "", **options: Any
    ) -> list[Row]:
        """The rows for which an expression holds, in any order."""
        level = consistency or self.place.consistency
        call = self.connection.call
        with self.connection.writing:  # beside a write or a flush of another thread Lite misses rows that are there
            return list(
                call("query", collection, filter=expression, output_fields=columns, consistency_level=level, **options)
            )

    def count(self, expression: str) -> int:
        """How many records there are for which an expression holds."""
        return int(self.query(self.place.collection, expression, ["count(*)"])[0]["count(*)"])

    def catch_up(self) -> None:
        """Wait until the server shows what is in its log by now."""
        self.query(self.place.collection, EVERYTHING, ["id"], "Strong", limit=1)

    def rows_of(self, ids: Sequence[str], columns: list[str]) -> list[Row]:
        """The rows of those ids that exist, in any order."""
        some = [name for name in ids if name]
        chunks = [some[at : at + IDS_AT_ONCE] for at in range(0, len(some), IDS_AT_ONCE)]
        return [row for few in chunks for row in self.query(self.place.collection, f"id in {listed(few)}", columns)]

    def pages(self, collection: str, expression: str, columns: list[str], consistency: str = "") -> Iterator[list[Row]]:
        """Rows by id, a page after the other, each from where the last one ended."""
        page = self.query(collection, expression or EVERYTHING, columns, consistency, limit=_PAGE_ROWS)
        if len(page) < _PAGE_ROWS:  # all there are, in whatever order
            yield sorted(page, key=_id_of)
            return
        # Only as an iterator do newer servers give the first rows by id. It waits for the newest state if the timestamp
        # is 0, which the first page does, and takes the state as it is if that is 1.
        options = {"iterator": "True", "reduce_stop_for_best": "False", "limit": _PAGE_ROWS, "guarantee_timestamp": 0}
        last = ""
        while page:
            more = joined([f"id > {quoted(last)}", *([f"({expression})"] if expression else [])], "and")
            page = sorted(self.query(collection, more, columns, consistency, **options), key=_id_of)
            yield page
            last = _id_of(page[-1]) if page else last
            options["guarantee_timestamp"] = 0 if (consistency or self.place.consistency) == "Strong" else 1

    def nearest(self, queries: Vectors, k: int, expression: str, offset: int, width: int) -> list[list[Hit]]:
        """(q, dim) -> for each query the hits from `offset` to `offset + k`, best first."""
        needed = offset + k
        if needed > _WINDOW:
            raise UsageError(
                f"offset + k is {needed}, expected at most {_WINDOW}, which is all that Milvus gives at once: "
                "ask for fewer, or filter"
            )
        if not len(queries):
            self.connection.check_open()
            return []
        first = min(needed + 1, _WINDOW)
        found = self._all_found(queries, first, expression, width)

        def settled(place: int) -> list[Hit]:
            def find(limit: int) -> list[Hit]:
                if limit == first:
                    return found[place]
                return self._all_found(queries[place][None], limit, expression, width)[0]

            return settle(find, k, offset, most=_WINDOW)

        return [settled(place) for place in range(len(queries))]

    def _all_found(self, queries: Vectors, limit: int, expression: str, width: int) -> list[list[Hit]]:
        """The best of each query. An index may find fewer than there are: then it searches as widely as it can."""
        found = self._found(queries, limit, expression, width)
        fewest = min(map(len, found))
        if fewest < limit and self.index != "flat" and fewest < min(limit, self.count(expression)):
            return self._found(queries, limit, expression, _WIDEST_GRAPH if self.index == "hnsw" else self.widest)
        return found

    def _found(self, queries: Vectors, limit: int, expression: str, width: int) -> list[list[Hit]]:
        # A graph refuses an ef below the number of hits.
        params = {"hnsw": {"ef": min(max(width, limit), _WIDEST_GRAPH)}, "ivf": {"nprobe": width}}
        with self.connection.writing:
            found = self.connection.call(
                "search",
                self.place.collection,
                data=list(queries),
                anns_field="vector",
                limit=limit,
                filter=expression,
                search_params={"metric_type": "IP", "params": params.get(self.index, {})},
                output_fields=["uri", "payload"],
                consistency_level=self.place.consistency,
            )
        return [[hit_of(hit) for hit in hits] for hits in found]


def _id_of(row: Row) -> str:
    return str(row["id"])
