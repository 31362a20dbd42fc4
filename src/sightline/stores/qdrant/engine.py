"""Qdrant, on a server, in a cluster or in a folder, as the engine of a store."""

import json
import logging
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from heapq import merge
from typing import Any, TypeVar

import grpc
import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from sightline.errors import StoreBusy, StoreError, StoreForbidden, StoreFull, StoreNotFound
from sightline.filters.documents import load_note
from sightline.filters.where import Node
from sightline.stores.qdrant import schema
from sightline.stores.qdrant.filters import NAMES, TEXTS, WORDS, Pushed, has_value, looked_into, path, push
from sightline.stores.qdrant.schema import ID, IS_NAMED, KEY, KIND, NOTE, SHOWN, Collection, parse_collection, point_id
from sightline.stores.remote import (
    EVERYTHING,
    Calls,
    TunableStore,
    batches,
    check_format,
    check_marker,
    first_line,
    missing_index,
)
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors

T = TypeVar("T")

FORMAT = 1
OVERSAMPLING = 2.0
"""So many times the hits are ranked again by their full vectors: int8 codes order neighbours roughly."""

_MARKER = schema.note_id("$store", "")
_AT_ONCE = 64  # queries in one call
_PAGE = 500  # points in one answer; ids in one request
_BATCH_POINTS = 256
_BATCH_BYTES = 16_000_000  # of JSON; servers take 32 MB
_FLOAT_BYTES = 22  # of one number of a vector in JSON, at most
_WRITERS = 4  # requests at a time: the client makes one batch while the server takes in others
_PROBE_S = 1.0  # for the gRPC port to answer; a firewall that drops packets costs this once per opening
_TRANSIENT_STATUS = (408, 429, 502, 503, 504)
_TRANSIENT_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
)
_RECONNECTING = {  # else a server that is back is missed for a second at least, and for two minutes at most
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 5000,
}
_FORBIDDEN = (401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_MISSING = (404, grpc.StatusCode.NOT_FOUND)
_THERE = (409, grpc.StatusCode.ALREADY_EXISTS)
_FULL = 507
_log = logging.getLogger(__name__)


class RefusedError(StoreError):
    """The server refused one call by a rule of its own: a limit of strict mode, or a collection that exists."""


def open_url(url: StoreUrl | str, *, dim: int | None = None) -> "TunableStore[QdrantEngine]":
    """The store in a collection of Qdrant, created if `dim` is given and nothing is there.

    `qdrant://:key@host:6333/collection?option=value`, or `qdrant:///folder?collection=name` for its local mode.
    """
    engine = QdrantEngine(parse_collection(url), dim)
    try:
        return TunableStore(engine)
    except BaseException:
        engine.close()
        raise


class QdrantEngine:
    """Keeps records in a collection of Qdrant, notes in a second one; any number of processes may read and write.

    Search is approximate (HNSW over int8 codes, ranked again by the full vectors). Writes return when they are applied,
    so that the next read sees them. The width is `hnsw_ef`, the list of candidates that a search keeps.
    """

    most_hits = 1_000_000  # Qdrant has no limit of its own
    widths: Sequence[int] = (100, 200, 400, 800, 1600, 3200)  # 100 is what Qdrant itself would take
    untuned_width = 100
    reads_width = False

    def __init__(self, collection: Collection, dim: int | None) -> None:
        self.collection, self.is_local = collection, bool(collection.folder)
        self.calls = Calls(
            collection.what,
            collection.timeout_s,
            is_transient=_is_transient,
            translate=self._translated,
            summary=_words_of,
        )
        self._lock = threading.RLock()  # local mode is not made for threads
        self.client: QdrantClient | None = None
        try:
            self.client = self.calls.make(lambda: _local(collection) if self.is_local else _remote(collection))
            self.dim = self._open(dim)
        except BaseException:
            self.close()
            raise

    def write(self, records: Sequence[Record], vectors: Vectors) -> None:
        """Write records; returns when they are applied and in the write-ahead log."""
        points = (schema.point_of(record, vector) for record, vector in zip(records, vectors, strict=True))
        self._write(self.collection.name, points)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove records; gives how many were there."""
        points = [point_id(name) for name in ids]
        there = [str(point.id) for point in self._retrieve(points, with_payload=False, with_vectors=False)]
        self._remove(self.collection.name, there)
        return len(there)

    def nearest(self, queries: Vectors, limit: int, node: Node, width: int | None) -> list[list[Hit]]:
        """The best of each query, as many as pass: where the graph finds too few, a full scan is asked."""
        pushed = _pushed(node)
        quantised = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
        params = models.SearchParams(hnsw_ef=width, quantization=quantised)
        found = list[list[Hit]]()
        for at in range(0, len(queries), _AT_ONCE):
            some = queries[at : at + _AT_ONCE]
            for query, points in zip(some, self._query(some, limit, pushed, params), strict=True):
                if len(points) < limit:
                    points = self._query_exactly(query[None], limit, pushed) or points
                found.append([schema.hit_of(point) for point in points])
        return found

    def fetch(self, ids: Sequence[str]) -> Iterable[Record]:
        """The records of those ids that exist."""
        points = self._retrieve([point_id(name) for name in ids], with_payload=True, with_vectors=True)
        return map(schema.record_of, points)

    def scan(self, node: Node, *, with_vectors: bool) -> Iterator[Record]:
        """The records that pass, in order of id.

        With constant memory for ids that are UUIDs, which is the order of the points; other ids are sorted here.
        """
        pushed = _pushed(node)
        only: list[models.Condition] = [pushed.filter] if pushed else []
        named = self._pages(self.collection.name, models.Filter(must=[*only, has_value(IS_NAMED, True)]), [ID], pushed)
        names = sorted(str((point.payload or {})[ID]) for point in named)
        without: list[models.Condition] = [has_value(IS_NAMED, True)] if names else []
        others = self._pages(
            self.collection.name, models.Filter(must=only, must_not=without), SHOWN, pushed, with_vectors=with_vectors
        )
        by_uuid = (schema.record_of(point) for point in others if ID not in (point.payload or {}))
        by_name = (
            record
            for at in range(0, len(names), _PAGE)
            for record in sorted(self.fetch(names[at : at + _PAGE]), key=lambda record: record.id)
        )
        return merge(by_uuid, by_name, key=lambda record: record.id)

    def count(self, node: Node) -> int | None:
        """How many records match, where the engine's filter is exact."""
        pushed = _pushed(node)
        if pushed and not pushed.is_exact:
            return None
        only = pushed.filter if pushed else None
        return self._ask_filtered(pushed, lambda client: client.count(self.collection.name, only, exact=True).count)

    def notes(self, kind: str) -> Iterator[tuple[str, Note]]:
        """The notes of a kind."""
        only = models.Filter(must=[has_value(KIND, kind)])
        payloads = (point.payload or {} for point in self._pages(self.collection.notes, only, [KEY, NOTE]))
        return ((payload[KEY], load_note(payload[NOTE])) for payload in payloads)

    def write_notes(self, kind: str, notes: Mapping[str, Note], removed: Sequence[str]) -> None:
        """Write some notes and remove others."""
        self._write(self.collection.notes, (schema.note_point(kind, key, note) for key, note in notes.items()))
        self._remove(self.collection.notes, [schema.note_id(kind, key) for key in removed])

    def finish_indexing(self) -> None:
        """Nothing: what is not indexed yet, Qdrant searches exactly."""

    def size_bytes(self) -> None:
        """Qdrant does not tell."""

    def drop(self) -> None:
        """Remove both collections; what an interruption leaves is removed by the next opening."""
        self._mark(is_dropping=True)
        for name in (self.collection.name, self.collection.notes):
            with suppress(StoreNotFound):
                self._ask(lambda client: client.delete_collection(name))  # noqa: B023 (called at once)

    def close(self) -> None:
        """Give back the connections."""
        with self._lock:
            self.calls.close()
            client, self.client = self.client, None
            if client is not None:
                client.close()

    def _open(self, dim: int | None) -> int:
        """The length of the vectors; makes the collections if `dim` is given and nothing is there.

        The notes come first, with a mark that they are ours, and the records after them: a crash between leaves nothing
        that another try does not complete.
        """
        is_there = self._ask(lambda client: client.collection_exists(self.collection.name))
        marker = self._marker(is_there=is_there)
        if marker.get("is_dropping"):
            self.drop()
            is_there = False
        if not is_there:
            self._create(missing_index(self.collection.what, dim))
        info = self._ask(lambda client: client.get_collection(self.collection.name))
        vectors = info.config.params.vectors
        if not isinstance(vectors, models.VectorParams) or vectors.distance != models.Distance.DOT:
            raise StoreError(
                f"the collection {self.collection.name!r} of {self.collection.what} compares by {vectors}, expected "
                "one vector without a name and the distance Dot: it was changed or made by someone else, so choose "
                "another name"
            )
        found_dim = check_marker(self.collection.what, {"format": FORMAT, "dim": vectors.size}, dim)
        for field, kind in self.collection.indexes:
            if path(field, kind) not in (info.payload_schema or {}):
                try:
                    self._make_index(field, kind)
                except StoreForbidden:  # a key that may only read
                    break
        return found_dim

    def _marker(self, *, is_there: bool) -> dict[str, Any]:
        """What the notes say of this store, nothing if it is new; `StoreError` if someone else made what is there."""
        name, notes = self.collection.name, self.collection.notes
        found: dict[str, Any] = {}
        is_ours = not is_there
        if self._ask(lambda client: client.collection_exists(notes)):
            info = self._ask(lambda client: client.get_collection(notes))
            points = self._ask(lambda client: client.retrieve(notes, [_MARKER], with_payload=True))
            found = (points[0].payload or {}) if points else {}
            is_ours = bool(found) or (not is_there and not info.config.params.vectors and not info.points_count)
        if not is_ours:
            raise StoreError(
                f"the collection {name!r} or {notes!r} of {self.collection.what} was made by someone else, expected "
                "none or those that Sightline made: choose another name"
            )
        check_format(self.collection.what, found.get("format", FORMAT), newest=FORMAT)
        return found

    def _mark(self, *, is_dropping: bool) -> None:
        payload = {"made_by": "sightline", "format": FORMAT, "is_dropping": is_dropping}
        point = models.PointStruct(id=_MARKER, vector={}, payload=payload)
        self._ask(lambda client: client.upsert(self.collection.notes, [point], wait=True))

    def _create(self, dim: int) -> None:
        collection = self.collection
        self._create_collection(collection.notes, schema.note_collection(collection))
        self._index(collection.notes, KIND, schema.field_index("text"))
        self._mark(is_dropping=False)
        self._create_collection(collection.name, schema.record_collection(collection, dim))
        for field in (NAMES, TEXTS, WORDS):
            self._index(collection.name, field, schema.field_index("text"))
        self._index(collection.name, IS_NAMED, schema.field_index("truth"))
        for field, kind in schema.INDEXED:  # before the first record: the graph is then built with them in mind
            self._make_index(field, kind)

    def _create_collection(self, name: str, options: Mapping[str, Any]) -> None:
        try:
            self._ask(lambda client: client.create_collection(name, **options))
        except RefusedError as refusal:
            if "already exists" not in str(refusal):
                raise

    def _make_index(self, field: str, kind: str) -> None:
        """Let the engine look up the values of that kind of a field of the payload."""
        index = schema.field_index(kind, is_unique=field in schema.UNIQUE)
        self._index(self.collection.name, path(field, kind), index)

    def _index(self, name: str, key: str, index: Any) -> None:
        if not self.is_local:  # which has none
            self._ask(lambda client: client.create_payload_index(name, key, field_schema=index, wait=True))

    def _query_exactly(self, queries: Vectors, limit: int, pushed: Pushed | None) -> list[models.ScoredPoint]:
        """What a full scan finds; nothing where strict mode forbids it."""
        if self.is_local:
            return []  # it is exact anyway
        full = models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
        try:
            return self._query(queries, limit, pushed, full)[0]
        except RefusedError:
            return []

    def _query(
        self, queries: Vectors, limit: int, pushed: Pushed | None, params: models.SearchParams
    ) -> list[list[models.ScoredPoint]]:
        requests = [
            models.QueryRequest(
                query=query.tolist(),
                limit=limit,
                filter=pushed.filter if pushed else None,
                params=params,
                with_payload=models.PayloadSelectorInclude(include=SHOWN),
            )
            for query in queries
        ]

        def ask(client: QdrantClient) -> list[list[models.ScoredPoint]]:
            answers = client.query_batch_points(self.collection.name, requests, consistency=self._consistency)
            return [answer.points for answer in answers]

        return self._ask_filtered(pushed, ask)

    def _pages(
        self,
        name: str,
        only: models.Filter,
        fields: list[str],
        pushed: Pushed | None = None,
        *,
        with_vectors: bool = False,
    ) -> Iterator[models.Record]:
        """Points of one collection that pass, page by page, in order of their ids.

        A page begins at the id that the one before named, so that writes in between move nothing.
        """
        start: models.ExtendedPointId | None = None
        while True:

            def ask(client: QdrantClient) -> tuple[list[models.Record], models.ExtendedPointId | None]:
                return client.scroll(
                    name,
                    scroll_filter=only,
                    limit=_PAGE,
                    offset=start,  # noqa: B023 (called at once)
                    with_payload=models.PayloadSelectorInclude(include=fields),
                    with_vectors=with_vectors,
                    consistency=self._consistency,
                )

            page, start = self._ask_filtered(pushed, ask)
            yield from page
            if start is None:
                return

    def _retrieve(self, points: list[str], *, with_payload: bool, with_vectors: bool) -> Iterator[models.Record]:
        fields = models.PayloadSelectorInclude(include=SHOWN) if with_payload else False
        for at in range(0, len(points), _PAGE):
            some = points[at : at + _PAGE]

            def ask(client: QdrantClient) -> list[models.Record]:
                return client.retrieve(
                    self.collection.name,
                    some,  # noqa: B023 (called at once)
                    with_payload=fields,
                    with_vectors=with_vectors,
                    consistency=self._consistency,
                )

            yield from self._ask(ask)

    def _write(self, name: str, points: Iterable[models.PointStruct]) -> None:
        def write(batch: list[models.PointStruct]) -> None:
            self._ask(lambda client: client.upsert(name, batch, wait=True, ordering=self._ordering))

        every = list(batches(points, _point_bytes, most=_BATCH_POINTS, most_bytes=_BATCH_BYTES))
        if len(every) == 1:
            write(every[0])
        elif every:
            with ThreadPoolExecutor(min(_WRITERS, len(every)), "sightline-qdrant") as pool:
                for done in [pool.submit(write, batch) for batch in every]:
                    done.result()

    def _remove(self, name: str, points: list[str]) -> None:
        for at in range(0, len(points), _PAGE):
            some = models.PointIdsList(points=list[models.ExtendedPointId](points[at : at + _PAGE]))
            self._ask(lambda client: client.delete(name, some, wait=True, ordering=self._ordering))  # noqa: B023

    def _ask_filtered(self, pushed: Pushed | None, call: Callable[[QdrantClient], T]) -> T:
        """A call that filters; the indexes that strict mode (usual on Qdrant's cloud) wants are made first."""
        try:
            return self._ask(call)
        except RefusedError as refusal:
            if pushed is None or "Index required" not in str(refusal):
                raise
        for field, kind in looked_into(pushed.node):
            self._make_index(field, kind)
        return self._ask(call)

    def _ask(self, call: Callable[[QdrantClient], T]) -> T:
        """What the call gives; it is made again while the server is away, so it must be safe to repeat."""
        self.calls.check_open()
        client = self.client
        if client is None:
            raise StoreError(f"{self.calls.what} is being closed: open it again")
        if not self.is_local:
            return self.calls.make(lambda: call(client))
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # local mode warns of its size, for which the docs have a page
            return self.calls.make(lambda: call(client))

    @property
    def _ordering(self) -> models.WriteOrdering:
        return models.WriteOrdering(self.collection.ordering)

    @property
    def _consistency(self) -> models.ReadConsistencyType | int | None:
        """How many replicas must agree on what is read; the server's choice if the URL does not say."""
        given = self.collection.consistency
        return models.ReadConsistencyType(given) if isinstance(given, str) else given

    def _translated(self, error: Exception) -> StoreError | None:
        what = self.calls.what
        if isinstance(error, UnexpectedResponse | ResponseHandlingException | grpc.RpcError):
            return _translated(error, what)
        if not isinstance(error, ValueError | RuntimeError | OSError):
            return None
        # What the client itself raises: in local mode everything, else where an answer cannot be understood.
        if not self.is_local:
            return StoreError(
                f"{what} gave an answer that is not Qdrant's ({error}), expected a running Qdrant: check it"
            )
        if "already accessed" in str(error):
            return StoreBusy(
                f"{what} is open in another process, expected one at a time: close it there, or use a server"
            )
        if "already exists" in str(error):
            return RefusedError(f"{what} refused: {error}")
        return StoreError(f"{what} failed: {error}; expected a folder of the client's local mode: name another folder")


def _remote(collection: Collection) -> QdrantClient:
    """A client that speaks gRPC if that port answers, and REST otherwise."""
    address = collection.address
    if address.key and not collection.is_tls:
        _log.warning("the key for %s travels unencrypted: add tls=true if the server has it", address.text)
    if collection.is_grpc and _listens(address.host, collection.grpc_port):
        client = _client(collection, prefer_grpc=True)
        try:
            client.info()
        except grpc.RpcError as error:
            _log.info("port %d of %s speaks no gRPC (%s): using REST", collection.grpc_port, address.host, error)
            client.close()
        else:
            return client
    client = _client(collection, prefer_grpc=False)
    client.info()
    return client


def _client(collection: Collection, *, prefer_grpc: bool) -> QdrantClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the unencrypted key, which is logged
        return QdrantClient(
            host=f"[{collection.address.host}]" if ":" in collection.address.host else collection.address.host,
            port=collection.port,
            grpc_port=collection.grpc_port,
            prefer_grpc=prefer_grpc,
            https=collection.is_tls,
            api_key=collection.address.key or None,
            timeout=collection.request_timeout_s,
            check_compatibility=False,  # it asks in a thread of its own and warns
            grpc_options=_RECONNECTING,
        )


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), _PROBE_S):
            return True
    except OSError:
        return False


