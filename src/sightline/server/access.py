"""Access control: keys, origins, rate and size limits before the application, and the headers of every answer."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from cachetools import LRUCache
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline.server.answers import Problem, overloaded, problem_response
from sightline.server.metrics import Metrics
from sightline.server.settings import ServerSettings

COOKIE = "sightline"
_SAFE = ("GET", "HEAD", "OPTIONS")
OPEN = ("/", "/docs", "/openapi.json", "/favicon.ico", "/healthz", "/readyz")
_READS = ("/api/search", "/api/scores", "/api/classify", "/api/embeddings", "/api/query-pictures", "/api/session")
"""What is posted but changes no index: a read key is enough."""
_QUEUED = ("/api/search", "/api/scores")
_COST_FREE = ("/static/", "/healthz", "/readyz", "/metrics")
_BURST_S = 5.0  # a page that opens asks for dozens of pictures at once
_MOST_CLIENTS = 10_000
_WRONG_KEYS_PER_S = 0.2  # for each address, after a few at once: a random key of 8 letters lasts for centuries
_WRONG_KEYS_AT_ONCE = 20.0
_MOST_JSON_PARTS = 400_000  # parsing so many values takes a tenth of a second, in which nobody else is answered
_HELD_BODIES = 8  # of the largest size: so much may all requests together have sent before they are answered
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

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics, is_full: Callable[[], bool]) -> None:
        self._app, self._settings, self._metrics, self._is_full = app, settings, metrics, is_full
        self._read = digests([*settings.read_keys, *settings.write_keys])
        self._write = digests(settings.write_keys)
        self._rate = Rate(settings.requests_per_s, settings.requests_per_s * _BURST_S)
        self._wrong_keys = Rate(_WRONG_KEYS_PER_S, _WRONG_KEYS_AT_ONCE)
        self._seen_keys = LRUCache[tuple[str, bytes], None](_MOST_CLIENTS)  # by address: they are no new guesses
        self._held_bytes = 0
        self._headers = _HEADERS | ({"Cross-Origin-Resource-Policy": "cross-origin"} if settings.origins else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, body = time.perf_counter(), 500, _Body(time.monotonic())
        prefix = self._settings.prefix
        if prefix and f"{scope['path']}/".startswith(f"{prefix}/"):  # not every proxy cuts it off
            if scope["path"] == prefix:  # the page's addresses are relative
                await RedirectResponse(f"{prefix}/", 308)(scope, receive, send)
                return
            scope["path"] = scope["path"].removeprefix(prefix)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            headers = Headers(scope=scope)
            try:
                self._check(scope, headers)
            except Problem as problem:
                await _drain(receive)
                await problem_response(problem)(scope, receive, send_with_headers)
                return
            is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
            limited = receive if scope["method"] in _SAFE else self._limited(receive, body, is_form=is_form)
            await self._app(scope, limited, send_with_headers)
        finally:
            self._held_bytes -= body.held_bytes
            route = getattr(scope.get("route"), "path", "") or "other"
            self._metrics.requests.labels(_method(scope), route, status).inc()
            self._metrics.stages.labels("request").observe(time.perf_counter() - began)

    def _check(self, scope: Scope, headers: Headers) -> None:
        path, method = scope["path"], scope["method"]
        public = urlsplit(self._settings.public_url).hostname or self._settings.hosts[0]
        if not self._settings.has_keys and _host(headers) not in (*self._settings.hosts, public):
            raise Problem(421, f"the request is for {_host(headers)!r}, expected {public}: open that")
        trusted = (*self._settings.origins, self._settings.public_origin)
        if method not in _SAFE and not _is_own(headers) and headers.get("origin") not in trusted:
            raise Problem(403, "another web site sent this request: start the server with --cors and its origin")
        client = _address(scope)
        if self._settings.has_keys and path not in OPEN and not path.startswith("/static/"):
            client = self._check_key(key_of(headers), client, is_writing=_writes(path, method))
        elif self._settings.read_only and _writes(path, method):
            raise Problem(403, "this server is read only: start it without --read-only to change the index")
        if not path.startswith(_COST_FREE) and (wait_s := self._rate.wait_s(client)) > 0:
            raise self._too_many(f"more than {self._settings.requests_per_s:g} requests a second", wait_s)
        scope.setdefault("state", {})["client"] = client
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.max_upload_bytes:
            raise _too_large(int(length), self._settings.max_upload_bytes)
        if path in _QUEUED and self._is_full():
            self._metrics.refused.labels("queue").inc()
            raise Problem(503, "more queries wait than may: try again in a moment", {"Retry-After": "1"})

    def _check_key(self, key: str, client: str, *, is_writing: bool) -> str:
        """Whose requests these count as: those of the key."""
        owner, guess = owner_of(key, self._read), (client, _digest(key))
        if key and guess not in self._seen_keys:
            if (wait_s := self._wrong_keys.wait_s(client, spent=owner is None)) > 0:
                raise self._too_many("too many wrong keys from your address", wait_s)
            self._seen_keys[guess] = None
        if owner is None:
            raise Problem(
                401,
                "no key, or an unknown one: send the header Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        if is_writing and (self._settings.read_only or owner_of(key, self._write) is None):
            raise Problem(403, "this key may only read: use a write key (--write-key) to change the index")
        return f"key {owner}"

    def _too_many(self, what: str, wait_s: float) -> Problem:
        self._metrics.refused.labels("rate").inc()
        return Problem(429, f"{what}: slow down", {"Retry-After": str(max(1, round(wait_s)))})

    def _limited(self, receive: Receive, body: "_Body", *, is_form: bool) -> Receive:
        """`receive` that ends a body which is too large, has too many parts, trickles in, or finds no room."""
        most_bytes = self._settings.max_upload_bytes

        async def counted() -> Message:
            if body.is_whole:  # what is waited for now is the answer's end
                return await receive()
            left_s = body.began + self._settings.patience_s + body.held_bytes / _LEAST_BYTES_PER_S - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    message = await receive()
            except TimeoutError as error:
                raise Problem(
                    408,
                    f"the request's body stopped after {body.held_bytes:,} bytes, expected {_LEAST_BYTES_PER_S:,} a "
                    "second: send it again",
                    {"Connection": "close"},
                ) from error
            data = message.get("body", b"")
            body.held_bytes += len(data)
            self._held_bytes += len(data)
            body.is_whole = not message.get("more_body", False)
            body.parts += 0 if is_form else data.count(b",") + data.count(b"[") + data.count(b"{")
            problem = None
            if body.held_bytes > most_bytes:
                problem = _too_large(body.held_bytes, most_bytes)
            elif body.parts > _MOST_JSON_PARTS:
                problem = Problem(413, f"the JSON has more than {_MOST_JSON_PARTS:,} values: ask for less at once")
            elif self._held_bytes > _HELD_BODIES * most_bytes:
                problem = overloaded("too many large requests are on their way: try again in a moment")
            if problem:
                if not body.is_whole:
                    await _drain(receive)
                raise problem
            return message

        return counted


@dataclass(slots=True)
class _Body:
    """What has come of a request's body."""

    began: float
    held_bytes: int = 0
    parts: int = 0
    is_whole: bool = False


