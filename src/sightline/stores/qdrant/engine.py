"""Qdrant, on a server, in a cluster or in a folder, as the engine of a store."""

import json
import logging
import socket
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from heapq import merge
from typing import Any

import grpc
import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from sightline.errors import StoreBusy, StoreError, StoreForbidden, StoreFull, StoreNotFound, summary
from sightline.filters.documents import load_note
from sightline.filters.where import Node
from sightline.stores import remote
from sightline.stores.qdrant import schema
from sightline.stores.qdrant.filters import NAMES, TEXTS, WORDS, Pushed, has_value, looked_into, path, push
from sightline.stores.qdrant.schema import ID, IS_NAMED, KEY, KIND, NOTE, SHOWN, Collection, parse_collection, point_id
from sightline.stores.remote import Calls, TunableEngine, TunableStore, Workers, check_marker
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors, chunks

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
    return TunableStore(QdrantEngine(parse_collection(url), dim))


class QdrantEngine(TunableEngine):
    """Keeps records in a collection of Qdrant, notes in a second one; any number of processes may read and write.

    Search is approximate (HNSW over int8 codes, ranked again by the full vectors), and exact in what is not indexed
    yet. Writes return when they are applied, so that the next read sees them. The width is `hnsw_ef`, the list of
    candidates that a search keeps.
    """

    most_hits = 1_000_000  # Qdrant has no limit of its own
    widths: Sequence[int] = (100, 200, 400, 800, 1600, 3200)  # 100 is what Qdrant itself would take
    untuned_width = 100

    def __init__(self, collection: Collection, dim: int | None) -> None:
        self.collection, self.is_local = collection, bool(collection.folder)
        timeout_s = collection.address.options["patience_s"]
        self.calls = Calls(
            collection.what, timeout_s, is_transient=_is_transient, translate=self._translated, words=_words_of
        )
        self._lock = threading.RLock() if self.is_local else nullcontext()  # local mode is not made for threads
        self._reading: dict[str, Any] = {"consistency": collection.consistency}
        self._writing: dict[str, Any] = {
            "wait": True,
            "ordering": models.WriteOrdering(collection.address.options["ordering"]),
        }
        self._workers = Workers(self.calls, _WRITERS, "qdrant")
        self.client: Any = None
        with self.opening():
            self.client = self.calls.make(lambda: _connected(collection))
            self.dim = self._open(dim)

    def write(self, records: Sequence[Record], vectors: Vectors) -> None:
        points = (schema.point_of(record, vector) for record, vector in zip(records, vectors, strict=True))
        self._write(self.collection.name, points)

    def delete(self, ids: Sequence[str]) -> int:
        there = [str(point.id) for point in self._retrieve(ids, with_payload=False, with_vectors=False)]
        self._remove(self.collection.name, there)
        return len(there)

    def nearest(self, queries: Vectors, limit: int, node: Node, width: int | None) -> list[list[Hit]]:
        """The best of each query, as many as pass: where the graph finds too few, a full scan is asked."""
        pushed = push(node)
        quantised = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
        params = models.SearchParams(hnsw_ef=width, quantization=quantised)
        full = models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
        found = list[list[Hit]]()
        for some in chunks(queries, _AT_ONCE):
            for query, points in zip(some, self._query(some, limit, pushed, params), strict=True):
                if len(points) < limit and not self.is_local:  # which is exact anyway
                    with suppress(RefusedError):  # strict mode may forbid it
                        points = self._query([query], limit, pushed, full)[0] or points
                found.append([schema.hit_of(point, float(point.score)) for point in points])
        return found

    def fetch(self, ids: Sequence[str]) -> Iterable[Record]:
        fields = models.PayloadSelectorInclude(include=SHOWN)
        return map(schema.record_of, self._retrieve(ids, with_payload=fields, with_vectors=True))

    def scan(self, node: Node, *, with_vectors: bool) -> Iterator[Record]:
        """With constant memory for ids that are UUIDs, which is the order of the points; other ids are sorted here."""
        pushed, name, is_named = push(node), self.collection.name, has_value(IS_NAMED, True)
        only: list[models.Condition] = [pushed.filter] if pushed.filter else []
        named = self._pages(name, models.Filter(must=[*only, is_named]), [ID], pushed)
        names = sorted(str((point.payload or {})[ID]) for point in named)
        unnamed = models.Filter(must=only, must_not=[is_named] if names else [])
        others = self._pages(name, unnamed, SHOWN, pushed, with_vectors=with_vectors)
        by_uuid = (schema.record_of(point) for point in others if ID not in (point.payload or {}))
        by_name = (
            record for few in chunks(names, _PAGE) for record in sorted(self.fetch(few), key=lambda record: record.id)
        )
        return merge(by_uuid, by_name, key=lambda record: record.id)

    def count(self, node: Node) -> int | None:
        pushed = push(node)
        if not pushed.is_exact:
            return None
        return int(self._call("count", self.collection.name, pushed.filter, exact=True, pushed=pushed).count)

    def notes(self, kind: str) -> Iterator[tuple[str, Note]]:
        only = models.Filter(must=[has_value(KIND, kind)])
        payloads = (point.payload or {} for point in self._pages(self.collection.notes, only, [KEY, NOTE]))
        return ((payload[KEY], load_note(payload[NOTE])) for payload in payloads)

    def write_notes(self, kind: str, notes: Mapping[str, Note], removed: Sequence[str]) -> None:
        self._write(self.collection.notes, (schema.note_point(kind, key, note) for key, note in notes.items()))
        self._remove(self.collection.notes, [schema.note_id(kind, key) for key in removed])

    def drop(self) -> None:
        """Remove both collections; what an interruption leaves is removed by the next opening."""
        self._mark(is_dropping=True)
        for name in (self.collection.name, self.collection.notes):
            with suppress(StoreNotFound):
                self._call("delete_collection", name)

    def close(self) -> None:
        with self._lock:
            if not self.calls.is_closed and self.client is not None:
                self.client.close()
            self.calls.close()
        self._workers.close()

    def _open(self, dim: int | None) -> int:
        """The length of the vectors; makes the collections if `dim` is given and nothing is there.

        The notes come first, with a mark that they are ours, and the records after them: a crash between leaves nothing
        that another try does not complete.
        """
        is_there = self._call("collection_exists", self.collection.name)
        marker = self._marker(is_there=is_there)
        if marker.get("is_dropping"):
            self.drop()
            is_there = False
        if not is_there:
            self._create(remote.missing_index(self.collection.what, dim))
        info = self._call("get_collection", self.collection.name)
        vectors = info.config.params.vectors
        if not isinstance(vectors, models.VectorParams) or vectors.distance != models.Distance.DOT:
            raise StoreError(
                f"the collection {self.collection.name!r} of {self.collection.what} compares by {vectors}, expected "
                "one vector without a name and the distance Dot: it was changed or made by someone else, so choose "
                "another name"
            )
        found_dim = check_marker(self.collection.what, {"format": FORMAT, "dim": vectors.size}, dim)
        for field, kind in self.collection.indexes.items():
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
        if self._call("collection_exists", notes):
            info = self._call("get_collection", notes)
            points = self._call("retrieve", notes, [_MARKER], with_payload=True)
            found = (points[0].payload or {}) if points else {}
            is_ours = bool(found) or (not is_there and not info.config.params.vectors and not info.points_count)
        if not is_ours:
            raise StoreError(
                f"the collection {name!r} or {notes!r} of {self.collection.what} was made by someone else, expected "
                "none or those that Sightline made: choose another name"
            )
        remote.check_format(self.collection.what, found.get("format", FORMAT), newest=FORMAT)
        return found

    def _mark(self, *, is_dropping: bool) -> None:
        payload = {"made_by": "sightline", "format": FORMAT, "is_dropping": is_dropping}
        point = models.PointStruct(id=_MARKER, vector={}, payload=payload)
        self._call("upsert", self.collection.notes, [point], wait=True)

    def _create(self, dim: int) -> None:
        collection = self.collection
        self._create_collection(collection.notes, schema.note_collection(collection))
        self._index(collection.notes, KIND, "text")
        self._mark(is_dropping=False)
        self._create_collection(collection.name, schema.record_collection(collection, dim))
        for field in (NAMES, TEXTS, WORDS):
            self._index(collection.name, field, "text")
        self._index(collection.name, IS_NAMED, "truth")
        for field, kind in schema.INDEXED.items():  # before the first record: the graph is then built with them in mind
            self._make_index(field, kind)

    def _create_collection(self, name: str, options: Mapping[str, Any]) -> None:
        try:
            self._call("create_collection", name, **options)
        except RefusedError as refusal:
            if "already exists" not in str(refusal):
                raise

    def _make_index(self, field: str, kind: str) -> None:
        """Let the engine look up the values of that kind of a field of the payload."""
        self._index(self.collection.name, path(field, kind), kind, is_unique=field in schema.UNIQUE)

    def _index(self, name: str, key: str, kind: str, *, is_unique: bool = False) -> None:
        if not self.is_local:  # which has none
            index = schema.field_index(kind, is_unique=is_unique)
            self._call("create_payload_index", name, key, field_schema=index, wait=True)

    def _query(
        self, queries: Sequence[Any], limit: int, pushed: Pushed, params: models.SearchParams
    ) -> list[list[models.ScoredPoint]]:
        requests = [
            models.QueryRequest(
                query=query.tolist(),
                limit=limit,
                filter=pushed.filter,
                params=params,
                with_payload=models.PayloadSelectorInclude(include=SHOWN),
            )
            for query in queries
        ]
        answers = self._call("query_batch_points", self.collection.name, requests, pushed=pushed, **self._reading)
        return [answer.points for answer in answers]

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
        options: dict[str, Any] = {"scroll_filter": only, "with_payload": models.PayloadSelectorInclude(include=fields)}
        options |= {"limit": _PAGE, "with_vectors": with_vectors, "offset": None, **self._reading}
        while True:
            page, options["offset"] = self._call("scroll", name, pushed=pushed, **options)
            yield from page
            if options["offset"] is None:
                return

    def _retrieve(self, ids: Sequence[str], **options: Any) -> Iterator[models.Record]:
        for few in chunks(map(point_id, ids), _PAGE):
            yield from self._call("retrieve", self.collection.name, few, **options, **self._reading)

    def _write(self, name: str, points: Iterable[models.PointStruct]) -> None:
        def write(batch: list[models.PointStruct]) -> None:
            self._call("upsert", name, batch, **self._writing)

        self._workers.map(write, remote.batches(points, _point_bytes, most=_BATCH_POINTS, most_bytes=_BATCH_BYTES))

    def _remove(self, name: str, points: Sequence[str]) -> None:
        for few in chunks(points, _PAGE):
            some = models.PointIdsList(points=list[models.ExtendedPointId](few))
            self._call("delete", name, some, **self._writing)

    def _call(self, method: str, *given: Any, pushed: Pushed | None = None, **options: Any) -> Any:
        """What a method of the client gives; it is made again while the server is away, so it must be safe to repeat.

        Where it filters, the indexes that strict mode (usual on Qdrant's cloud) wants are made first.
        """
        self.calls.check_open()
        action = getattr(self.client, method)
        try:
            with self._lock, warnings.catch_warnings() if self.is_local else nullcontext():
                if self.is_local:
                    warnings.simplefilter("ignore")  # of its size, for which the docs have a page
                return self.calls.make(lambda: action(*given, **options))
        except RefusedError as refusal:
            if pushed is None or "Index required" not in str(refusal):
                raise
        for field, kind in looked_into(pushed.node):
            self._make_index(field, kind)
        return self._call(method, *given, **options)

    def _translated(self, error: Exception) -> StoreError | None:
        what = self.calls.what
        if isinstance(error, UnexpectedResponse | ResponseHandlingException | grpc.RpcError):
            return _of_server(error, what)
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


