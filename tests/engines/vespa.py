"""A small server that speaks Vespa's HTTP interfaces: deploy API, /document/v1 and the query API, exact, in memory.

There is no Vespa server to be had from the package registries. This one follows docs.vespa.ai ("Deploy API",
"/document/v1 API reference", "Query API reference", "YQL Query Language Reference", "Embedding Reference") and refuses
what it does not know, so that a wrong request fails the test as it would fail on Vespa. It runs on its own loopback
address, at the usual ports, and like Vespa it listens for queries only once an application is deployed.
"""

import io
import json
import math
import random
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.engines.vespa_http import Answer, Calls, Server, close
from tests.engines.vespa_schema import BadDocument, BadPackage, Schema, allows, document_types, read_schema, tensor
from tests.engines.vespa_yql import BadQuery, Query, parse

DATA_PORT, CONFIG_PORT = 8080, 19071
_POLL_S = 0.01  # how soon a closed port is closed
_TENANT = "/application/v2/tenant/default"
_PARAMETERS = {"yql", "timeout", "ranking.softtimeout.enable", "sorting.degrading", "dispatch.topKProbability", "text",
               "presentation.format.tensors", "presentation.summary", "model.restrict", "ranking.profile"}  # fmt: skip


def start() -> tuple[str, Callable[[], None]]:
    """A server without an application."""
    engine = Engine()
    return engine.url, engine.stop


@dataclass
class Application:
    """A deployed package with its documents."""

    generation: int
    files: dict[str, bytes]
    schemas: dict[str, Schema] = field(default_factory=dict)
    documents: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in document_types(self.files["services.xml"].decode()):
            if f"schemas/{name}.sd" not in self.files:
                raise BadPackage(f"no schema for the document type {name}")
            self.schemas[name] = read_schema(self.files[f"schemas/{name}.sd"].decode())
            self.documents.setdefault(name, {})
        for one in self.services.iter("component"):
            if one.get("type") != "hugging-face-embedder":
                raise BadPackage(f"unknown component type {one.get('type')}")

    @cached_property
    def services(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.files["services.xml"])

    @cached_property
    def most(self) -> int:
        profile = ElementTree.fromstring(self.files["search/query-profiles/default.xml"])
        return int(next((str(one.text) for one in profile.iter("field") if one.get("name") == "maxHits"), "400"))


