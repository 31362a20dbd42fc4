"""A small local server with Pinecone's published interface, so that the official client is run over real HTTP.

It follows the OpenAPI description of version 2026-07 (github.com/pinecone-io/pinecone-api) and the limits that the
documentation states: the control plane on one port, each index on a port of its own. Behind it is an exact search. What
the real service refuses it refuses. Writes become visible to queries and to fetches after delays of their own, and
faults can be put in the way. It is not the service: what is approximate or undocumented there is not found here.
"""

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

KEY = "the key of the tests"
VERSION = "2026-07"
Json = dict[str, Any]


def start() -> tuple[str, Callable[[], None]]:
    """A running server's URL and what stops it."""
    service = Service(searched_after_s=0.004, fetched_after_s=0.008)
    return service.url, service.stop


class Refused(Exception):
    """An answer with an HTTP status of an error."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


@dataclass
class View:
    """A namespace as some reads see it: the log of writes up to a while ago."""

    delay_s: float
    entries: dict[str, Json] = field(default_factory=dict)
    number: int = 0

    def catch_up(self, log: list[tuple[float, Callable[[dict[str, Json]], None]]]) -> None:
        until = time.monotonic() - self.delay_s
        while self.number < len(log) and log[self.number][0] <= until:
            log[self.number][1](self.entries)
            self.number += 1


class Namespace:
    def __init__(self, searched_after_s: float, fetched_after_s: float) -> None:
        self.log: list[tuple[float, Callable[[dict[str, Json]], None]]] = []
        self.searched, self.fetched = View(searched_after_s), View(fetched_after_s)

    def write(self, change: Callable[[dict[str, Json]], None]) -> int:
        self.log.append((time.monotonic(), change))
        return len(self.log)

    def seen(self, view: View) -> dict[str, Json]:
        view.catch_up(self.log)
        return view.entries


class Service:
    """The control plane. `faults` answer the next requests whose path begins so: [path, status, how many times]."""

    def __init__(
        self, *, searched_after_s: float = 0.0, fetched_after_s: float = 0.0, ready_after_s: float = 0.0
    ) -> None:
        self.delays = (searched_after_s, fetched_after_s)
        self.ready_after_s = ready_after_s
        self.lock = threading.Lock()
        self.indexes: dict[str, Index] = {}
        self.faults: list[list[Any]] = []
        self.requests: list[tuple[str, str, Json]] = []
        self.server = serve(self.answer)
        self.port = self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"pinecone://:{KEY.replace(' ', '%20')}@127.0.0.1:{self.port}"

    def stop(self) -> None:
        for index in list(self.indexes.values()):
            halt(index.server)
        halt(self.server)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Json) -> tuple[int, Json, Json]:
        with self.lock:
            name = unquote(path.removeprefix("/indexes").strip("/"))
            if not path.startswith("/indexes"):
                raise Refused(404, "Not found")
            if method == "GET" and not name:
                return 200, {"indexes": [index.model() for index in self.indexes.values()]}, {}
            if method == "POST" and not name:
                return 201, self.create(body), {}
            if name not in self.indexes:
                raise Refused(404, f"Resource {name} not found")
            if method == "GET":
                return 200, self.indexes[name].model(), {}
            if method == "DELETE":
                if self.indexes[name].request.get("deletion_protection") == "enabled":
                    raise Refused(403, "Deletion protection is enabled for this index.")
                halt(self.indexes.pop(name).server)
                return 202, {}, {}
            raise Refused(405, "Method not allowed")

    def create(self, body: Json) -> Json:
        name = body.get("name", "")
        if name in self.indexes:
            raise Refused(409, "Resource already exists.")
        fields = body.get("schema", {}).get("fields", {})
        if not fields:
            raise Refused(422, "missing field `schema`")
        for declared in fields.values():
            if declared.get("type") == "dense_vector" and not 1 <= declared.get("dimension", 0) <= 20_000:
                raise Refused(400, "dimension must be between 1 and 20000")
        self.indexes[name] = Index(self, body)
        return self.indexes[name].model()

    def fault(self, path: str) -> None:
        for fault in self.faults:
            if path.startswith(fault[0]) and fault[2] > 0:
                fault[2] -= 1
                raise Refused(fault[1], "a fault of the tests", {"Retry-After": "0"} if fault[1] == 429 else {})


class Index:
    """The data plane of one index."""

    def __init__(self, service: Service, request: Json) -> None:
        self.service, self.request = service, request
        self.ready_at = time.monotonic() + service.ready_after_s
        dense = [one for one in request["schema"]["fields"].values() if one.get("type") == "dense_vector"]
        self.dim = dense[0]["dimension"] if dense else 0
        self.deployment = request.get("deployment", {"deployment_type": "managed", "cloud": "aws", "region": "x"})
        self.is_serverless = self.deployment["deployment_type"] != "pod"
        self.lock = threading.Lock()
        self.namespaces: dict[str, Namespace] = {}
        self.server = serve(self.answer, service)

    def model(self) -> Json:
        is_ready = time.monotonic() >= self.ready_at
        return {
            "name": self.request["name"],
            "host": f"127.0.0.1:{self.server.server_address[1]}" if is_ready else None,
            "status": {"ready": is_ready, "state": "Ready" if is_ready else "Initializing"},
            "schema": self.request["schema"],
            "deployment": self.deployment,
            "deletion_protection": self.request.get("deletion_protection", "disabled"),
            "tags": self.request.get("tags"),
        }

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Json) -> tuple[int, Json, Json]:
        paths: dict[tuple[str, str], Callable[[Json], tuple[Json, Json]]] = {
            ("POST", "/vectors/upsert"): self.upsert,
            ("POST", "/vectors/delete"): self.delete,
            ("POST", "/vectors/update"): self.update,
            ("POST", "/vectors/fetch_by_metadata"): self.fetch_by_metadata,
            ("POST", "/query"): self.query,
            ("POST", "/describe_index_stats"): self.stats,
            ("GET", "/vectors/fetch"): self.fetch,
            ("GET", "/vectors/list"): self.list_ids,
        }
        if (method, path) not in paths:
            raise Refused(404, "Not found")
        given: Json = body if method == "POST" else {**query}
        with self.lock:
            self.service.requests.append((self.request["name"], path, given))
            answer, headers = paths[method, path](given)
        return 200, answer, headers

    def upsert(self, body: Json) -> tuple[Json, Json]:
        vectors = body["vectors"]
        if len(vectors) > 1000:
            raise Refused(400, f"Request size {len(vectors)} exceeds the limit of 1000 vectors")
        for vector in vectors:
            self.check_id(vector["id"])
            self.check_values(vector["values"])
            check_metadata(vector.get("metadata") or {})
        space = self.namespaces.setdefault(name_of(body), Namespace(*self.service.delays))
        fresh = {
            vector["id"]: {
                "id": vector["id"],
                "values": np.array(vector["values"], np.float32),
                "metadata": vector.get("metadata") or {},
            }
            for vector in vectors
        }
        number = space.write(lambda entries: entries.update(fresh))
        return {"upsertedCount": len(vectors)}, self.committed(number)

    def delete(self, body: Json) -> tuple[Json, Json]:
        space = self.space(name_of(body))
        ids = body.get("ids", [])
        if len(ids) > 1000:
            raise Refused(400, "Request size exceeds the limit of 1000 ids")
        if body.get("deleteAll"):
            number = space.write(lambda entries: entries.clear())
        elif "filter" in body:
            raise Refused(400, "not needed by the tests")
        else:
            number = space.write(lambda entries: without(entries, ids))
        return {}, self.committed(number)

    def update(self, body: Json) -> tuple[Json, Json]:
        if not body.get("dryRun") or not body.get("setMetadata"):
            raise Refused(400, "only dry runs by filter are known here")
        if not self.is_serverless:
            raise Refused(400, "Update by metadata is not supported for pod-based indexes")
        space = self.space(name_of(body))
        found = list(space.seen(space.searched).values())
        return {"matchedRecords": sum(passes(one["metadata"], body["filter"]) for one in found)}, {}

    def query(self, body: Json) -> tuple[Json, Json]:
        limit = body["topK"]
        with_all = body.get("includeMetadata") or body.get("includeValues")
        if not 1 <= limit <= (1000 if with_all else 10_000):
            raise Refused(400, f"Invalid topK {limit}")
        self.check_values(body["vector"])
        space = self.namespaces.get(name_of(body))
        entries = list(space.seen(space.searched).values()) if space else []
        found = [one for one in entries if passes(one["metadata"], body.get("filter") or {})]
        matrix = np.array([one["values"] for one in found], np.float32).reshape(len(found), self.dim)
        scores = matrix @ np.array(body["vector"], np.float32)
        order = sorted(range(len(found)), key=lambda at: (-scores[at], -at))[:limit]  # ties: the newest, to be awkward
        matches = list[Json]()
        for at in order:
            match = {"id": found[at]["id"], "score": float(scores[at])}
            if body.get("includeMetadata"):
                match["metadata"] = found[at]["metadata"]
            if body.get("includeValues"):
                match["values"] = found[at]["values"].tolist()
            matches.append(match)
        answer = {"matches": matches, "namespace": name_of(body), "usage": {"readUnits": 1}}
        if len(json.dumps(answer)) > 4_194_304:
            raise Refused(400, "The result size exceeds the limit of 4 MB")
        return answer, {"x-pinecone-max-indexed-lsn": str(space.searched.number if space else 0)} if (
            self.is_serverless
        ) else {}

    def fetch(self, query: Json) -> tuple[Json, Json]:
        if not 1 <= len(query.get("ids", [])) <= 1000:
            raise Refused(400, "between 1 and 1000 ids")
        for one in query["ids"]:
            self.check_id(one)
        space = self.namespaces.get(query.get("namespace", [""])[0])
        entries = space.seen(space.fetched) if space else {}
        return {"vectors": {one: shown(entries[one]) for one in query["ids"] if one in entries}, "namespace": ""}, {}

    def fetch_by_metadata(self, body: Json) -> tuple[Json, Json]:
        if not self.is_serverless or not body.get("filter"):
            raise Refused(400, "Fetch by metadata is not supported so")
        space = self.space(name_of(body))
        entries = space.seen(space.searched)
        keys = [key for key, one in entries.items() if passes(one["metadata"], body["filter"])]  # in no order
        page, after = paged(keys, body.get("limit", 100), body.get("paginationToken"))
        return {"vectors": {key: shown(entries[key]) for key in page}, "namespace": ""} | after, {}

    def list_ids(self, query: Json) -> tuple[Json, Json]:
        if not self.is_serverless:
            raise Refused(400, "List is not supported for pod-based indexes")
        limit = int(query.get("limit", ["100"])[0])
        if not 1 <= limit <= 100:
            raise Refused(400, "limit must be between 1 and 100")
        keys = sorted((space := self.space(query.get("namespace", [""])[0])).seen(space.fetched))
        token = query.get("paginationToken", [""])[0]
        later = [key for key in keys if not token or key > base64.b64decode(token).decode()]
        after = {"pagination": {"next": base64.b64encode(later[limit - 1].encode()).decode()}} if later[limit:] else {}
        return {"vectors": [{"id": key} for key in later[:limit]], "namespace": ""} | after, {}

    def stats(self, body: Json) -> tuple[Json, Json]:
        if body.get("filter") and self.is_serverless:
            raise Refused(400, "Serverless and Starter indexes do not support describing index stats with metadata")
        counts = {
            name: sum(passes(one["metadata"], body.get("filter") or {}) for one in space.seen(space.searched).values())
            for name, space in self.namespaces.items()
        }
        shown_counts = {name: {"vectorCount": count} for name, count in counts.items()}
        return {"namespaces": shown_counts, "dimension": self.dim, "totalVectorCount": sum(counts.values())}, {}

    def space(self, name: str) -> Namespace:
        if name not in self.namespaces:
            raise Refused(404, "Namespace not found")
        return self.namespaces[name]

    def committed(self, number: int) -> Json:
        return {"x-pinecone-request-lsn": str(number)} if self.is_serverless else {}

    def check_id(self, one: str) -> None:
        if not one or len(one) > 512 or not one.isascii() or "\0" in one or " " in one:
            raise Refused(400, f"Vector ID {one!r} is not valid")

    def check_values(self, values: list[float]) -> None:
        if len(values) != self.dim:
            raise Refused(400, f"Vector dimension {len(values)} does not match the dimension of the index {self.dim}")
        if not any(values):
            raise Refused(400, "Dense vectors must contain at least one non-zero value")


def check_metadata(metadata: Json) -> None:
    for name, value in metadata.items():
        is_list = isinstance(value, list) and all(isinstance(element, str) for element in value)
        if name.startswith("$") or not (isinstance(value, str | bool | int | float) or is_list):
            raise Refused(400, f"Metadata value must be a string, number, boolean or list of strings, got {value!r}")
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
    if size > 40_960:
        raise Refused(400, f"Metadata size is {size} bytes, which exceeds the limit of 40960 bytes per vector")


@dataclass(frozen=True)
class Meaning:
    """What the documentation leaves open, and what has changed over the years."""

    missing_is_different: bool = False
    one_other_element_is_enough: bool = False


DOCUMENTED = Meaning()


def passes(metadata: Json, wanted: Json, meaning: Meaning = DOCUMENTED) -> bool:
    """Pinecone's filter language, strict about what it takes."""
    for name, condition in wanted.items():
        if name in ("$and", "$or"):
            if not isinstance(condition, list) or not condition:
                raise Refused(400, f"{name} must be a list that is not empty")
            results = [passes(metadata, part, meaning) for part in condition]
            if not (all(results) if name == "$and" else any(results)):
                return False
        elif name.startswith("$"):
            raise Refused(400, f"{name} is not a valid operator")
        else:
            conditions = condition if isinstance(condition, dict) else {"$eq": condition}
            if not all(holds(metadata, name, *one, meaning) for one in conditions.items()):
                return False
    return True


