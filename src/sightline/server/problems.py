"""Errors as RFC 9457 problem documents."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from sightline import errors
from sightline.errors import SightlineError

MEDIA_TYPE = "application/problem+json"
_RETRY_S = 1
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
    errors.WhereError: 422,
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


class Problem(HTTPException):
    """A request that ends with a problem document. `more` are members beside the standard ones."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(status, detail, headers)
        self.more = more


def overloaded(detail: str) -> Problem:
    """503: the queue is full."""
    return Problem(503, detail, {"Retry-After": str(_RETRY_S)})


def response(problem: Problem) -> JSONResponse:
    """The document."""
    status = problem.status_code
    title = _TITLES.get(status, "Error")
    body = {"type": "about:blank", "title": title, "status": status, "detail": problem.detail, **problem.more}
    return JSONResponse(body, status, problem.headers, MEDIA_TYPE)


def of(error: SightlineError) -> Problem:
    """The problem that an error of the library is."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    headers = {"Retry-After": str(_RETRY_S)} if status == 503 else {}
    return Problem(status, str(error), headers)


def invalid(error: ValidationError | RequestValidationError) -> Problem:
    """422 with the place and the reason of each fault."""
    faults = [{"where": ".".join(map(str, fault["loc"])), "reason": fault["msg"]} for fault in error.errors()]
    first = "; ".join(f"{fault['where'] or 'the body'}: {fault['reason']}" for fault in faults[:3])
    return Problem(422, f"{first}: see /docs for what is expected", errors=faults)


def answer_to(error: Exception) -> JSONResponse:
    """The problem document for whatever went wrong."""
    match error:
        case Problem():
            return response(error)
        case SightlineError():
            return response(of(error))
        case ValidationError() | RequestValidationError():
            return response(invalid(error))
        case HTTPException():
            return response(Problem(error.status_code, str(error.detail), error.headers))
    return response(Problem(500, "Internal server error; see the server log"))


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""

    async def on_problem(_: Request, error: Exception) -> JSONResponse:
        return answer_to(error)

    for kind in (Problem, SightlineError, ValidationError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, on_problem)