def _local(collection: Collection) -> QdrantClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return QdrantClient(path=collection.folder, force_disable_check_same_thread=True)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, ResponseHandlingException):
        return isinstance(error.source, httpx.TransportError)
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _TRANSIENT_STATUS
    if isinstance(error, grpc.RpcError):
        return _code_of(error) in _TRANSIENT_CODES and "larger than max" not in _words_of(error)
    return isinstance(error, ResourceExhaustedResponse)  # a rate limit of strict mode


def _code_of(error: Exception) -> Any:
    """The HTTP status or gRPC code."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code
    return error.code() if hasattr(error, "code") else None


def _words_of(error: Exception) -> str:
    """What the server said."""
    if isinstance(error, UnexpectedResponse):
        try:
            return str(json.loads(error.content)["status"]["error"])
        except (ValueError, KeyError, TypeError):
            return error.content.decode("utf-8", "replace").strip()[:300] or error.reason_phrase
    if isinstance(error, ResponseHandlingException):
        return first_line(error.source)
    return str(error.details()) if hasattr(error, "details") else str(error)


def _translated(error: Exception, what: str) -> StoreError:
    code, words = _code_of(error), _words_of(error)
    if code in _THERE or "Help:" in words:  # strict mode ends its refusals with "Help:"
        return RefusedError(
            f"{what} refused: {words}; expected a request within its limits: ask for less, or raise the limit"
        )
    if code in _FORBIDDEN:
        return StoreForbidden(
            f"{what} refuses the credentials ({words}), expected a key that may read and write this collection: "
            "give it as the URL's password, qdrant://:KEY@host:6333/name, or by key_file="
        )
    if code in _MISSING:
        return StoreNotFound(f"{what} lost a collection ({words}) while it was open: open it again")
    if code == _FULL or "No space left" in words:
        return StoreFull(f"{what} has no room ({words}): enlarge its disk or memory, then repeat")
    return StoreError(f"{what} failed: {words}; expected a running Qdrant 1.12 or newer: look into its log")


def _pushed(node: Node) -> Pushed | None:
    return None if node == EVERYTHING else push(node)


def _point_bytes(point: models.PointStruct) -> int:
    dim = len(point.vector) if isinstance(point.vector, list) else 0
    return _FLOAT_BYTES * dim + 4 * len((point.payload or {}).get(schema.DOCUMENT, ""))
