"""The URL of a picture turned into its bytes, without lending the asker this machine's place in its network."""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httptools

from sightline.server.addresses import Address, is_public, parsed
from sightline.server.problems import Problem, overloaded

_PORTS = {"http": 80, "https": 443}
_MOST_HOPS = 5  # redirects
_MOST_AT_ONCE = 8
_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_ADVICE = "download the picture and send its bytes"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one picture may take, redirects and all, how many bytes it may have, and which addresses are asked."""

    total_s: float = 10.0
    size_bytes: int = 20 * 2**20
    may_reach: Callable[[Address], bool] = is_public


class Fetcher:
    """Fetches a few pictures at once."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._running = limits, 0

    async def fetch(self, url: str) -> bytes:
        """The bytes behind a URL; a `Problem` if it may not be asked, does not answer, or gives too much."""
        if self._running >= _MOST_AT_ONCE:
            raise overloaded(f"{self._running} URLs are fetched already: try again in a moment")
        self._running += 1
        try:
            async with asyncio.timeout(self._limits.total_s):
                return await self._followed(url)
        except TimeoutError as error:
            raise Problem(
                422, f"{_shown(url)} took more than {self._limits.total_s:g} s, expected a quick answer: {_ADVICE}"
            ) from error
        except (OSError, httptools.HttpParserError, ValueError) as error:
            raise Problem(422, f"{_shown(url)} cannot be fetched ({_reason(error)}): {_ADVICE}") from error
        finally:
            self._running -= 1

    async def _followed(self, url: str) -> bytes:
        for _ in range(_MOST_HOPS + 1):
            answer = await self._asked(url)
            if not answer.location:
                return answer.picture(url)
            url = urljoin(url, answer.location)
        raise Problem(422, f"{_shown(url)} was reached after {_MOST_HOPS} redirects and leads on: {_ADVICE}")

    async def _asked(self, url: str) -> "_Answer":
        parts = _checked(url)
        reader, writer = await self._connected(parts)
        try:
            writer.write(_request(parts))
            return await _read(reader, self._limits.size_bytes)
        finally:
            writer.transport.abort()

    async def _connected(self, parts: SplitResult) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = str(parts.hostname), parts.port or _PORTS[parts.scheme]
        secure = ssl.create_default_context() if parts.scheme == "https" else None
        name, problems = host if secure else None, list[OSError]()
        # The checked addresses are asked, not the name again: a second look-up may give others (DNS rebinding).
        for address in await self._addresses(host, port):
            try:
                return await asyncio.open_connection(str(address), port, ssl=secure, server_hostname=name)
            except OSError as error:
                problems.append(error)
        raise problems[0]

    async def _addresses(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, if every one of them may be asked."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Problem(
                422, f"the host {host[:200]!r} is not known, expected one of the Internet: {_ADVICE}"
            ) from error
        addresses = list(dict.fromkeys(parsed(str(place[0])) for *_, place in found))
        if not addresses or not all(map(self._limits.may_reach, addresses)):
            raise Problem(
                403,
                f"the host {host[:200]!r} is not on the open Internet, expected a public address: {_ADVICE}",
            )
        return addresses


class _Answer:
    """What a server says, gathered by the callbacks of httptools' parser."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._parser = limit_bytes, httptools.HttpResponseParser(self)
        self._body, self._head_bytes = bytearray(), 0
        self.location, self.status, self.is_over, self.is_too_large = "", 0, False, False

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)
        self._head_bytes += 0 if self.status else len(data)
        if self._head_bytes > _HEAD_BYTES:
            raise ValueError("its head never ends")

    def picture(self, url: str) -> bytes:
        if self.status != 200:
            raise Problem(422, f"{_shown(url)} answers {self.status}, expected 200 and a picture: {_ADVICE}")
        if self.is_too_large:
            raise Problem(422, f"{_shown(url)} is larger than {self._limit_bytes:,} bytes, the most that is fetched")
        return bytes(self._body)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"location":
            self.location = value.decode("latin-1")
        elif name.lower() == b"content-length" and value.isdigit() and int(value) > self._limit_bytes:
            self.is_too_large = True

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status not in (301, 302, 303, 307, 308):
            self.location = ""
        self.is_over = self.status >= 300 or self.is_too_large

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._limit_bytes:
            self.is_too_large = self.is_over = True

    def on_message_complete(self) -> None:
        self.is_over = self.status >= 200


async def _read(reader: asyncio.StreamReader, limit_bytes: int) -> _Answer:
    answer = _Answer(limit_bytes)
    while not answer.is_over:
        data = await reader.read(_CHUNK_BYTES)
        if not data:
            break  # an answer without a length ends so; a picture that was cut off does not decode
        answer.feed(data)
    if not answer.status:
        raise ValueError("it hung up without an answer")
    return answer


def _checked(url: str) -> SplitResult:
    """The parts of a URL of the web."""
    parts = urlsplit(url)
    with suppress(ValueError):
        if parts.scheme in _PORTS and parts.hostname and not parts.username and parts.port != 0:
            return parts
    raise Problem(422, f"the URL is {_shown(url)!r}, expected http:// or https://, a host, and no password")


def _request(parts: SplitResult) -> bytes:
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{_plain(parts.query)}" if parts.query else "")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    name = host.encode("idna").decode() if not host.isascii() else host
    port = f":{parts.port}" if parts.port else ""
    head = f"GET {path} HTTP/1.1\r\nHost: {name}{port}\r\nUser-Agent: sightline\r\nAccept: image/*\r\n"
    return f"{head}Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode("ascii")


def _plain(query: str) -> str:
    return quote(query, safe="/%:@!$&'()*+,;=~?[]")


def _shown(url: str) -> str:
    """A URL without its query, which may hold a secret that a redirect added."""
    return re.sub(r"[?#].*", "", url, flags=re.DOTALL)[:200]


def _reason(error: Exception) -> str:
    return type(error).__name__ if isinstance(error, ssl.SSLError) else str(error)[:200] or type(error).__name__
