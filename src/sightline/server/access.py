"""Access control: keys, origins, rate and size limits before the application, and the headers of every answer."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from cachetools import LRUCache
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline.server.answers import Problem, problem_response
from sightline.server.metrics import Metrics
from sightline.server.settings import Settings

COOKIE = "sightline"
_SAFE = ("GET", "HEAD", "OPTIONS")
_OPEN = ("/", "/docs", "/openapi.json", "/favicon.ico", "/healthz", "/readyz", "/api/session")
_READS = ("/api/search", "/api/scores", "/api/classify", "/api/embeddings", "/api/query-pictures", "/api/session")
"""What is posted but changes no index: a read key is enough."""
_QUEUED = ("/api/search", "/api/scores")
_COST_FREE = ("/static/", "/healthz", "/readyz", "/metrics")
_BURST_S = 5.0  # a page that opens asks for dozens of pictures at once
_MOST_CLIENTS = 10_000
_DRAINED_BYTES = 512 * 2**20
_DRAINED_S = 30.0
_LEAST_BYTES_PER_S = 16 * 1024  # a body that comes more slowly than a modem of 1998 holds a connection for nothing
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class AccessControl:
    """An ASGI application around another one, which gets only what passes."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, is_full: Callable[[], bool]) -> None:
        self._app, self._settings, self._metrics, self._is_full = app, settings, metrics, is_full
        self._read = _digests([*settings.read_keys, *settings.write_keys])
        self._write = _digests(settings.write_keys)
        self._rate = Rate(settings.requests_per_s)
        self._headers = _HEADERS | ({"Cross-Origin-Resource-Policy": "cross-origin"} if settings.origins else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            limited = self._limited(scope, receive)
            try:
                self._check(scope, Headers(scope=scope))
            except Problem as problem:
                await _drain(receive)
                await problem_response(problem)(scope, receive, send_with_headers)
                return
            await self._app(scope, limited, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "") or "other"
            self._metrics.requests.labels(_method(scope), route, status).inc()
            self._metrics.stages.labels("request").observe(time.perf_counter() - began)

    def _check(self, scope: Scope, headers: Headers) -> None:
        path, method = scope["path"], scope["method"]
        if not self._settings.has_keys and _host(headers) not in self._settings.hosts:
            raise Problem(421, f"the request is for {_host(headers)!r}, expected {self._settings.hosts[0]}: open that")
        if method not in _SAFE and not _is_own(headers) and headers.get("origin") not in self._settings.origins:
            raise Problem(403, "another web site sent this request: start the server with --cors and its origin")
        key = key_of(headers)
        if self._settings.has_keys and path not in _OPEN and not path.startswith("/static/"):
            self._check_key(key, path, method)
        elif self._settings.read_only and _writes(path, method):
            raise Problem(403, "this server is read only: start it without --read-only to change the index")
        if not path.startswith(_COST_FREE):
            client = scope.get("client") or ("",)
            self._check_rate(key if self._settings.has_keys and key else str(client[0]))
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.max_upload_bytes:
            raise _too_large(int(length), self._settings.max_upload_bytes)
        if path in _QUEUED and self._is_full():
            self._metrics.refused.labels("queue").inc()
            raise Problem(503, "more queries wait than may: try again in a moment", {"Retry-After": "1"})

    def _check_key(self, key: str, path: str, method: str) -> None:
        if not _is_one_of(key, self._read):
            raise Problem(
                401,
                "no key, or an unknown one: send the header Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        if _writes(path, method) and (self._settings.read_only or not _is_one_of(key, self._write)):
            raise Problem(403, "this key may only read: use a write key (--write-key) to change the index")

    def _check_rate(self, client: str) -> None:
        if (wait_s := self._rate.wait_s(client)) > 0:
            self._metrics.refused.labels("rate").inc()
            rate = f"{self._settings.requests_per_s:g} requests a second"
            raise Problem(429, f"more than {rate}: slow down", {"Retry-After": str(max(1, round(wait_s)))})

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that refuses a body without a length once it is too large, and one that trickles in."""
        if scope["method"] in _SAFE:
            return receive
        seen, is_whole, began = 0, False, time.monotonic()

        async def counted() -> Message:
            nonlocal seen, is_whole
            if is_whole:  # what is waited for now is the answer's end
                return await receive()
            left_s = began + self._settings.patience_s + seen / _LEAST_BYTES_PER_S - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    message = await receive()
            except TimeoutError as error:
                raise _too_slow(seen) from error
            seen += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if seen > self._settings.max_upload_bytes:
                await _drain(receive)
                raise _too_large(seen, self._settings.max_upload_bytes)
            return message

        return counted


class Rate:
    """A bucket of requests for each client, that fills at a steady rate."""

    def __init__(self, per_s: float) -> None:
        self._per_s, self._room = per_s, per_s * _BURST_S
        self._buckets = LRUCache[str, tuple[float, float]](_MOST_CLIENTS)

    def wait_s(self, client: str) -> float:
        """0 if the client may ask now, else how long it should wait."""
        if self._per_s <= 0:
            return 0.0
        now = time.monotonic()
        left, then = self._buckets.get(client, (self._room, now))
        left = min(self._room, left + (now - then) * self._per_s)
        is_allowed = left >= 1
        self._buckets[client] = (left - 1 if is_allowed else left, now)
        return 0.0 if is_allowed else (1 - left) / self._per_s


def session(key: str) -> str:
    """What the page's cookie holds instead of the key: it opens this server and nothing else."""
    return hmac.new(key.encode(), b"sightline session", hashlib.sha256).hexdigest()


def is_known(key: str, keys: Iterable[str]) -> bool:
    """Whether a key is one of these, in a time that does not depend on how much of it is right."""
    return _is_one_of(key, _digests(keys))


def _digests(keys: Iterable[str]) -> list[bytes]:
    return [_digest(form) for key in keys for form in (key, session(key))]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _is_one_of(key: str, digests: Sequence[bytes]) -> bool:
    given = _digest(key)
    return sum([hmac.compare_digest(given, digest) for digest in digests]) > 0  # a list: all are compared, always


def key_of(headers: Headers) -> str:
    """The key that a request brings: in the Authorization header, in X-API-Key, or in the page's cookie."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    if token := headers.get("x-api-key", ""):
        return token
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _host(headers: Headers) -> str:
    host = headers.get("host", "")
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_own(headers: Headers) -> bool:
    """Whether a request that changes something comes from this server's page or from no browser at all."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _writes(path: str, method: str) -> bool:
    return method not in _SAFE and path not in _READS


def _method(scope: Scope) -> str:
    return str(scope["method"]) if scope["method"] in (*_SAFE, "POST", "PUT", "PATCH", "DELETE") else "other"


def _too_large(size: int, limit: int) -> Problem:
    return Problem(413, f"the request has {size:,} bytes or more, expected at most {limit:,}: send fewer or smaller")


def _too_slow(seen: int) -> Problem:
    return Problem(
        408,
        f"the request's body stopped after {seen:,} bytes, expected {_LEAST_BYTES_PER_S:,} a second: send it again",
        {"Connection": "close"},
    )


async def _drain(receive: Receive) -> None:
    """Read what the client still sends, within reason: many show an answer only when they have sent everything."""
    seen = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAINED_S):
            while seen < _DRAINED_BYTES:
                message = await receive()
                seen += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
