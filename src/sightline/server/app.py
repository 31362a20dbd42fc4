"""The web application: API, page, and access control around both."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

import sightline
from sightline.errors import SightlineError
from sightline.server import model_api, picture_api, problems, search_api, status_api
from sightline.server.access import AccessControl
from sightline.server.schemas import ProblemDocument, Query, SearchRequest
from sightline.server.settings import Settings
from sightline.server.state import AppState, problems_of

_STATIC = Path(__file__).parent / "static"
_PAGES = {"/": "index.html", "/docs": "docs.html", "/favicon.ico": "icon.svg"}
_TYPES = {".js": "text/javascript", ".svg": "image/svg+xml"}  # which some systems call otherwise
_COMMON = (400, 401, 403, 404, 408, 413, 421, 422, 429, 503)  # what every operation may answer

_logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> ASGIApp:
    """The application. Stores and models are opened in the background when it starts."""
    app = FastAPI(
        title="Sightline",
        version=sightline.__version__,
        summary="Find pictures by meaning.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        responses=problems_of(*_COMMON),
    )
    state = app.state.sightline = AppState(settings)
    problems.install(app)
    for part in (search_api, picture_api, model_api, status_api):
        app.include_router(part.router)
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
    opening = [asyncio.create_task(served.writing.run(served.open)) for served in state.indexes.values()]
    for task in opening:
        task.add_done_callback(_log_failure)
    yield
    await asyncio.gather(*opening, return_exceptions=True)
    await state.close()


def _log_failure(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()):
        level = logging.WARNING if isinstance(error, SightlineError) else logging.ERROR
        _logger.log(level, "an index is not open yet: %s", error)


def _describe(app: FastAPI) -> None:
    """Add to the OpenAPI document what FastAPI does not know: bodies that are JSON or a form, and the keys."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        models: list[Any] = [(model, "validation") for model in (SearchRequest, Query, ProblemDocument)]
        _, made = models_json_schema(models, ref_template="#/components/schemas/{model}")
        document.setdefault("components", {}).setdefault("schemas", {}).update(made["$defs"])
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"key": []}]  # without keys the server asks for none
        return document

    app.openapi = openapi  # type: ignore[method-assign]