def holds(metadata: Json, name: str, symbol: str, operand: Any, meaning: Meaning) -> bool:
    value = metadata.get(name)
    elements = value if isinstance(value, list) else [] if value is None else [value]
    if symbol == "$exists":
        return (name in metadata) is bool(operand)
    if symbol in ("$gt", "$gte", "$lt", "$lte"):
        if isinstance(operand, bool) or not isinstance(operand, int | float):
            raise Refused(400, f"the {symbol} operator must be followed by a number, got {operand!r}")
        numbers = [one for one in elements if isinstance(one, int | float) and not isinstance(one, bool)]
        compare = {"$gt": np.greater, "$gte": np.greater_equal, "$lt": np.less, "$lte": np.less_equal}[symbol]
        return any(bool(compare(one, operand)) for one in numbers)
    if symbol in ("$in", "$nin"):
        if not isinstance(operand, list) or not 1 <= len(operand) <= 10_000:
            raise Refused(400, f"the {symbol} operator must be followed by a list")
        if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in operand):
            raise Refused(400, f"the {symbol} operator takes strings and numbers")
    elif symbol not in ("$eq", "$ne") or not isinstance(operand, str | bool | int | float):
        raise Refused(400, f"{symbol} {operand!r} is not valid")
    values = operand if isinstance(operand, list) else [operand]
    is_one = [any(type_of(one) == type_of(other) and one == other for other in values) for one in elements]
    if symbol in ("$eq", "$in"):
        return any(is_one)
    if value is None:
        return meaning.missing_is_different
    return not all(is_one) if meaning.one_other_element_is_enough else not any(is_one)


