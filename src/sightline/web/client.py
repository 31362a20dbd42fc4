"""The one HTTP client, on urllib3: kept connections, proxies, time limits, retries and size caps.

Importing this module imports urllib3 (50 ms): import it where something is fetched.
"""

from __future__ import annotations

import json
import math
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection

from sightline.errors import WebError
from sightline.text import size
from sightline.web.addresses import AddressGuard

RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""The answers after which the same request may succeed."""

_REDIRECTS = 5
_CHUNK_BYTES = 1 << 16
_LARGEST_JSON_BYTES = 64 << 20
Result = TypeVar("Result")


class Retries:
    """How often and for how long a request is tried again, with growing pauses; urllib3's `Retry` counts and measures.

    A Retry-After is honoured up to `longest_wait_s`. A certificate that is not valid is not tried again.
    """

    def __init__(
        self,
        times: int | None = None,
        *,
        within_s: float,
        pause_s: float = 0.5,
        longest_pause_s: float = 30.0,
        longest_wait_s: float = 20.0,
    ) -> None:
        self._retry = urllib3.Retry(
            times, status_forcelist=RETRY_STATUSES, backoff_factor=pause_s, backoff_max=longest_pause_s
        )
        self._until, self._longest_wait_s = time.monotonic() + within_s, longest_wait_s

    def wait(self, url: str, error: Exception | None = None, response: urllib3.BaseHTTPResponse | None = None) -> bool:
        """Pause before the next try after an error or an answer; False, at once, if there is to be none."""
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return False
        try:
            self._retry = self._retry.increment("GET", url, response=response, error=error)
        except exceptions.MaxRetryError:
            return False
        pause_s = self._retry.get_backoff_time()
        if time.monotonic() + pause_s > self._until:
            return False
        if response is not None:
            with suppress(exceptions.HTTPError):  # neither seconds nor a date
                pause_s = min(self._retry.get_retry_after(response) or pause_s, self._longest_wait_s)
        time.sleep(pause_s)
        return True


@dataclass(frozen=True, slots=True)
class Answer:
    """What came with status 200: the bytes, and what their server calls them."""

    data: bytes
    content_type: str


class HttpClient:
    """Asks servers, from many threads at once, over at most `per_host` kept connections to each.

    Proxies are those of `http_proxy`, `https_proxy` and `no_proxy`, or of the system's settings, as for Python's own
    `urllib.request`. With a `guard` only the addresses that it allows are reached, and never through a proxy.
    `headers` go with every request; of theirs, `private` ones do not follow a redirect to another host, nor do
    Authorization and cookies ever.
    """

    def __init__(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        private: Collection[str] = (),
        per_host: int = 8,
        connect_s: float = 10.0,
        read_s: float = 15.0,
        guard: AddressGuard | None = None,
    ) -> None:
        self._headers = urllib3.HTTPHeaderDict({"User-Agent": "sightline"})
        self._headers.update(headers or {})
        self._redirects = urllib3.Retry(
            None,
            connect=0,
            read=0,
            status=0,
            other=0,
            redirect=_REDIRECTS,
            remove_headers_on_redirect={*urllib3.Retry.DEFAULT_REMOVE_HEADERS_ON_REDIRECT, *private},
        )
        self._per_host, self._guard = per_host, guard
        self._connect_s, self._read_s = connect_s, read_s
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._making = threading.Lock()

    def open(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        retries: Retries | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """The answer, whatever its status, its body still to be read and then to be closed. Raises `WebError`."""
        sent = self._headers.copy()
        sent.update(headers or {})
        while True:
            try:
                response = self._manager(url).request(
                    method,
                    url,
                    headers=sent,
                    body=body,
                    retries=self._redirects,
                    preload_content=False,
                )
            except (exceptions.HTTPError, UnicodeError) as error:
                if retries is None or not retries.wait(url, error):
                    raise self.error(url, error) from error
                continue
            if response.status not in RETRY_STATUSES or retries is None or not retries.wait(url, response=response):
                return response
            give_back(response)

    def fetch(
        self,
        url: str,
        *,
        most_bytes: int,
        total_s: float = math.inf,
        headers: Mapping[str, str] | None = None,
        retries: Retries | None = None,
    ) -> Answer:
        """The whole of an answer with status 200. Raises `WebError`, for what is too large or takes too long too."""
        until = time.monotonic() + total_s
        while True:
            response = self.open(url, headers=headers, retries=retries)
            try:
                if response.status != 200:
                    raise refused(url, response.status)
                data = _body(url, response, most_bytes, until)
                return Answer(data, response.headers.get("Content-Type", "").lower())
            except exceptions.HTTPError as error:
                if retries is None or not retries.wait(url, error):
                    raise self.error(url, error) from error
            finally:
                give_back(response)

    def send(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the answer to a request of any method, sent once. Raises `WebError`."""
        try:
            with self.open(url, method=method, headers=headers, body=body) as response:
                return response.status, response.read()
        except exceptions.HTTPError as error:
            raise self.error(url, error) from error

    def error(self, url: str, error: Exception) -> WebError:
        """What went wrong, in a few words."""
        while isinstance(error, exceptions.MaxRetryError) and error.reason:
            error = error.reason
        if isinstance(error, exceptions.ProxyError):
            error = error.original_error
        if isinstance(error, exceptions.ResponseError):
            return WebError(url, f"has too many redirects (more than {_REDIRECTS})")
        if isinstance(error, exceptions.NewConnectionError):
            return WebError(url, f"cannot be reached ({_told(error)})", is_transient=True)
        if isinstance(error, exceptions.TimeoutError):
            waited_s = self._connect_s if isinstance(error, exceptions.ConnectTimeoutError) else self._read_s
            return WebError(url, f"does not answer within {waited_s:g} s", is_transient=True)
        if isinstance(error, exceptions.ProtocolError | exceptions.IncompleteRead):
            return WebError(url, "broke off before the end", is_transient=True)
        if isinstance(error, exceptions.LocationValueError):
            return WebError(url, "leads to an invalid address, expected http:// or https:// and a host")
        return WebError(url, f"cannot be reached ({_told(error)})")

    def close(self) -> None:
        """Give the connections back."""
        for manager in self._managers.values():
            manager.clear()

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = "" if self._guard else _proxy_of(url)
        with self._making:
            if proxy not in self._managers:
                options: dict[str, Any] = {
                    "num_pools": 1024,
                    "maxsize": self._per_host,
                    "block": True,
                    "timeout": urllib3.Timeout(connect=self._connect_s, read=self._read_s),
                    "ssl_context": _certificates(),
                }
                manager = (
                    urllib3.ProxyManager(proxy, proxy_headers=_credentials(proxy), **options)
                    if proxy
                    else urllib3.PoolManager(**options)
                )
                pools: Any = {
                    "http": partial(_Pool, guard=self._guard),
                    "https": partial(_SecurePool, guard=self._guard),
                }
                manager.pool_classes_by_scheme = pools
                self._managers[proxy] = manager
            return self._managers[proxy]


