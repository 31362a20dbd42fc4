"""Pinecone, serverless or pods, as the engine of a store: one namespace for the records, one for the notes.

Pinecone acknowledges a write when it is in its log, and shows it to reads some time later. Each write has a number in
the log (LSN) and each query says up to which number it saw; a fetch says nothing, and sees at another time than a
query does (https://docs.pinecone.io/guides/index-data/check-data-freshness, and `ResponseInfo` of the client). So each
write here returns when reads see it.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pinecone import Pinecone
from pinecone.errors import exceptions as errors
from pinecone.models.vectors.responses import FetchByMetadataResponse, FetchResponse, ListResponse, QueryResponse

from sightline.errors import StoreError, StoreForbidden, StoreNotFound, UsageError
from sightline.filters.documents import load_note
from sightline.filters.where import Node
from sightline.stores.pinecone import schema
from sightline.stores.pinecone.filters import push
from sightline.stores.pinecone.schema import Entry, hit_of, key_of, record_of
from sightline.stores.remote import TIMEOUT_S, Calls, Engine, RemoteStore, Workers, batches, check_marker, missing_index
from sightline.stores.url import Address, Option, StoreUrl, parse_address
from sightline.types import Hit, Note, Record, Vectors, chunks

MOST_FOUND = 10_000
"""What a query gives at most."""
TAG = {"made-by": "sightline"}
"""On an index that may go when its last namespace goes."""

_MARKER = "store"  # the kind of note, and its key, that says that the namespace is ours
_FORMAT = 1
_OPTIONS: Mapping[str, Option] = {
    "namespace": "sightline",
    "cloud": "aws",
    "region": "us-east-1",
    "environment": "",  # of an index of pods, as what follows
    "pod_type": "p1.x1",
    "replicas": 1,
    "shards": 1,
    "tls": bool,
    "patience_s": TIMEOUT_S,
    "visible_s": 30,
}
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?")
_SERVICE = "api.pinecone.io"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_METRICS = ("dotproduct", "cosine")  # the same for unit vectors; Pinecone's cosine divides once more
_TIMEOUT_S = 30
_READY_S = 300.0  # pods take minutes

_NOTES = "-notes"  # behind the namespace of the records
_GONE_S = 120
_AT_ONCE = 8  # requests under way for one call

_MOST_FETCHED = 100  # a fetch names its ids in the URL, which proxies cut at 8 KB
_MOST_URL = 6000
_LISTED = 100  # ids of a page, the most that Pinecone lists at once
_AHEAD = 400  # ids that are listed before they are fetched, several requests at a time
_FEW = 5000  # entries that pass a filter: up to here they are held and sorted, beyond all are walked
_PAGE_BYTES = 2_000_000  # of a page of entries: half of what Pinecone answers at most
_NARROW = 1000  # what a query gives at most when a namespace is walked by place
_MOST_DELETED = 1000  # ids of one delete
_LOOKED_AT = 100  # entries of an upsert whose visibility is asked for: their metadata are 4 MB at most
_WITH_METADATA = 100  # matches of 40 KB each are the 4 MB that an answer may have

T = TypeVar("T")
_log = logging.getLogger(__name__)


def open_url(url: StoreUrl | str, *, dim: int | None = None) -> "RemoteStore[PineconeEngine]":
    """The store of `pinecone://:KEY@host/index?namespace=...`; created if `dim` is given and nothing is there."""
    address = parse_address(url, _OPTIONS)
    namespace = address.options["namespace"]
    if not _NAME.fullmatch(address.name):
        raise UsageError(
            f"the index {address.name!r} of {address.text} is not a valid name in Pinecone, expected up to 45 "
            "small letters, digits and hyphens inside: rename it"
        )
    if not namespace or not namespace.isascii() or not namespace.isprintable() or len(namespace) > 500:
        raise UsageError(
            f"the namespace {namespace!r} of {address.text} is not a valid name in Pinecone, expected 1 to "
            "500 visible ASCII characters: rename it"
        )
    return RemoteStore(PineconeEngine(address, dim))


class PineconeEngine(Engine):
    """One namespace of a Pinecone index and that of its notes, which Pinecone finds and filters."""

    most_hits = MOST_FOUND

    def __init__(self, address: Address, dim: int | None) -> None:
        self.address, self.namespace = address, address.options["namespace"]
        patience_s, tls = address.options["patience_s"], address.options["tls"]
        self.calls = Calls(address.text, patience_s, is_transient=_is_transient, translate=self._translated)
        self.notes_namespace = self.namespace + _NOTES
        self._workers = Workers(self.calls, _AT_ONCE, "pinecone")
        self.index: Any = None
        is_encrypted = address.host not in _LOCAL if tls is None else tls
        self._client = _client(address, "https" if is_encrypted else "http")
        with self.opening():
            model = self._prepared(dim)
            self.dim = _dim(address, model)
            check_marker(address.text, {"format": _FORMAT, "dim": self.dim}, dim)
            self.is_serverless = not hasattr(model.deployment, "pod_type")
            self.any_vector = [1.0] + [0.0] * (self.dim - 1)  # for what has none: Pinecone refuses zeros alone
            # The client takes the host of the records for https, which a local server may not speak.
            host = model.host if is_encrypted else f"http://{model.host.removeprefix('https://')}"
            self.index = self._client.index(host=host)
            self._is_ours = (model.tags or {}).items() >= TAG.items()
            self._claim(is_new_welcome=dim is not None)

    def write(self, records: Sequence[Record], vectors: Vectors) -> None:
        """Write records; returns when they are in Pinecone's log and reads see them."""
        self._upsert(self.namespace, schema.entries_of(records, vectors))

    def delete(self, ids: Sequence[str]) -> int:
        return self._delete(self.namespace, map(key_of, ids))

    def nearest(self, queries: Vectors, limit: int, node: Node, width: int | None) -> list[list[Hit]]:
        """The best of each query; those that are deleted meanwhile fall out."""
        pushed = push(node).filter

        def of_query(values: list[float]) -> list[Hit]:
            matches = self._query(
                self.namespace, pushed, limit, vector=values, include_metadata=limit <= _WITH_METADATA
            ).matches
            fetched = self._fetch(self.namespace, [match.id for match in matches if match.metadata is None])
            entries = [fetched.get(match.id) if match.metadata is None else match for match in matches]
            found = zip(entries, matches, strict=True)
            return [hit_of(entry, max(-1.0, min(1.0, match.score))) for entry, match in found if entry is not None]

        return self._workers.map(of_query, queries.tolist())

    def fetch(self, ids: Sequence[str]) -> Iterable[Record]:
        return map(record_of, self._fetch(self.namespace, map(key_of, ids)).values())

    def scan(self, node: Node, *, with_vectors: bool) -> Iterator[Record]:
        """The records that may match, in order of id; few by the filter, many by walking the namespace."""
        return map(record_of, self._walk(self.namespace, push(node).filter))

    def count(self, node: Node) -> int | None:
        """How many records match, by Pinecone's own counts where its filter is exact and it says so."""
        pushed = push(node)
        if not pushed.is_exact:
            return None
        if pushed.filter is None:
            return self._counts().get(self.namespace, 0)
        if not self.is_serverless:
            stats = self.calls.make(lambda: self.index.describe_index_stats(filter=pushed.filter))
            return stats.namespaces[self.namespace].vector_count if self.namespace in stats.namespaces else 0
        answer = self._read(  # a dry run: nothing is set
            lambda: self.index.update(
                filter=pushed.filter, set_metadata={"counted": True}, namespace=self.namespace, dry_run=True
            ),
            None,
        )
        return answer.matched_records if answer is not None else 0

    def notes(self, kind: str) -> Iterator[tuple[str, Note]]:
        entries = self._walk(self.notes_namespace, {"kind": {"$eq": kind}})
        found = (one.metadata for one in entries if one.metadata and one.metadata.get("kind") == kind)
        return ((str(kept["key"]), load_note(kept["note"])) for kept in found)

    def write_notes(self, kind: str, notes: Mapping[str, Note], removed: Sequence[str]) -> None:
        written = schema.mark()
        entries = [schema.note_entry(kind, key, note, self.any_vector, written) for key, note in notes.items()]
        if entries:
            self._upsert(self.notes_namespace, entries)
        if removed:
            self._delete(self.notes_namespace, [schema.note_key(kind, key) for key in removed])

    def drop(self) -> None:
        """Empty both namespaces, and remove the index if Sightline made it and nothing else is in it."""
        for name in (self.namespace, self.notes_namespace):
            try:
                self.calls.make(lambda name=name: self.index.delete(delete_all=True, namespace=name))  # type: ignore[misc]
            except StoreNotFound:
                _log.debug("%s has no namespace %s", self.address.text, name)
        others = {name for name, count in self._counts().items() if count} - {self.namespace, self.notes_namespace}
        if self._is_ours and not others:
            try:
                self.calls.make(lambda: self._client.indexes.delete(self.address.name, timeout=_GONE_S))
            except StoreNotFound:
                _log.debug("%s is gone", self.address.text)

    def close(self) -> None:
        if not self.calls.is_closed:
            self.calls.close()
            self._workers.close()
            if self.index is not None:
                self.index.close()
            self._client.close()

    def _prepared(self, dim: int | None) -> Any:
        """The client's description of the index, created if `dim` is given and it is missing, once it is ready."""
        address, indexes = self.address, self._client.indexes
        try:
            model = self.calls.make(lambda: indexes.describe(address.name))
        except StoreNotFound:
            model = self._created(missing_index(address.text, dim))
        until, pause_s = time.monotonic() + _READY_S, 0.1
        while not model.status.ready or not model.host:
            if model.status.state in ("InitializationFailed", "Terminating", "Disabled") or time.monotonic() > until:
                raise StoreError(
                    f"the index of {address.text} is {model.status.state!r}, expected it to become ready within "
                    f"{_READY_S:.0f} s: look at it in Pinecone's console"
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)
            model = self.calls.make(lambda: indexes.describe(address.name))
        return model

    def _created(self, dim: int) -> Any:
        address, options, indexes = self.address, self.address.options, self._client.indexes
        deployment: dict[str, Any] = {
            "deployment_type": "managed",
            "cloud": options["cloud"],
            "region": options["region"],
        }
        if options["environment"]:
            pods = {name: options[name] for name in ("environment", "pod_type", "replicas", "shards")}
            deployment = {"deployment_type": "pod", **pods}

        def create() -> Any:
            try:
                return indexes.create(
                    name=address.name,
                    dimension=dim,  # an index for vectors, as `upsert` and `query` want it, and not one for documents
                    metric="dotproduct",
                    deployment=deployment,
                    tags=TAG,
                    timeout=-1,
                )
            except errors.ConflictError:  # made at the same time by another process, or by a call whose answer was lost
                return indexes.describe(address.name)

        return self.calls.make(create)

    def _claim(self, *, is_new_welcome: bool) -> None:
        """Make sure that the namespace is ours, or make it so if it is empty."""
        marker = dict(self.notes(_MARKER)).get(_MARKER)
        where = f"the namespace {self.namespace!r} of {self.address.text}"
        if marker is not None:
            check_marker(where, {"dim": self.dim} | marker, self.dim, newest=_FORMAT)
            return
        if self._counts().get(self.namespace):
            raise StoreError(
                f"{where} holds records that Sightline did not write, expected its own or none: name another namespace"
            )
        missing_index(where, self.dim if is_new_welcome else None)
        self.write_notes(_MARKER, {_MARKER: {"format": _FORMAT, "dim": self.dim}}, [])

    def _upsert(self, namespace: str, entries: Sequence[Entry]) -> None:
        """Write entries, each key once, in batches as large as Pinecone takes them; safe to repeat."""

        def send(batch: list[Entry]) -> Any:
            vectors = [entry.to_dict() for entry in batch]
            return self.calls.make(lambda: self.index.upsert(vectors=vectors, namespace=namespace)).response_info

        sent = list(
            batches(entries, lambda entry: entry.most_bytes, most=schema.MOST_ENTRIES, most_bytes=schema.MOST_BYTES)
        )
        infos = self._workers.map(send, sent)
        number = max((info.lsn_committed or 0 for info in infos if info is not None), default=0)
        last = [batch[-1] for batch in sent[-_LOOKED_AT:]]
        marks = {one.key: one.metadata["mark"] for one in last}
        searched: dict[str, int] | None = None  # the marks that queries see, once they see the write

        def is_seen() -> bool:
            nonlocal searched
            if searched is None:
                ids = {"id": {"$in": [one.metadata["id"] for one in last]}}
                answer = self._query(namespace, ids, len(last), include_metadata=True)
                found = _marks(answer.matches)
                reached = answer.response_info.lsn_reconciled if answer.response_info else None
                has_marks = all(found.get(key, 0) >= mark for key, mark in marks.items())
                if not (reached >= number if number and reached is not None else has_marks):
                    return False
                searched = found
            fetched = _marks(self._fetch(namespace, marks).values())
            # It may be what another writer made of it since, which queries see.
            return all(
                fetched.get(key, 0) >= mark or fetched.get(key) == searched.get(key) for key, mark in marks.items()
            )

        self._wait_until(is_seen, f"an upsert of {len(entries)} entries")

    def _delete(self, namespace: str, keys: Iterable[str]) -> int:
        found = self._fetch(namespace, keys)
        left = list(chunks(found, _MOST_DELETED))

        def remove(group: list[str]) -> None:
            try:
                self.calls.make(lambda: self.index.delete(ids=group, namespace=namespace))
            except StoreNotFound:
                self.calls.check_open()  # the namespace went with its last entry, or by another process

        self._workers.map(remove, left)

        def is_gone() -> bool:
            while left:
                ids = {"id": {"$in": [str((found[key].metadata or {}).get("id", key)) for key in left[-1]]}}
                if self._query(namespace, ids, 1).matches or self._fetch(namespace, left[-1]):
                    return False
                left.pop()
            return True

        self._wait_until(is_gone, f"a delete of {len(found)} entries")
        return len(found)

    def _wait_until(self, seen: Callable[[], bool], what: str) -> None:
        """Return when a write is `seen`, or with a warning after the time that the URL allows for it."""
        visible_s = self.address.options["visible_s"]
        until, pause_s = time.monotonic() + visible_s, 0.02
        while visible_s and not seen():
            if time.monotonic() > until:
                _log.warning("%s: %s is kept but not seen after %d s", self.address.text, what, visible_s)
                return
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    def _fetch(self, namespace: str, keys: Iterable[str]) -> dict[str, Any]:
        """The entries of those keys that exist, by key."""

        def some(group: list[str]) -> dict[str, Any]:
            return self._read(lambda: self.index.fetch(ids=group, namespace=namespace), FetchResponse()).vectors

        groups = batches(dict.fromkeys(keys), lambda key: len(f"&ids={key}"), most=_MOST_FETCHED, most_bytes=_MOST_URL)
        found: dict[str, Any] = {}
        for part in self._workers.map(some, groups):
            found |= part
        return found

    def _walk(self, namespace: str, pushed: dict[str, Any] | None) -> Iterator[Any]:
        """The entries of a namespace in order of key, at least those that pass the filter; with constant memory.

        Few are asked for by the filter; many, and those of pods, which cannot be listed, by walking the namespace.
        """
        if not self.is_serverless:
            key_lists = self._placed(namespace, pushed)
        else:
            few = self._few(namespace, pushed) if pushed is not None else None
            if few is not None:
                yield from (few[key] for key in sorted(few))
                return
            key_lists = self._listed(namespace)
        for keys in key_lists:
            found = self._fetch(namespace, keys)
            yield from (found[key] for key in keys if key in found)

    def _few(self, namespace: str, pushed: dict[str, Any]) -> dict[str, Any] | None:
        """The entries that pass, by key, or None if they are many."""
        limit = max(1, min(1000, _PAGE_BYTES // (24 * self.dim + 4096)))
        found: dict[str, Any] = {}
        for page in self._pages("fetch_by_metadata", FetchByMetadataResponse(), namespace, limit=limit, filter=pushed):
            found |= page.vectors
            if len(found) > _FEW:
                return None
        return found

    def _listed(self, namespace: str) -> Iterator[list[str]]:
        keys = list[str]()
        for page in self._pages("list_paginated", ListResponse(), namespace, limit=_LISTED):
            keys += [str(item.id) for item in page.vectors]
            if len(keys) >= _AHEAD:
                yield keys
                keys = []
        yield keys

    def _pages(self, method: str, empty: Any, namespace: str, **question: Any) -> Iterator[Any]:
        ask, token = getattr(self.index, method), None
        while True:
            page = self._read(
                lambda token=token: ask(namespace=namespace, pagination_token=token, **question),  # type: ignore[misc]
                empty,
            )
            yield page
            token = page.pagination.next if page.pagination else None
            if not token:
                return

    def _placed(self, namespace: str, pushed: dict[str, Any] | None) -> Iterator[list[str]]:
        """The keys that pass, in order, by queries for ranges of places, halved until they are narrow enough."""
        ranges = [(0, 2**48)]
        while ranges:
            low, high = ranges.pop()
            is_one = high - low == 1
            within: dict[str, Any] = {"place": {"$gte": low, "$lt": high}}
            both = {"$and": [within, pushed]} if pushed else within
            keys = [match.id for match in self._query(namespace, both, MOST_FOUND if is_one else _NARROW).matches]
            if is_one and len(keys) >= MOST_FOUND:
                raise StoreError(
                    f"{self.address.text} has {MOST_FOUND:,} ids or more that begin with the same six characters, "
                    "which an index of pods cannot list: use a serverless index, or UUIDs as ids"
                )
            if len(keys) < _NARROW or is_one:
                yield sorted(keys)
            else:
                middle = (low + high) // 2
                ranges += [(middle, high), (low, middle)]

    def _query(self, namespace: str, pushed: dict[str, Any] | None, limit: int, **question: Any) -> Any:
        """The client's answer to a question about the entries that pass a filter, whatever their vector by default."""
        question = {"vector": self.any_vector, **question}
        return self._read(
            lambda: self.index.query(namespace=namespace, filter=pushed, top_k=limit, **question), QueryResponse()
        )

    def _read(self, function: Callable[[], T], empty: T) -> T:
        """A call, or `empty` where the namespace does not exist, as none does before its first write."""
        try:
            return self.calls.make(function)
        except StoreNotFound:
            self._counts()  # raises if the index itself is gone
            return empty

    def _counts(self) -> dict[str, int]:
        """How many entries each namespace has, by `describe_index_stats`."""
        stats = self.calls.make(lambda: self.index.describe_index_stats())
        return {name: summary.vector_count for name, summary in stats.namespaces.items()}

    def _translated(self, error: Exception) -> StoreError | None:
        what = self.address.text
        if not isinstance(error, errors.PineconeError):
            return None
        if isinstance(error, errors.UnauthorizedError | errors.ForbiddenError):
            return StoreForbidden(
                f"{what} refuses the key or what it may do ({error.message}), expected a key of this project with the "
                "right to it: write it as pinecone://:KEY@..., or name its file with key_file"
            )
        if isinstance(error, errors.NotFoundError):
            return StoreNotFound(
                f"{what} does not find what was asked for ({error.message}): look whether it was removed"
            )
        return StoreError(f"{what} refused a call ({error.message}): look at what Pinecone says")


def _client(address: Address, scheme: str) -> Pinecone:
    port = f":{address.port}" if address.port is not None else ""
    timeout_s = min(_TIMEOUT_S, max(1, address.options["patience_s"]))
    try:
        return Pinecone(address.key or None, host=f"{scheme}://{address.url_host or _SERVICE}{port}", timeout=timeout_s)
    except errors.PineconeValueError as error:
        raise StoreForbidden(
            f"{address.text} has no usable key ({error.message}), expected one: write it as pinecone://:KEY@..., or "
            "name its file with key_file"
        ) from error


def _dim(address: Address, model: Any) -> int:
    """The length of the index's vectors; `StoreError` if they are not as Sightline needs them."""
    dense: Sequence[Any] = [field for field in model.schema.fields.values() if hasattr(field, "dimension")]
    if len(dense) != 1 or dense[0].metric not in _METRICS:
        found = ", ".join(f"{name}: {type(field).__name__}" for name, field in model.schema.fields.items())
        metrics = ", ".join(str(field.metric) for field in dense)
        raise StoreError(
            f"the index of {address.text} was made for something else ({found}; metric {metrics or 'none'}), expected "
            "one dense vector with the metric dotproduct or cosine: name another index"
        )
    return int(dense[0].dimension)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, errors.ApiError) and error.status_code == 408:
        return True
    return isinstance(
        error,
        errors.PineconeConnectionError | errors.PineconeTimeoutError | errors.RateLimitError | errors.ServiceError,
    )


def _marks(found: Iterable[Any]) -> dict[str, int]:
    """By which write each of some entries was written, by key."""
    return {one.id: int((one.metadata or {}).get("mark", 0)) for one in found}
