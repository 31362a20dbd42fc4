"""Queries turned into the nearest records, as many as were asked for."""

from dataclasses import dataclass

from qdrant_client import QdrantClient, models

from sightline.stores.qdrant.connection import Connection, Refused
from sightline.stores.qdrant.filters import Pushed, passes
from sightline.stores.qdrant.points import SHOWN, hit_of
from sightline.stores.qdrant.schema import ask_filtered
from sightline.stores.qdrant.settings import Settings
from sightline.stores.ties import settle
from sightline.types import Hit, Vector, Vectors

OVERSAMPLING = 2.0
"""So many times the hits are ranked again by their full vectors: int8 codes order neighbours roughly."""

_MOST = 1_000_000  # hits of one query; Qdrant has no limit of its own
_AT_ONCE = 64  # queries in one call


@dataclass(frozen=True, slots=True)
class Finder:
    """Asks the collection for points near a query. `width` is Qdrant's `hnsw_ef`."""

    connection: Connection
    settings: Settings
    width: int
    pushed: Pushed | None

    def find(self, queries: Vectors, k: int, offset: int) -> list[list[Hit]]:
        """(q, dim) -> for each query the hits from `offset` to `offset + k`."""
        limit = min(offset + k + 1, _MOST)
        found = list[list[Hit]]()
        for at in range(0, len(queries), _AT_ONCE):
            some = queries[at : at + _AT_ONCE]
            for query, points in zip(some, self._ask(some, limit), strict=True):
                found.append(self._settled(query, points, limit, k, offset))
        return found

    def _settled(self, query: Vector, points: list[models.ScoredPoint], asked: int, k: int, offset: int) -> list[Hit]:
        """The first answer came with those of the other queries; more of it is asked for here."""

        def find(limit: int) -> list[Hit]:
            first = points if limit == asked else self._ask(query[None], limit)[0]
            return self._passing(query, first, limit)

        return settle(find, k, offset, most=_MOST)

    def _passing(self, query: Vector, points: list[models.ScoredPoint], limit: int) -> list[Hit]:
        """The best `limit` that match, asking for more and more where the engine's filter lets too many through."""
        asked = limit
        while True:
            if len(points) < asked:  # the graph may have lost some: a full scan knows
                points = self._ask_exactly(query, asked) or points
            hits = [hit for hit in map(hit_of, points) if passes(hit.payload, self.pushed)]
            if len(hits) >= limit or len(points) < asked or asked == _MOST:
                return hits[:limit]
            asked = min(4 * asked, _MOST)
            points = self._ask(query[None], asked)[0]

    def _ask(self, queries: Vectors, limit: int) -> list[list[models.ScoredPoint]]:
        quantised = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
        return self._query(queries, limit, models.SearchParams(hnsw_ef=self.width, quantization=quantised))

    def _ask_exactly(self, query: Vector, limit: int) -> list[models.ScoredPoint]:
        """Nothing where strict mode forbids it."""
        if self.connection.is_local:
            return []  # it is exact anyway
        full = models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
        try:
            return self._query(query[None], limit, full)[0]
        except Refused:
            return []

    def _query(self, queries: Vectors, limit: int, params: models.SearchParams) -> list[list[models.ScoredPoint]]:
        requests = [
            models.QueryRequest(
                query=query.tolist(),
                limit=limit,
                filter=self.pushed.filter if self.pushed else None,
                params=params,
                with_payload=models.PayloadSelectorInclude(include=SHOWN),
            )
            for query in queries
        ]

        def ask(client: QdrantClient) -> list[list[models.ScoredPoint]]:
            answers = client.query_batch_points(self.settings.name, requests, consistency=consistency(self.settings))
            return [answer.points for answer in answers]

        return ask_filtered(self.connection, self.settings, self.pushed, ask)


def consistency(settings: Settings) -> models.ReadConsistencyType | int | None:
    """How many replicas must agree on what is read; the server's choice if the URL does not say."""
    given = settings.consistency
    return models.ReadConsistencyType(given) if isinstance(given, str) else given