class Rate:
    """A bucket for each client, of so many requests at once, that fills at a steady rate."""

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s, self._room = per_s, at_once
        self._buckets = LRUCache[str, tuple[float, float]](_MOST_CLIENTS)

    def wait_s(self, client: str, *, spent: bool = True) -> float:
        """0 if the client may ask now, else how long it should wait; what is not `spent` is only looked at."""
        if self._per_s <= 0:
            return 0.0
        now = time.monotonic()
        left, then = self._buckets.get(client, (self._room, now))
        left = min(self._room, left + (now - then) * self._per_s)
        is_allowed = left >= 1
        self._buckets[client] = (left - 1 if is_allowed and spent else left, now)
        return 0.0 if is_allowed else (1 - left) / self._per_s


def session(key: str) -> str:
    """What the page's cookie holds instead of the key: it opens this server and nothing else."""
    return hmac.new(key.encode(), b"sightline session", hashlib.sha256).hexdigest()


def digests(keys: Iterable[str]) -> list[bytes]:
    """What `owner_of` compares with: for each key itself, and its session."""
    return [_digest(form) for key in keys for form in (key, session(key))]


def owner_of(key: str, known: Sequence[bytes]) -> int | None:
    """Which of the keys of these `digests` it is, or a session of; in a time that tells nothing of the keys."""
    given = _digest(key)
    equal = [hmac.compare_digest(given, digest) for digest in known]  # a list: all are compared, always
    return equal.index(True) // 2 if True in equal else None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


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


def _address(scope: Scope) -> str:
    """Where a request comes from: an address, or of IPv6 the network that one customer has."""
    text = str((scope.get("client") or ("",))[0])
    with suppress(ValueError):  # what a proxy says may be anything
        address = ip_address(text.partition("%")[0])
        if isinstance(address, IPv6Address):
            return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
    return text


def _host(headers: Headers) -> str:
    host = headers.get("host", "")
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_own(headers: Headers) -> bool:
    """Whether a request that changes something comes from this server's page or from no browser at all.

    Browsers say it themselves, whatever host a proxy writes into the request; older ones only name the page's origin.
    """
    if site := headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _writes(path: str, method: str) -> bool:
    return method not in _SAFE and path not in _READS


def _method(scope: Scope) -> str:
    return str(scope["method"]) if scope["method"] in (*_SAFE, "POST", "PUT", "PATCH", "DELETE") else "other"


def _too_large(size: int, limit: int) -> Problem:
    return Problem(413, f"the request has {size:,} bytes or more, expected at most {limit:,}: send fewer or smaller")


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