def type_of(value: Any) -> str:
    return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def without(entries: dict[str, Json], ids: Iterable[str]) -> None:
    for one in ids:
        entries.pop(one, None)


def shown(entry: Json) -> Json:
    return {**entry, "values": entry["values"].tolist()}


def name_of(body: Json) -> str:
    return str(body.get("namespace") or "__default__")


def paged(keys: list[str], limit: int, token: str | None) -> tuple[list[str], Json]:
    at = int(token or 0)
    is_more = at + limit < len(keys)
    return keys[at : at + limit], {"pagination": {"next": str(at + limit)}} if is_more else {}


def serve(answer: Callable[..., tuple[int, Json, Json]], faults_of: Service | None = None) -> "Server":
    """An HTTP server in a thread that answers by the function."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers: dict[str, str] = {}
            try:
                status, found, headers = self.found(body)
                text = json.dumps(found)
            except Refused as error:
                status, headers = error.status, error.headers
                text = json.dumps({"code": status, "message": error.message, "details": []})
            data = text.encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def found(self, body: bytes) -> tuple[int, Json, dict[str, str]]:
            parts = urlsplit(self.path)
            if faults_of:
                faults_of.fault(parts.path)
            if self.headers.get("Api-Key") != KEY:
                raise Refused(401, "Invalid API Key")
            if self.headers.get("X-Pinecone-Api-Version") != VERSION:
                raise Refused(400, "unknown version of the API")
            if len(self.path) > 8192:
                raise Refused(414, "URI Too Long")
            if len(body) > 2 * 1024 * 1024:
                raise Refused(413, "Request size exceeds the limit of 2 MB")
            return answer(self.command, parts.path, parse_qs(parts.query), json.loads(body or b"{}"))

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            """Not to the screen."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class Server(ThreadingHTTPServer):
    """A server whose connections end with it."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Not to the screen: clients of the tests go away in the middle."""


def halt(server: "Server") -> None:
    """Stop a server without waiting for it."""

    def stop() -> None:
        server.shutdown()
        for connection in list(server.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()

    threading.Thread(target=stop, daemon=True).start()