def _connected(collection: Collection) -> QdrantClient:
    """A client of a folder, or of a server: one that speaks gRPC if that port answers, and REST otherwise."""
    address, options = collection.address, collection.address.options
    if collection.folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return QdrantClient(path=collection.folder, force_disable_check_same_thread=True)

    def client(*, prefer_grpc: bool) -> QdrantClient:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the unencrypted key, which is logged
            made = QdrantClient(
                host=address.url_host,
                port=collection.port,
                grpc_port=collection.grpc_port,
                prefer_grpc=prefer_grpc,
                https=options["tls"],
                api_key=address.key or None,
                timeout=options["timeout_s"],
                check_compatibility=False,  # it asks in a thread of its own and warns
                grpc_options=_RECONNECTING,
            )
        try:
            made.info()
        except BaseException:
            made.close()
            raise
        return made

    if address.key and not options["tls"]:
        _log.warning("the key for %s travels unencrypted: add tls=true if the server has it", address.text)
    if options["grpc"]:
        try:
            socket.create_connection((address.host, collection.grpc_port), _PROBE_S).close()
            return client(prefer_grpc=True)
        except (OSError, grpc.RpcError) as error:
            _log.info("port %d of %s speaks no gRPC (%s): using REST", collection.grpc_port, address.host, error)
    return client(prefer_grpc=False)


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
        return summary(error.source)
    return str(error.details()) if hasattr(error, "details") else str(error)


def _of_server(error: Exception, what: str) -> StoreError:
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


def _point_bytes(point: models.PointStruct) -> int:
    dim = len(point.vector) if isinstance(point.vector, list) else 0
    return _FLOAT_BYTES * dim + 4 * len((point.payload or {}).get(schema.DOCUMENT, ""))
