"""The part of the API that tells how the server and its indexes are."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Request
from fastapi import Query as Parameter
from starlette.responses import JSONResponse, Response

import sightline
from sightline.errors import SightlineError
from sightline.server import access
from sightline.server.answers import Problem, answer, problems_of
from sightline.server.metrics import MEDIA_TYPE
from sightline.server.schemas import FailuresAnswer, IndexName, StatusAnswer
from sightline.server.state import ServedIndex, get_state

router = APIRouter(tags=["status"])


@router.get("/api/status", responses={200: {"model": StatusAnswer}})
def status(request: Request) -> Response:
    """The indexes, their models and sizes, what runs on them, and what this client may do."""
    state = get_state(request)
    indexes = [_status(served) for served in state.indexes.values()]
    may_write = not state.settings.read_only and (
        not state.settings.has_keys
        or access.owner_of(access.key_of(request.headers), access.digests(state.settings.write_keys)) is not None
    )
    body = {"version": sightline.__version__, "indexes": indexes, "may_write": may_write}
    return answer(request, {**body, "needs_key": state.settings.has_keys})


@router.get("/api/failures", responses={200: {"model": FailuresAnswer}})
def failures(
    request: Request, index: IndexName = None, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100
) -> Response:
    """The pictures that could not be indexed, with reasons, newest first."""
    served = get_state(request).index(index)
    served.store()
    found = sorted(served.index.failures(), key=lambda failure: failure.when, reverse=True)
    return answer(request, {"failures": [asdict(failure) for failure in found[:limit]], "total": len(found)})


@router.post("/api/failures/retry", status_code=202, responses={**problems_of(409)})
def retry(request: Request, tasks: BackgroundTasks, index: IndexName = None) -> dict[str, bool]:
    """Read the failed pictures again; /api/status tells how it goes."""
    served = get_state(request).index(index)
    if served.retry and served.retry["is_running"]:
        raise Problem(409, "a retry runs already: /api/status tells how it goes")
    served.store()
    served.retry = {"is_running": True}
    tasks.add_task(served.run_retry)
    return {"is_running": True}


@router.post("/api/session")
def session(request: Request) -> JSONResponse:
    """Turn the key of the Authorization header into a cookie, for the page."""
    reply = JSONResponse({"is_open": True})
    settings = get_state(request).settings
    if settings.has_keys:
        held = access.session(access.key_of(request.headers))
        secure = "https" in (request.url.scheme, settings.public_origin.partition(":")[0])
        path, days = settings.prefix or "/", 30
        reply.set_cookie(access.COOKIE, held, days * 86400, path=path, httponly=True, samesite="strict", secure=secure)
    return reply


@router.get("/healthz")
def healthz() -> dict[str, bool]:
    """The process answers."""
    return {"is_alive": True}


@router.get("/readyz")
def readyz(request: Request) -> dict[str, bool]:
    """Stores and models are open."""
    indexes = get_state(request).indexes.values()
    if waiting := sum(not served.is_open() for served in indexes):  # no names: this is answered without a key
        raise Problem(503, f"not open yet: {waiting} of {len(indexes)} indexes", {"Retry-After": "2"})
    return {"is_ready": True}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Counters, histograms of each stage, and gauges, for Prometheus."""
    state = get_state(request)
    gauges = list[tuple[str, str, float | None]]()
    for served in state.indexes.values():
        known = _status(served)
        for name, field in (("pictures", "pictures"), ("failures", "failures"), ("bytes", "size_bytes")):
            gauges.append((f"sightline_index_{name}", served.name, known[field]))
        gauges.append(("sightline_queue_depth", served.name, float(served.depth)))
    return Response(state.metrics.text(gauges), media_type=MEDIA_TYPE)


def _status(served: ServedIndex) -> dict[str, Any]:
    fields = ("model", "dim", "pictures", "failures", "size_bytes", "roots")
    empty = {"pictures": 0, "failures": 0, "roots": {}}
    try:
        served.store()
        info = served.index.info()
        known = {name: info[name] for name in fields} | {"problem": None}
    except SightlineError as error:
        known = dict.fromkeys(fields) | empty | {"problem": str(error)}
    able = {"words": served.takes_words, "uploads": served.uploads is not None}
    return {"name": served.name, **known, **able, "retry": served.retry}
