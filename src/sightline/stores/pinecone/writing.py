"""Entries written to and removed from a namespace; each call returns when reads see it.

Pinecone acknowledges a write when it is in its log, and shows it to reads some time later. Each write has a number in
the log (LSN) and each query says up to which number it saw; a fetch says nothing, and sees at another time than a
query does (https://docs.pinecone.io/guides/index-data/check-data-freshness, and `ResponseInfo` of the client).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sightline.errors import StoreNotFound
from sightline.stores.pinecone.connection import Connection
from sightline.stores.pinecone.entries import Entry, batches
from sightline.stores.pinecone.reading import fetch, query, query_keys

_MOST_DELETED = 1000  # ids of one delete
_LOOKED_AT = 100  # entries of an upsert whose visibility is asked for: their metadata are 4 MB at most


def upsert(connection: Connection, namespace: str, entries: Sequence[Entry]) -> None:
    """Write entries, each key once, in batches as large as Pinecone takes them; safe to repeat."""

    def send(batch: list[Entry]) -> Any:
        vectors = [entry.to_dict() for entry in batch]
        return connection.call(lambda: connection.index.upsert(vectors=vectors, namespace=namespace)).response_info

    sent = list(batches(entries))
    infos = connection.each(send, sent)
    numbers = [info.lsn_committed for info in infos if info is not None and info.lsn_committed is not None]
    waiting = _Waiting(connection, namespace, [batch[-1] for batch in sent[-_LOOKED_AT:]], max(numbers, default=None))
    connection.wait_until(waiting.is_over, f"an upsert of {len(entries)} entries")


def delete(connection: Connection, namespace: str, keys: Iterable[str]) -> int:
    """Remove entries; gives how many were there."""
    found = fetch(connection, namespace, keys)
    there = list(found)
    groups = [there[at : at + _MOST_DELETED] for at in range(0, len(there), _MOST_DELETED)]

    def remove(group: list[str]) -> None:
        try:
            connection.call(lambda: connection.index.delete(ids=group, namespace=namespace))
        except StoreNotFound:
            connection.check_open()  # the namespace went with its last entry, or by another process

    connection.each(remove, groups)
    left = list(groups)

    def is_gone() -> bool:
        while left:
            identities = [str((found[key].metadata or {}).get("id", key)) for key in left[-1]]
            if query_keys(connection, namespace, {"id": {"$in": identities}}, 1) or fetch(
                connection, namespace, left[-1]
            ):
                return False
            left.pop()
        return True

    connection.wait_until(is_gone, f"a delete of {len(there)} entries")
    return len(there)


class _Waiting:
    """What is known of a write by the last entries of its batches: seen once, it stays seen."""

    def __init__(self, connection: Connection, namespace: str, last: Sequence[Entry], number: int | None) -> None:
        self._connection, self._namespace, self._last, self._number = connection, namespace, last, number
        self._searched: dict[str, int] | None = None
        self._is_fetched = False

    def is_over(self) -> bool:
        """Whether queries and fetches see it."""
        if self._searched is None:
            self._searched = self._seen_by_search()
        if self._searched is not None and not self._is_fetched:
            self._is_fetched = self._seen_by_fetch(self._searched)
        return self._is_fetched

    def _seen_by_search(self) -> dict[str, int] | None:
        """The marks that queries see, once they see the write: by its number, or by its marks where there is none."""
        ids = [one.metadata["id"] for one in self._last]
        answer = query(
            self._connection,
            self._namespace,
            top_k=len(ids),
            vector=self._connection.any_vector,
            filter={"id": {"$in": ids}},
            include_metadata=True,
        )
        marks = {match.id: int((match.metadata or {}).get("mark", 0)) for match in answer.matches}
        reached = answer.response_info.lsn_reconciled if answer.response_info else None
        if self._number is not None and reached is not None:
            return marks if reached >= self._number else None
        return marks if all(marks.get(one.key, 0) >= one.metadata["mark"] for one in self._last) else None

    def _seen_by_fetch(self, searched: dict[str, int]) -> bool:
        """Whether fetches see it, or what another writer made of it since, which queries see."""
        found = fetch(self._connection, self._namespace, [one.key for one in self._last])
        marks = {key: int((entry.metadata or {}).get("mark", 0)) for key, entry in found.items()}
        return all(
            marks.get(one.key, 0) >= one.metadata["mark"] or marks.get(one.key) == searched.get(one.key)
            for one in self._last
        )
