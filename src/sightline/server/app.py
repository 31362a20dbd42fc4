"""The web application, with access control around API and page, and the processes that run it."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

import sightline
from sightline.errors import SightlineError, UsageError
from sightline.server import picture_api, search_api, status_api
from sightline.server.access import OPEN, AccessControl
from sightline.server.answers import ProblemDocument, answer_errors, problems_of
from sightline.server.incoming import remove_abandoned
from sightline.server.schemas import ClassifyRequest, EmbeddingsRequest, Query, SearchRequest
from sightline.server.settings import ServerSettings, check_address
from sightline.server.state import AppState, ServedIndex

_STATIC = Path(__file__).parent / "static"
_PAGES = {"/": "index.html", "/docs": "docs.html", "/favicon.ico": "icon.svg"}
_TYPES = {".js": "text/javascript", ".svg": "image/svg+xml"}  # which some systems call otherwise
_COMMON = (400, 401, 403, 404, 408, 413, 421, 422, 429, 503)  # what every operation may answer
_READ_BY_HAND = (SearchRequest, Query, ClassifyRequest, EmbeddingsRequest, ProblemDocument)
_SHUTDOWN_S = 10
_BACKLOG = 100  # connections that are accepted at once, too: four times as many may be on their way to the limit
_HEAD_BYTES = 64 * 1024
_MOST_CONNECTIONS = 500  # far enough below the usual 1,024 files that a process may open
_KEEP_ALIVE_S = 60  # longer than clients leave a connection idle, so that they, not we, end it

_logger = logging.getLogger(__name__)


def serve(settings: ServerSettings, *, host: str, port: int, workers: int) -> None:
    """Answer until SIGINT or SIGTERM; then finish what was begun, for ten seconds at most."""
    check_address(host, settings)
    config = uvicorn.Config(
        partial(create_app, settings),
        factory=True,
        http=BoundedConnections,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        limit_concurrency=_MOST_CONNECTIONS + 1,  # all of them busy: what comes gets 503
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    listening = _bind(host, port)
    try:
        if workers > 1:
            Multiprocess(config, sockets=[listening]).run()
        else:
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


class BoundedConnections(H11Protocol):
    """A connection that, where there are too many, ends the one which has been without a request for longest.

    h11, unlike httptools, bounds the head of a request.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take its place among the others."""
        super().connection_made(transport)
        self.opened_at = self.loop.time()
        others = [other for other in self.connections if isinstance(other, BoundedConnections) and other is not self]
        others = [other for other in others if not other.transport.is_closing()]
        idle = [other for other in others if other.cycle is None or other.cycle.response_complete]
        if len(others) >= _MOST_CONNECTIONS and idle:
            min(idle, key=lambda other: other.opened_at).transport.abort()


def _bind(host: str, port: int) -> socket.socket:
    """A socket whose connections send small answers at once.

    The protocol is named: asyncio turns Nagle's algorithm off only where it is. Else each answer waits 40 ms for the
    client's delayed acknowledgement (measured: 50 ms a query, not 5).
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.set_inheritable(True)
    except (OSError, OverflowError) as error:
        raise UsageError(f"port {port} of {host} cannot be used ({error}): choose another with --port") from error
    return listening


def create_app(settings: ServerSettings) -> ASGIApp:
    """The application. Stores and models are opened in the background when it starts."""
    app = FastAPI(
        title="Sightline",
        version=sightline.__version__,
        summary="Find pictures by meaning.",
        docs_url=None,
        redoc_url=None,
        servers=[{"url": settings.public_url}] if settings.public_url else None,
        lifespan=_lifespan,
        responses=problems_of(*_COMMON),
    )
    state = app.state.sightline = AppState(settings)
    answer_errors(app)
    for router in (search_api.router, picture_api.router, search_api.model_router, status_api.router):
        app.include_router(router)
    files = GZipMiddleware(PageFiles(directory=_STATIC))
    app.mount("/static", files)
    app.router.routes += [Route(path, files, include_in_schema=False) for path in _PAGES]
    _describe(app)
    controlled: ASGIApp = AccessControl(
        app, settings, state.metrics, lambda: any(served.is_full for served in state.indexes.values())
    )
    if settings.origins:
        controlled = CORSMiddleware(
            controlled,
            allow_origins=settings.origins,
            allow_methods=["*"],
            allow_headers=["authorization", "content-type", "x-api-key"],
        )
    return controlled


class PageFiles(StaticFiles):
    """The page's files. Browsers ask for them again by ETag, so that a new version is seen at once."""

    def get_path(self, scope: Scope) -> str:
        """The file of a page's address, and of any address below /static."""
        return _PAGES.get(scope["path"], super().get_path(scope))

    def file_response(
        self, full_path: "str | os.PathLike[str]", stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file with the headers of this page."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        if kind := _TYPES.get(Path(full_path).suffix):
            response.headers["Content-Type"] = kind
        return response


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: AppState = app.state.sightline
    opening = [asyncio.create_task(_open(served)) for served in state.indexes.values()]
    yield
    await asyncio.gather(*opening, return_exceptions=True)
    await state.close()


async def _open(served: ServedIndex) -> None:
    try:
        index = await served.writing.run(served.open)
        if served.uploads:
            await served.writing.run(remove_abandoned, served.uploads, index)
    except Exception as error:
        level = logging.WARNING if isinstance(error, SightlineError) else logging.ERROR
        _logger.log(level, "an index is not open yet: %s", error)


def _describe(app: FastAPI) -> None:
    """Add to the OpenAPI document what FastAPI does not know: bodies that are JSON or a form, and the keys."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        models: list[Any] = [(model, "validation") for model in _READ_BY_HAND]
        _, made = models_json_schema(models, ref_template="#/components/schemas/{model}")
        document.setdefault("components", {}).setdefault("schemas", {}).update(made["$defs"])
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        keys: list[dict[str, list[str]]] = [{"key": []}] if app.state.sightline.settings.has_keys else [{}, {"key": []}]
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path in OPEN else keys
        return document

    app.openapi = openapi  # type: ignore[method-assign]
