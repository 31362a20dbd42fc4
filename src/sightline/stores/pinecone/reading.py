"""Keys and filters turned into the entries of a namespace."""

from collections.abc import Iterable, Iterator
from typing import Any

from pinecone.models.vectors.responses import FetchByMetadataResponse, FetchResponse, ListResponse, QueryResponse

from sightline.errors import StoreError
from sightline.stores.pinecone.connection import Connection

MOST_FOUND = 10_000
"""What a query gives at most."""

_MOST_FETCHED = 100  # a fetch names its ids in the URL, which proxies cut at 8 KB
_MOST_URL = 6000
_LISTED = 100  # ids of a page, the most that Pinecone lists at once
_AHEAD = 400  # ids that are listed before they are fetched, several requests at a time
_FEW = 5000  # entries that pass a filter: up to here they are held and sorted, beyond all are walked
_PAGE_BYTES = 2_000_000  # of a page of entries: half of what Pinecone answers at most
_NARROW = 1000  # what a query gives at most when a namespace is walked by place


def fetch(connection: Connection, namespace: str, keys: Iterable[str]) -> dict[str, Any]:
    """The entries of those keys that exist, by key."""

    def some(group: list[str]) -> dict[str, Any]:
        return connection.read(lambda: connection.index.fetch(ids=group, namespace=namespace), FetchResponse()).vectors

    found: dict[str, Any] = {}
    for part in connection.each(some, _groups(dict.fromkeys(keys))):
        found |= part
    return found


def walk(connection: Connection, namespace: str, pushed: dict[str, Any] | None) -> Iterator[Any]:
    """The entries of a namespace in order of key, at least those that pass the filter; with constant memory.

    Few are asked for by the filter; many, and those of pods, which cannot be listed, by walking the namespace.
    """
    if not connection.is_serverless:
        key_lists = _placed(connection, namespace, pushed)
    else:
        few = _few(connection, namespace, pushed) if pushed is not None else None
        if few is not None:
            yield from (few[key] for key in sorted(few))
            return
        key_lists = _listed(connection, namespace)
    for keys in key_lists:
        found = fetch(connection, namespace, keys)
        yield from (found[key] for key in keys if key in found)


def _few(connection: Connection, namespace: str, pushed: dict[str, Any]) -> dict[str, Any] | None:
    """The entries that pass, by key, or None if they are many."""
    limit = max(1, min(1000, _PAGE_BYTES // (24 * connection.dim + 4096)))
    found: dict[str, Any] = {}
    token: str | None = None
    while len(found) < _FEW:
        page = connection.read(
            lambda token=token: connection.index.fetch_by_metadata(  # type: ignore[misc]
                filter=pushed, namespace=namespace, limit=limit, pagination_token=token
            ),
            FetchByMetadataResponse(),
        )
        found |= page.vectors
        token = page.pagination.next if page.pagination else None
        if not token:
            return found
    return None


def _listed(connection: Connection, namespace: str) -> Iterator[list[str]]:
    """All keys in order, as the namespace lists them."""
    keys = list[str]()
    token: str | None = None
    while True:
        page = connection.read(
            lambda token=token: connection.index.list_paginated(  # type: ignore[misc]
                namespace=namespace, limit=_LISTED, pagination_token=token
            ),
            ListResponse(),
        )
        keys += [str(item.id) for item in page.vectors]
        token = page.pagination.next if page.pagination else None
        if not token or len(keys) >= _AHEAD:
            yield keys
            keys = []
        if not token:
            return


def _placed(connection: Connection, namespace: str, pushed: dict[str, Any] | None) -> Iterator[list[str]]:
    """The keys that pass, in order, by queries for ranges of places that are halved until they are narrow enough."""
    ranges = [(0, 2**48)]
    while ranges:
        low, high = ranges.pop()
        is_one = high - low == 1
        within: dict[str, Any] = {"place": {"$gte": low, "$lt": high}}
        keys = query_keys(
            connection,
            namespace,
            {"$and": [within, pushed]} if pushed else within,
            MOST_FOUND if is_one else _NARROW,
        )
        if is_one and len(keys) >= MOST_FOUND:
            raise StoreError(
                f"{connection.address.text} has {MOST_FOUND:,} ids or more that begin with the same six characters, "
                "expected fewer in an index of pods, which cannot list them: use a serverless index, or UUIDs as ids"
            )
        if len(keys) < _NARROW or is_one:
            yield sorted(keys)
        else:
            middle = (low + high) // 2
            ranges += [(middle, high), (low, middle)]


def query(connection: Connection, namespace: str, **question: Any) -> Any:
    """The client's answer to a question about a namespace."""
    return connection.read(lambda: connection.index.query(namespace=namespace, **question), QueryResponse())


def query_keys(connection: Connection, namespace: str, pushed: dict[str, Any], limit: int) -> list[str]:
    """Up to `limit` keys of entries that pass, whatever their vector."""
    answer = query(connection, namespace, top_k=limit, vector=connection.any_vector, filter=pushed)
    return [match.id for match in answer.matches]


def _groups(keys: Iterable[str]) -> Iterator[list[str]]:
    group, size = list[str](), 0
    for key in keys:
        if group and (len(group) == _MOST_FETCHED or size + len(key) > _MOST_URL):
            yield group
            group, size = [], 0
        group.append(key)
        size += len(key) + len("&ids=")
    if group:
        yield group
