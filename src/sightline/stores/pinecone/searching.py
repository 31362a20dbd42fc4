"""A query turned into the nearest records that pass a filter."""

from collections.abc import Sequence

import numpy as np

from sightline.errors import UsageError
from sightline.filters.where import Node, matches
from sightline.stores.pinecone.connection import Connection
from sightline.stores.pinecone.entries import hit_of, record_of
from sightline.stores.pinecone.filters import Pushed, push
from sightline.stores.pinecone.reading import MOST_FOUND, fetch, query, walk
from sightline.stores.ties import in_order, settle
from sightline.types import Hit, Vector

_WITH_METADATA = 100  # matches of 40 KB each are the 4 MB that an answer may have


def nearest(connection: Connection, vector: Vector, node: Node, *, k: int, offset: int) -> list[Hit]:
    """The hits from `offset` to `offset + k`, best first."""
    if offset + k > MOST_FOUND:
        raise UsageError(
            f"offset + k is {offset + k}, expected at most {MOST_FOUND:,}, which is what Pinecone finds: ask for fewer"
        )
    search = _Search(connection, vector, node, push(node))
    return search.trusting(k, offset) if search.pushed.is_exact else search.checking(k, offset)


class _Search:
    """One query with its filter. Until they are filled in, hits have the key as their id and no payload."""

    def __init__(self, connection: Connection, vector: Vector, node: Node, pushed: Pushed) -> None:
        self.pushed = pushed
        self._connection, self._vector, self._node = connection, vector, node
        self._values: list[float] = vector.tolist()
        self._known: dict[str, Hit] = {}

    def trusting(self, k: int, offset: int) -> list[Hit]:
        """The hits, where Pinecone's filter means what ours does."""
        found = self._filled(settle(self._found, k, offset, most=MOST_FOUND))
        is_right = all(matches(hit.payload, self._node) for hit in found)
        return found if is_right else self.checking(k, offset)

    def checking(self, k: int, offset: int) -> list[Hit]:
        """The hits, where Pinecone's filter lets more through: each is looked at, and more are asked for."""
        return self._filled(settle(self._passing, k, offset, most=MOST_FOUND))

    def _found(self, limit: int) -> list[Hit]:
        """The best `limit` for Pinecone; small answers bring the payloads along."""
        answer = query(
            self._connection,
            self._connection.namespace,
            top_k=limit,
            vector=self._values,
            filter=self.pushed.filter,
            include_metadata=limit <= _WITH_METADATA,
        )
        self._known |= {match.id: hit_of(match) for match in answer.matches if match.metadata is not None}
        return [Hit(match.id, "", max(-1.0, min(1.0, match.score))) for match in answer.matches]

    def _passing(self, limit: int) -> list[Hit]:
        """At least the best `limit` that pass, if there are so many."""
        width = min(2 * limit, MOST_FOUND)
        while True:
            found = self._found(width)
            self._look_up(found)
            passing = [hit for hit in found if self._passes(hit)]
            if len(passing) >= limit or len(found) < width:
                return passing
            if width == MOST_FOUND:
                return self._compared(limit)
            width = min(4 * width, MOST_FOUND)

    def _compared(self, limit: int) -> list[Hit]:
        """The best `limit` by comparing the query with all that pass: the last resort, exact and slow."""
        best = list[Hit]()
        for entry in walk(self._connection, self._connection.namespace, self.pushed.filter):
            record = record_of(entry)
            if matches(record.payload, self._node):
                score = float(np.clip(record.vector @ self._vector, -1, 1))  # (dim,) @ (dim,) -> ()
                self._known[entry.id] = Hit(record.id, record.uri, 0.0, record.payload)
                best.append(Hit(entry.id, "", score))
            if len(best) > 2 * limit + 1000:
                best = in_order(best)[:limit]
                self._known = {hit.id: self._known[hit.id] for hit in best}
        return in_order(best)[:limit]

    def _look_up(self, hits: Sequence[Hit]) -> None:
        missing = [hit.id for hit in hits if hit.id not in self._known]
        found = fetch(self._connection, self._connection.namespace, missing) if missing else {}
        self._known |= {key: hit_of(entry) for key, entry in found.items()}

    def _filled(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits with id, URI and payload; those that were deleted meanwhile fall out."""
        self._look_up(hits)
        pairs = [(self._known[hit.id], hit.score) for hit in hits if hit.id in self._known]
        return [Hit(known.id, known.uri, score, known.payload) for known, score in pairs]

    def _passes(self, hit: Hit) -> bool:
        return hit.id in self._known and matches(self._known[hit.id].payload, self._node)
