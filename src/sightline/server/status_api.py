"""The part of the API that tells how the server and its indexes are."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Request
from fastapi import Query as Parameter
from starlette.responses import JSONResponse, Response

import sightline
from sightline.errors import SightlineError
from sightline.server import guard
from sightline.server.access import Desk, answer, desk, problems_of
from sightline.server.gallery import Gallery
from sightline.server.metrics import MEDIA_TYPE
from sightline.server.problems import Problem
from sightline.server.schemas import FailuresAnswer, StatusAnswer

router = APIRouter(tags=["status"])
Name = Annotated[str | None, Parameter(max_length=100)]


@router.get("/api/status", responses={200: {"model": StatusAnswer}})
def status(request: Request) -> Response:
    """The indexes, their models and sizes, what runs on them, and what this client may do."""
    here = desk(request)
    indexes = [_status(gallery) for gallery in here.galleries.values()]
    may_write = not here.settings.read_only and (
        not here.settings.has_keys or guard.is_known(guard.key_of(request.headers), here.settings.write_keys)
    )
    body = {"version": sightline.__version__, "indexes": indexes, "may_write": may_write}
    return answer(request, {**body, "needs_key": here.settings.has_keys})


@router.get("/api/failures", responses={200: {"model": FailuresAnswer}})
def failures(request: Request, index: Name = None, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100) -> Response:
    """The pictures that could not be indexed, with reasons, newest first."""
    gallery = desk(request).gallery(index)
    gallery.store()
    found = sorted(gallery.index.failures(), key=lambda failure: failure.when, reverse=True)
    return answer(request, {"failures": [asdict(failure) for failure in found[:limit]], "total": len(found)})


@router.post("/api/failures/retry", status_code=202, responses={**problems_of(409)})
def retry(request: Request, tasks: BackgroundTasks, index: Name = None) -> dict[str, bool]:
    """Read the failed pictures again; /api/status tells how it goes."""
    gallery = desk(request).gallery(index)
    if gallery.retry and gallery.retry["is_running"]:
        raise Problem(409, "a retry runs already: /api/status tells how it goes")
    gallery.store()
    gallery.retry = {"is_running": True}
    tasks.add_task(gallery.run_retry)
    return {"is_running": True}


@router.post("/api/session")
def session(request: Request) -> JSONResponse:
    """Turn the key of the Authorization header into a cookie, for the page."""
    settings = desk(request).settings
    key = guard.key_of(request.headers)
    if settings.has_keys and not guard.is_known(key, [*settings.read_keys, *settings.write_keys]):
        raise Problem(401, "no key, or an unknown one: look at how the server was started")
    reply = JSONResponse({"is_open": True})
    if settings.has_keys:
        secure = request.url.scheme == "https"
        reply.set_cookie(
            guard.COOKIE, guard.session(key), httponly=True, samesite="strict", secure=secure, max_age=30 * 86400
        )
    return reply


@router.get("/healthz")
def healthz() -> dict[str, bool]:
    """The process answers."""
    return {"is_alive": True}


@router.get("/readyz")
def readyz(request: Request) -> dict[str, bool]:
    """Stores and models are open."""
    waiting = [name for name, gallery in desk(request).galleries.items() if not gallery.is_ready]
    if waiting:
        raise Problem(503, f"not open yet: {', '.join(waiting)}", {"Retry-After": "2"})
    return {"is_ready": True}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Counters, histograms of each stage, and gauges, for Prometheus."""
    here = desk(request)
    return Response(here.metrics.text(_gauges(here)), media_type=MEDIA_TYPE)


def _status(gallery: Gallery) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "model": None,
        "dim": None,
        "pictures": 0,
        "failures": 0,
        "size_bytes": None,
        "roots": {},
        "problem": None,
    }
    try:
        gallery.store()
        known = gallery.index.info()
    except SightlineError as error:
        known = {"problem": str(error)}
    shown = {name: known.get(name, empty[name]) for name in empty}
    able = {"words": gallery.knows_words, "uploads": gallery.uploads is not None}
    return {"name": gallery.name, **shown, **able, "retry": gallery.retry}


def _gauges(here: Desk) -> Iterator[tuple[str, dict[str, str], float | None]]:
    for gallery in here.galleries.values():
        state, labels = _status(gallery), {"index": gallery.name}
        for name, field in (("pictures", "pictures"), ("failures", "failures"), ("bytes", "size_bytes")):
            yield f"sightline_index_{name}", labels, state[field]
        yield "sightline_queue_depth", labels, float(gallery.depth)