class Engine:
    """The server. `token` is what callers must bring, `faults` are statuses for the next calls to the data plane, and
    `partial` is how many queries are answered by a part of the nodes.
    """

    def __init__(self) -> None:
        self.host, self._config = _bound(CONFIG_PORT, _ConfigCalls, self)
        self.token, self.faults, self.calls = "", list[int](), list[tuple[str, str, Any]]()
        self.partial = 0
        self.lock = threading.RLock()
        self.application: Application | None = None
        self.sessions: dict[int, tuple[int, dict[str, bytes]]] = {}
        self._next = 2
        self._data: Server | None = None
        threading.Thread(target=self._config.serve_forever, args=(_POLL_S,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"vespa://{self.host}"

    def stop(self) -> None:
        self.pause()
        close(self._config)

    def pause(self) -> None:
        """Close the port of the data plane, as when the container stops."""
        if self._data is not None:
            close(self._data)
            self._data = None

    def resume(self) -> None:
        """Open it again, with the same documents."""
        if self._data is None:
            self._data = _server(self.host, DATA_PORT, _DataCalls, self)
            threading.Thread(target=self._data.serve_forever, args=(_POLL_S,), daemon=True).start()

    def session(self, files: dict[str, bytes]) -> int:
        self._next += 1
        self.sessions[self._next] = (self.application.generation if self.application else 0, files)
        return self._next

    def activate(self, number: int) -> None:
        base, _ = self.sessions[number]
        old = self.application
        if base != (old.generation if old else 0):
            raise Answer(409, {"error-code": "ACTIVATION_CONFLICT", "message": f"Cannot activate session {number}"})
        new = self.prepare(number)
        new.documents |= {name: kept for name, kept in (old.documents if old else {}).items() if name in new.schemas}
        self.application = new
        self.resume()

    def prepare(self, number: int) -> Application:
        _, files = self.sessions[number]
        try:
            new = Application(number, files)
            gone = (self.application.schemas.keys() if self.application else set()) - new.schemas.keys()
            if gone and not allows(files.get("validation-overrides.xml", b"").decode(), "schema-removal"):
                raise BadPackage(f"schema-removal: Type {gone} is removed")
        except (BadPackage, KeyError, ElementTree.ParseError) as error:
            raise Answer(400, {"error-code": "INVALID_APPLICATION_PACKAGE", "message": repr(error)}) from error
        return new


class _ConfigCalls(Calls):
    def call(self, path: str, parameters: Mapping[str, str], body: bytes) -> Any:
        engine, method = self.engine, self.command
        active = f"http://{engine.host}:{CONFIG_PORT}{_TENANT}/application/default/environment/prod/region/default/instance/default"
        with engine.lock:
            engine.calls.append((method, path, body))
            parts = path.removeprefix(_TENANT).strip("/").split("/")
            match (method, *parts):
                case ("GET", "application"):
                    return [active] if engine.application else []
                case ("DELETE", "application", "default"):
                    engine.application = None
                    engine.pause()
                    return {"message": "Application 'default' was deleted"}
                case ("POST", "prepareandactivate") if self.headers["Content-Type"] == "application/zip":
                    number = engine.session(read_zip(body))
                    engine.activate(number)
                    return {"session-id": str(number), "message": f"Session {number} prepared and activated."}
                case ("POST", "session") if parameters.get("from") == active and engine.application:
                    number = engine.session(dict(engine.application.files))
                    return {"session-id": str(number), "message": f"Session {number} created."}
                case (_, "session", number, "content", *rest) if int(number) in engine.sessions:
                    return self._content(engine.sessions[int(number)][1], "/".join(rest), path.endswith("/"), body)
                case ("PUT", "session", number, "prepared") if int(number) in engine.sessions:
                    engine.prepare(int(number))
                    return {"session-id": number, "message": f"Session {number} prepared."}
                case ("PUT", "session", number, "active") if int(number) in engine.sessions:
                    engine.activate(int(number))
                    return {"session-id": number, "message": f"Session {number} activated."}
        raise Answer(404, {"error-code": "NOT_FOUND", "message": path})

    def _content(self, files: dict[str, bytes], path: str, is_folder: bool, body: bytes) -> Any:
        match self.command:
            case "PUT" if is_folder:
                return {}
            case "PUT":
                files[path] = body
                return {}
            case "GET" if path in files:
                return files[path]
            case "DELETE" if path in files:
                del files[path]
                return {}
        raise Answer(404, {"error-code": "NOT_FOUND", "message": path})


class _DataCalls(Calls):
    def call(self, path: str, parameters: Mapping[str, str], body: bytes) -> Any:
        engine = self.engine
        with engine.lock:
            engine.calls.append((self.command, path, body))
            if engine.faults:
                raise Answer(engine.faults.pop(0), {"pathId": path, "message": "a fault that the test asked for"})
            if engine.token and self.headers.get("Authorization") != f"Bearer {engine.token}":
                raise Answer(403, {"message": "Forbidden"})
            if engine.application is None:
                raise Answer(503, {"message": "no application"})
            if path.startswith("/document/v1/"):
                return self._document(engine.application, path, parameters, body)
            if path == "/search/" and self.command == "POST":
                try:
                    answer = search(engine.application, {**parameters, **json.loads(body)})
                    if engine.partial:
                        engine.partial -= 1
                        answer["root"]["coverage"] |= {"coverage": 50, "full": False, "degraded": {"timeout": True}}
                    return answer
                except (BadQuery, BadDocument) as error:
                    errors = [{"code": 4, "summary": "Invalid query parameter", "message": str(error)}]
                    raise Answer(400, {"root": {"id": "toplevel", "relevance": 1.0, "errors": errors}}) from error
        raise Answer(404, {"message": path})

    def _document(self, application: Application, path: str, parameters: Mapping[str, str], body: bytes) -> Any:
        namespace, kind, docid, *rest = path.removeprefix("/document/v1/").split("/")
        if docid != "docid" or len(rest) != 1 or not rest[0] or parameters:
            raise Answer(400, {"pathId": path, "message": "Illegal path or parameters"})
        if kind not in application.schemas:
            raise Answer(400, {"pathId": path, "message": f"Document type {kind} does not exist"})
        name = f"id:{namespace}:{kind}::{unquote(rest[0])}"
        documents, answer = application.documents[kind], {"pathId": path, "id": name}
        match self.command:
            case "GET" if name in documents:
                return {**answer, "fields": {key: _shown(value) for key, value in documents[name].items()}}
            case "GET":
                raise Answer(404, answer)
            case "POST":
                try:
                    documents[name] = application.schemas[kind].checked(json.loads(body)["fields"])
                except (BadDocument, KeyError) as error:
                    raise Answer(400, {**answer, "message": str(error)}) from error
                return answer
            case "DELETE":
                documents.pop(name, None)
                return answer
        raise Answer(405, answer)


def search(application: Application, parameters: Mapping[str, Any]) -> Any:
    """The answer to a query: exact, ties in no order."""
    inputs = {name: value for name, value in parameters.items() if name.startswith("input.query(")}
    if unknown := parameters.keys() - _PARAMETERS - inputs.keys():
        raise BadQuery(f"unknown parameters {unknown}")
    schema = application.schemas.get(parameters["model.restrict"])
    if schema is None:
        raise BadQuery(f"Could not resolve the schema {parameters['model.restrict']}")
    query = parse(parameters["yql"], schema.attributes)
    if query.limit > application.most:
        raise BadQuery(f"{query.limit} hits requested, configured limit: {application.most}")
    documents = application.documents[schema.name]
    found = [(0.0, name, fields) for name, fields in documents.items() if query.test(fields)]
    random.shuffle(found)
    if query.nearest is not None:
        found = _nearest(found, query, schema, parameters, application)
    for name, is_falling in reversed(query.order):
        found.sort(key=lambda one: one[2].get(name, ""), reverse=is_falling)
    profile = parameters["ranking.profile"]
    if profile not in {"unranked", *schema.profiles}:
        raise BadQuery(f"schema[{schema.name}] does not contain the rank profile {profile}")
    wanted = found[: query.limit]
    children = [_hit(schema, parameters["presentation.summary"], *one) for one in wanted]
    coverage = {"coverage": 100, "documents": len(documents), "full": True, "nodes": 1, "results": 1, "resultsFull": 1}
    root = {"id": "toplevel", "relevance": 1.0, "fields": {"totalCount": len(found)}, "coverage": coverage}
    return {"root": {**root, "children": children} if children else root}


def _nearest(found: Any, query: Query, schema: Schema, parameters: Mapping[str, Any], app: Application) -> Any:
    nearest = query.nearest
    assert nearest is not None
    kind = schema.profiles.get(parameters["ranking.profile"], {}).get(nearest.tensor)
    given = parameters.get(f"input.query({nearest.tensor})")
    if kind is None or given is None:
        raise BadQuery(f"Expected a tensor query({nearest.tensor})")
    if kind != schema.types[nearest.field]:
        raise BadQuery(f"query({nearest.tensor}) is {kind}, {nearest.field} is {schema.types[nearest.field]}")
    if isinstance(given, str):
        given = embed(app, given, str(parameters.get("text", "")))
    vector = np.array(tensor(kind, given))
    if not found:
        return []
    table = np.array([fields[nearest.field] for _, _, fields in found])
    norms = np.linalg.norm(table, axis=1) * np.linalg.norm(vector)
    cosines = np.clip(np.einsum("nd,d->n", table, vector) / norms, -1, 1)
    order = np.argsort(-cosines, kind="stable")[: nearest.annotations["targetHits"]]
    return [(1 / (1 + math.acos(cosines[at])), *found[at][1:]) for at in order.tolist()]


def embed(application: Application, call: str, text: str) -> list[float]:
    """What Vespa's hugging-face-embedder gives for `embed(component, @text)`."""
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    name = call.removeprefix("embed(").removesuffix(", @text)")
    component = application.services.find(f"container/component[@id='{name}']")
    if component is None or call != f"embed({name}, @text)":
        raise BadQuery(f"Can't find embedder for {call!r}")
    options = {one.tag: one.get("path") or one.text or "" for one in component}
    tokenizer = Tokenizer.from_str(application.files[options["tokenizer-model"]].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(options["max-tokens"]))
    session = InferenceSession(application.files[options["transformer-model"]])
    inputs = {one.name: np.int32 if one.type == "tensor(int32)" else np.int64 for one in session.get_inputs()}
    ids = tokenizer.encode(text).ids
    given = {options["transformer-input-ids"]: ids, options["transformer-attention-mask"]: [1] * len(ids),
             options["transformer-token-type-ids"]: [0] * len(ids)}  # fmt: skip
    (rows,) = session.run(
        [options["transformer-output"]], {n: np.array([given[n]], kind) for n, kind in inputs.items()}
    )
    if (rows.ndim == 2) != (options["pooling-strategy"] == "none") or options["normalize"] != "true":
        raise BadQuery("Expected pooling-strategy 'none' with 2 output dimensions")
    vector: list[float] = (rows[0] / np.linalg.norm(rows[0])).tolist()
    return vector


def _hit(schema: Schema, summary: str, relevance: float, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    if summary not in schema.summaries:
        raise BadQuery(f"invalid presentation.summary={summary}")
    shown = {key: _shown(fields[key]) for key in schema.summaries[summary] if key in fields}
    return {
        "id": name,
        "relevance": relevance,
        "source": "sightline_content",
        "fields": {"sddocname": schema.name, **shown},
    }


def _shown(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], float):
        return {"type": f"tensor<float>(x[{len(value)}])", "values": value}
    return value


def read_zip(body: bytes) -> dict[str, bytes]:
    """The files of a package."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _bound(port: int, calls: type[Calls], engine: Engine) -> tuple[str, Server]:
    """A server on a loopback address where both ports are free: Linux has 127.0.0.0/8, others 127.0.0.1 alone."""
    for host in [*(f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.2" for _ in range(5)), "127.0.0.1"]:
        try:
            _server(host, DATA_PORT, calls, engine).server_close()
            return host, _server(host, port, calls, engine)
        except OSError:
            continue
    pytest.skip(f"no loopback address where the ports {DATA_PORT} and {port} are free")


def _server(host: str, port: int, calls: type[Calls], engine: Engine) -> Server:
    return Server((host, port), type("Calls", (calls,), {"engine": engine}))