def give_back(response: urllib3.BaseHTTPResponse) -> None:
    """Done with an answer: its connection is kept if the body was read to its end, and closed if not."""
    if not response.closed:
        response.close()
    response.release_conn()  # a closed one too: its place among those of the host is free again


def refused(url: str, status: int) -> WebError:
    """The error of an answer with another status than was hoped for."""
    return WebError(url, f"answers {status}", status=status, is_transient=status in RETRY_STATUSES)


def fetch_json(url: str, *, answer_s: float, headers: Mapping[str, str] | None = None) -> Any:
    """The JSON at a URL, within so many seconds in all; `WebError` if there is none, or the status is not 200."""
    client = HttpClient(connect_s=answer_s, read_s=answer_s)
    answer = within(answer_s, url, lambda: client.fetch(url, most_bytes=_LARGEST_JSON_BYTES, headers=headers))
    client.close()
    try:
        return json.loads(answer.data)
    except (ValueError, RecursionError) as error:
        raise WebError(url, "does not answer in JSON") from error


def see_that_it_answers(url: str, *, answer_s: float) -> None:
    """`WebError` if nobody answers there within so many seconds; any answer will do."""
    client = HttpClient(connect_s=answer_s, read_s=answer_s)
    within(answer_s, url, lambda: client.open(url, method="HEAD").close())
    client.close()


def within(answer_s: float, url: str, ask: Callable[[], Result]) -> Result:
    """What `ask` gives, or a `WebError` when that takes longer.

    The limit holds for looking up the name, connecting and reading together, which the time-out of a socket does not.
    """
    outcome: SimpleQueue[tuple[Result | None, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((ask(), None))
        except Exception as error:  # handed to the thread that waits
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True, name="sightline-web").start()
    try:
        result, error = outcome.get(timeout=answer_s)
    except Empty:
        raise WebError(url, f"does not answer within {answer_s:g} s", is_transient=True) from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


class _Connection(HTTPConnection):
    """Connects through a guard where there is one, and reads redirects that are written in plain UTF-8."""

    def __init__(self, *args: Any, guard: AddressGuard | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._guard = guard

    def _new_conn(self) -> Any:
        if self._guard is None:
            return super()._new_conn()
        timeout_s = self.timeout if isinstance(self.timeout, int | float) else None
        try:
            return self._guard.connect(self.host, self.port, timeout_s=timeout_s, options=self.socket_options or ())
        except OSError as error:
            raise exceptions.NewConnectionError(self, str(error)) from error

    def getresponse(self) -> Any:
        response = super().getresponse()
        location = response.headers.get("Location")
        if location and not location.isascii():
            try:
                response.headers["Location"] = location.encode("latin-1").decode("utf-8")
            except UnicodeError:
                return response
        return response


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


@cache  # 30 ms to make
def _certificates() -> ssl.SSLContext:
    """The system's certificates; Python on a Mac may have none of its own, then those that pip's packages brought."""
    context = ssl.create_default_context()
    if not context.get_ca_certs():
        try:
            import certifi
        except ImportError:
            return context
        context.load_verify_locations(certifi.where())
    return context


def _body(url: str, response: urllib3.BaseHTTPResponse, most_bytes: int, until: float) -> bytes:
    announced = response.headers.get("Content-Length", "")
    data = bytearray()
    is_too_large = announced.isdecimal() and int(announced) > most_bytes
    while not is_too_large and (chunk := response.read1(_CHUNK_BYTES)):
        data += chunk
        is_too_large = len(data) > most_bytes
        if time.monotonic() > until:
            raise WebError(url, "takes too long", is_transient=True)
    if is_too_large:
        raise WebError(url, f"is larger than {size(most_bytes)}")
    return bytes(data)


def _proxy_of(url: str) -> str:
    """The URL of the proxy for a URL, empty for none."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme, "")
    if not proxy or (parts.hostname and proxy_bypass(parts.netloc.rpartition("@")[2])):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _credentials(proxy: str) -> dict[str, str]:
    auth = urllib3.util.parse_url(proxy).auth
    return dict(urllib3.make_headers(proxy_basic_auth=unquote(auth))) if auth else {}


def _told(error: object) -> str:
    """The end of what urllib3 says of an error, without the objects and traces that its own text shows."""
    end = str(error).rpartition(": ")[2].strip("'\" ")
    end = end if end.count("(") >= end.count(")") else end.rstrip("'\") ")
    return (end[:1].lower() + end[1:200]) or type(error).__name__
