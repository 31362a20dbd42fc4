"""Settings turned into the whole web application."""

import asyncio
import gzip
import hashlib
import logging
import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

import sightline
from sightline.errors import SightlineError
from sightline.server import model_api, picture_api, problems, search_api, status_api
from sightline.server.access import Desk, problems_of
from sightline.server.gallery import galleries
from sightline.server.guard import Guard
from sightline.server.metrics import Metrics
from sightline.server.problems import Problem
from sightline.server.schemas import ProblemDocument, Query, SearchRequest
from sightline.server.settings import Settings
from sightline.server.shortcut import Shortcut

_STATIC = Path(__file__).parent / "static"
_PAGES = {"/": "index.html", "/docs": "docs.html", "/favicon.ico": "icon.svg"}
_COMMON = (400, 401, 403, 404, 408, 413, 421, 422, 429, 503)  # what every operation may answer
_SHORT = "no-cache"  # asked for again by ETag: a new version of the page is seen at once

_logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> ASGIApp:
    """The application: API, page and guard. Stores and models are opened in the background when it starts."""
    metrics = Metrics()
    desk = Desk(settings, metrics, galleries(settings, metrics))
    app = FastAPI(
        title="Sightline",
        version=sightline.__version__,
        summary="Find pictures by meaning.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.desk = desk
    problems.install(app)
    for part in (search_api, picture_api, model_api, status_api):
        app.include_router(part.router)
    _add_pages(app)
    _describe(app)
    short = Shortcut(app, "/api/search", search_api.search)
    guarded: ASGIApp = Guard(short, settings, metrics, lambda: any(one.is_full for one in desk.galleries.values()))
    if settings.origins:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=settings.origins,
            allow_methods=["*"],
            allow_headers=["authorization", "content-type"],
        )
    return guarded


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    desk: Desk = app.state.desk
    opening = [asyncio.create_task(gallery.writing.run(gallery.searcher)) for gallery in desk.galleries.values()]
    for task in opening:
        task.add_done_callback(_say_failure)
    yield
    await asyncio.gather(*opening, return_exceptions=True)
    await desk.close()


def _say_failure(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()):
        level = logging.WARNING if isinstance(error, SightlineError) else logging.ERROR
        _logger.log(level, "an index is not open yet: %s", error)


def _add_pages(app: FastAPI) -> None:
    for path, name in _PAGES.items():
        app.add_api_route(path, _page(name), include_in_schema=False, methods=["GET", "HEAD"])

    def static(request: Request, name: str) -> Response:
        return _file(request, name)

    app.add_api_route("/static/{name}", static, include_in_schema=False, methods=["GET", "HEAD"])


def _page(name: str) -> Any:
    def page(request: Request) -> Response:
        return _file(request, name)

    return page


def _file(request: Request, name: str) -> Response:
    if name not in _names():
        raise Problem(404, "there is no such page: go to /")
    data, zipped, tag = _content(name, (_STATIC / name).stat().st_mtime_ns)
    headers = {"ETag": tag, "Cache-Control": _SHORT, "Vary": "Accept-Encoding"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        data, headers["Content-Encoding"] = zipped, "gzip"
    kind = {".js": "text/javascript", ".svg": "image/svg+xml"}.get(Path(name).suffix) or mimetypes.guess_type(name)[0]
    return Response(data, 200, headers, kind)


def _names() -> set[str]:
    return {path.name for path in _STATIC.iterdir()}


@cache
def _content(name: str, _changed: int) -> tuple[bytes, bytes, str]:
    data = (_STATIC / name).read_bytes()
    return data, gzip.compress(data, 9), f'"{hashlib.sha256(data).hexdigest()[:20]}"'


def _describe(app: FastAPI) -> None:
    """Add what is unknown to the framework to the OpenAPI document: bodies read by hand, and the common problems."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        models: list[Any] = [(model, "validation") for model in (SearchRequest, Query, ProblemDocument)]
        _, made = models_json_schema(models, ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(made["$defs"])
        common = {str(status): problem for status, problem in problems_of(*_COMMON).items()}
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"] = {**operation["responses"], **common}
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
