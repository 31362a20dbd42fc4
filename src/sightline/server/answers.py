"""Answers as JSON, and errors as RFC 9457 problem documents."""

import gzip
import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from sightline import errors
from sightline.errors import SightlineError

_MOST_FAULTS = 20  # of a request that are listed
_ZIPPED_BYTES = 4096  # smaller answers fit a few packets anyway
_TITLES = {
    400: "Bad request",
    401: "Key required",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    410: "Gone",
    413: "Too large",
    415: "Unsupported content type",
    421: "Misdirected request",
    422: "Invalid request",
    429: "Too many requests",
    500: "Internal server error",
    503: "Busy",
    507: "The disk is full",
}
_STATUS: Mapping[type[SightlineError], int] = {
    errors.PictureNotFound: 404,
    errors.UsageError: 422,
    errors.ImageError: 422,
    errors.TextNotSupported: 422,
    errors.StoreBusy: 503,
    errors.StoreFull: 507,
    errors.StoreNotFound: 503,
    errors.StoreUnreachable: 503,
    errors.StoreForbidden: 503,
    errors.EncoderError: 503,
    errors.IndexMismatch: 409,
}


def answer(request: Request, content: Mapping[str, Any], status: int = 200) -> Response:
    """JSON, zipped where it is long and the client can take it."""
    try:
        data = to_json(content)  # four times as fast as the standard library's
    except PydanticSerializationError:  # half a surrogate pair, from a file name of another system
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    if len(data) > _ZIPPED_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        data, headers["Content-Encoding"] = gzip.compress(data, 1), "gzip"
    return Response(data, status, headers, "application/json")


class Problem(HTTPException):
    """A request that ends with a problem document. `more` are members beside the standard ones."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(status, detail, headers)
        self.more = more


def overloaded(detail: str) -> Problem:
    """503: the queue is full."""
    return Problem(503, detail, {"Retry-After": "1"})


def problem_response(error: Exception) -> JSONResponse:
    """The problem document for whatever went wrong."""
    match error:
        case Problem():
            problem = error
        case SightlineError():
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
            problem = Problem(status, str(error), {"Retry-After": "1"} if status == 503 else {})
        case ValidationError() | RequestValidationError():
            problem = _invalid(error)
        case HTTPException():
            problem = Problem(error.status_code, str(error.detail), error.headers)
        case _:
            problem = Problem(500, "Internal server error; see the server log")
    status = problem.status_code
    title = _TITLES.get(status, "Error")
    body = {"type": "about:blank", "title": title, "status": status, "detail": problem.detail, **problem.more}
    return JSONResponse(body, status, problem.headers, "application/problem+json")


def answer_errors(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""

    async def on_error(_: Request, error: Exception) -> JSONResponse:
        return problem_response(error)

    for kind in (SightlineError, ValidationError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, on_error)


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem documents that an operation may answer beside the common ones, for the OpenAPI document."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": "A problem", "content": content} for status in statuses}


def _invalid(error: ValidationError | RequestValidationError) -> Problem:
    """422 with the place and the reason of each fault."""
    faults = [
        {"where": ".".join(map(str, fault["loc"]))[:200], "reason": fault["msg"][:500]}
        for fault in error.errors()[:_MOST_FAULTS]
    ]
    first = "; ".join(f"{fault['where'] or 'the body'}: {fault['reason']}" for fault in faults[:3])
    return Problem(422, f"{first}: see /docs for what is expected", errors=faults)
