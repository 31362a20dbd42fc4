"""A small local server with Qdrant's published interface, so that the official client is run over real HTTP and gRPC.

Routes, bodies and answers follow Qdrant's OpenAPI description, whose models are those of `qdrant_client.http.models`:
unknown fields and values of other types are refused. Behind them is the engine of the client's local mode, which the
vendor tests against the server. It is not the server: it has no graph, no quantisation, no shards and no strict mode of
its own; of strict mode the rules that a search can meet are rebuilt here, with the server's words.
"""

import json
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, ValidationError
from qdrant_client import QdrantClient
from qdrant_client.http import models

Json = dict[str, Any]


def start() -> tuple[str, Callable[[], None]]:
    """A running server's URL and what stops it."""
    server = Server()
    return server.url, server.stop


class Problem(Exception):
    """An answer with an HTTP status of an error."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class Engine:
    """What the server does, apart from how it is asked.

    `seen` are the requests, `faults` are answers to the next ones, `later` is an answer to the second call of its kind.
    """

    def __init__(self, key: str = "") -> None:
        self.key = key
        self.seen: list[tuple[str, Json]] = []
        self.faults: list[Problem] = []
        self.later: dict[str, Problem] = {}
        self.strict: dict[str, models.StrictModeConfig] = {}
        self.indexes: dict[str, dict[str, models.PayloadIndexInfo]] = {}
        self._client = QdrantClient(":memory:")
        self._lock = threading.RLock()

    def check_key(self, key: str | None) -> None:
        if self.key and key is None:
            raise Problem(401, "Must provide an API key or an Authorization bearer token")
        if self.key and key != self.key:
            raise Problem(401, "Invalid API key or JWT")

    def do(self, call: str, name: str, request: BaseModel | None, options: Json) -> Any:
        """The result of a call, which is the name of a method below."""
        with self._lock:
            if self.faults:
                raise self.faults.pop(0)
            if call in self.later and any(call == before for before, _ in self.seen):
                raise self.later.pop(call)
            body = request.model_dump(mode="json", exclude_none=True) if request else {}
            self.seen.append((call, body | options))
            if call not in ("create", "exists", "drop") and not self._client.collection_exists(name):
                raise Problem(404, f"Not found: Collection `{name}` doesn't exist!")
            try:
                return getattr(self, f"_{call}")(name, request)
            except ValueError as error:
                raise Problem(400, f"Wrong input: {error}") from error

    def _exists(self, name: str, _: None) -> models.CollectionExistence:
        return models.CollectionExistence(exists=self._client.collection_exists(name))

    def _info(self, name: str, _: None) -> models.CollectionInfo:
        info = self._client.get_collection(name)
        return info.model_copy(update={"payload_schema": self.indexes.get(name, {})})

    def _create(self, name: str, request: models.CreateCollection) -> bool:
        if self._client.collection_exists(name):
            raise Problem(409, f"Wrong input: Collection `{name}` already exists!")
        given = {field: getattr(request, field) for field in request.model_fields_set}
        self._client.create_collection(
            name, vectors_config=given.pop("vectors", None) or {}, hnsw_config=given.get("hnsw_config")
        )
        return True

    def _update(self, name: str, request: models.UpdateCollection) -> bool:
        if request.strict_mode_config:
            self.strict[name] = request.strict_mode_config
        return True

    def _drop(self, name: str, _: None) -> bool:
        self.indexes.pop(name, None)
        self.strict.pop(name, None)
        return bool(self._client.delete_collection(name))

    def _index(self, name: str, request: models.CreateFieldIndex) -> models.UpdateResult:
        schema = request.field_schema
        kind = schema if isinstance(schema, models.PayloadSchemaType) else models.PayloadSchemaType(schema.type.value)  # type: ignore[union-attr]
        self.indexes.setdefault(name, {})[request.field_name] = models.PayloadIndexInfo(data_type=kind, points=0)
        return done()

    def _upsert(self, name: str, request: models.PointsList) -> models.UpdateResult:
        self._client.upsert(name, request.points)
        return done()

    def _remove(self, name: str, request: models.PointIdsList) -> models.UpdateResult:
        self._client.delete(name, request)
        return done()

    def _retrieve(self, name: str, request: models.PointRequest) -> list[models.Record]:
        return self._client.retrieve(
            name,
            request.ids,
            with_payload=_or(request.with_payload, True),
            with_vectors=_or(request.with_vector, False),
        )

    def _scroll(self, name: str, request: models.ScrollRequest) -> models.ScrollResult:
        self._check_strict(name, request.filter, request.limit or 10)
        points, after = self._client.scroll(
            name,
            scroll_filter=request.filter,
            limit=request.limit or 10,
            offset=request.offset,
            with_payload=_or(request.with_payload, True),
            with_vectors=_or(request.with_vector, False),
        )
        return models.ScrollResult(points=points, next_page_offset=after)

    def _count(self, name: str, request: models.CountRequest) -> models.CountResult:
        self._check_strict(name, request.filter, None)
        return self._client.count(name, count_filter=request.filter, exact=_or(request.exact, True))

    def _query(self, name: str, request: models.QueryRequestBatch) -> list[models.QueryResponse]:
        for one in request.searches:
            self._check_strict(name, one.filter, one.limit or 10, one.params)
        searches = [one.model_copy(update={"params": None}) for one in request.searches]  # it has no graph
        return self._client.query_batch_points(name, searches)

    def _check_strict(
        self, name: str, only: models.Filter | None, limit: int | None, params: models.SearchParams | None = None
    ) -> None:
        rules = self.strict.get(name)
        if rules is None or not rules.enabled:
            return
        if limit and rules.max_query_limit and limit > rules.max_query_limit:
            raise _over("limit", limit, rules.max_query_limit)
        if params and params.hnsw_ef and rules.search_max_hnsw_ef and params.hnsw_ef > rules.search_max_hnsw_ef:
            raise _over("hnsw_ef", params.hnsw_ef, rules.search_max_hnsw_ef)
        if params and params.exact and rules.search_allow_exact is False:
            raise Problem(400, "Bad request: Exact search is disabled! Help: Set exact=false.")
        if rules.unindexed_filtering_retrieve is False and only is not None:
            for key in _keys(only.model_dump(exclude_none=True)):
                if key not in self.indexes.get(name, {}):
                    raise Problem(
                        400,
                        f'Bad request: Index required but not found for "{key}" of one of the following types: '
                        "[keyword]. Help: Create an index for this key or use a different filter.",
                    )


class Server:
    """An engine behind two neighbouring ports, REST and gRPC. It can be stopped and started again, like a process."""

    def __init__(self, key: str = "", *, has_grpc: bool = True, engine: Engine | None = None) -> None:
        self.engine = engine or Engine(key)
        self._has_grpc = has_grpc
        self.port = _free_pair()
        self.start()

    @property
    def url(self) -> str:
        return f"qdrant://127.0.0.1:{self.port}"

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"engine": self.engine})
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self._grpc: Any = None
        if self._has_grpc:
            from tests.engines.qdrant_rpc import serve

            self._grpc = serve(self.engine, self.port + 1)

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        if self._grpc is not None:
            self._grpc.stop(None).wait()


ROUTES: list[tuple[str, str, str, type[BaseModel] | None]] = [
    ("GET", r"/collections/([^/]+)/exists", "exists", None),
    ("GET", r"/collections/([^/]+)", "info", None),
    ("PUT", r"/collections/([^/]+)", "create", models.CreateCollection),
    ("PATCH", r"/collections/([^/]+)", "update", models.UpdateCollection),
    ("DELETE", r"/collections/([^/]+)", "drop", None),
    ("PUT", r"/collections/([^/]+)/index", "index", models.CreateFieldIndex),
    ("PUT", r"/collections/([^/]+)/points", "upsert", models.PointsList),
    ("POST", r"/collections/([^/]+)/points", "retrieve", models.PointRequest),
    ("POST", r"/collections/([^/]+)/points/delete", "remove", models.PointIdsList),
    ("POST", r"/collections/([^/]+)/points/scroll", "scroll", models.ScrollRequest),
    ("POST", r"/collections/([^/]+)/points/count", "count", models.CountRequest),
    ("POST", r"/collections/([^/]+)/points/query/batch", "query", models.QueryRequestBatch),
]


class _Handler(BaseHTTPRequestHandler):
    engine: Engine
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        if url.path == "/":
            return self._send(200, {"title": "qdrant - vector search engine", "version": "1.16.0"})
        try:
            self.engine.check_key(self.headers.get("api-key"))
        except Problem as problem:
            return self._send(problem.status, problem.message)  # plain text, as the server does
        options = {name: values[-1] for name, values in parse_qs(url.query).items()}
        try:
            result = self._result(url.path, body, options)
        except Problem as problem:
            error = {"result": None, "status": {"error": problem.message}, "time": 0.0}
            return self._send(problem.status, error, problem.headers)
        return self._send(200, {"result": _plain(result), "status": "ok", "time": 0.0})

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

    def _result(self, path: str, body: bytes, options: Json) -> Any:
        for method, pattern, call, model in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                try:
                    request = model.model_validate_json(body) if model else None
                except ValidationError as error:
                    raise Problem(400, f"Format error in JSON body: {error}") from error
                return self.engine.do(call, unquote(match[1]), request, options)
        raise Problem(404, f"no route {self.command} {path}")

    def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        data = text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def done() -> models.UpdateResult:
    """The answer to a write."""
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _over(what: str, given: int, most: int) -> Problem:
    return Problem(
        400,
        f'Bad request: Limit exceeded {given} > {most} for "{what}". '
        f'Help: Reduce the "{what}" parameter to or below {most}.',
    )


def _keys(node: Any) -> set[str]:
    """The fields that a filter looks into."""
    if isinstance(node, list):
        return {key for one in node for key in _keys(one)}
    if not isinstance(node, dict):
        return set()
    if isinstance(node.get("key"), str):
        return {node["key"]}
    return {key for one in node.values() for key in _keys(one)}


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [_plain(one) for one in result]
    return result.model_dump(mode="json", exclude_none=True) if isinstance(result, BaseModel) else result


def _free_pair() -> int:
    """A port that is free, as the next one is."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
