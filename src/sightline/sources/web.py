"""A URL into the bytes of its picture, or into the reason why not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from sightline.errors import SourceError
from sightline.sources.connections import Connections, told
from sightline.types import Item

if TYPE_CHECKING:
    import urllib3

_PER_HOST = 8  # connections to one host, so that none is flooded; the others wait
_CONNECT_S, _READ_S, _WHOLE_S = 10.0, 15.0, 60.0
_TRIES = 3
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0
_REDIRECTS = 5
_LARGEST_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 16
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_PICTURE = ("text/", "application/json", "application/pdf", "video/", "audio/")
_SAFE = "/:?#[]@!$&'()*+,;=%~-._"


class Downloader:
    """Fetches pictures, in many threads at once: few from one host, with retries, and kept in the folder `cache`."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache

    def __reduce__(self) -> tuple[type[Downloader], tuple[Path | None]]:
        """Travels to other hosts, where it makes connections of its own."""
        return Downloader, (self.cache,)

    def fetch(self, url: str) -> bytes:
        """The bytes at a URL, from the cache if they are there; `SourceError` with the reason if they cannot be had."""
        data = self.kept(url)
        if data is None:
            data = self._persist(url)
            if self.cache:
                _keep(self.cache / _name(url), data)
        return data

    def kept(self, url: str) -> bytes | None:
        """The bytes that the cache keeps of a URL, if it does."""
        path = self.cache / _name(url) if self.cache else None
        return path.read_bytes() if path and path.is_file() else None

    def page(self, url: str) -> str:
        """The text at a URL, never from the cache; `SourceError` if it cannot be had or is no page."""
        return self._persist(url, ("image/", *_NO_PICTURE[1:])).decode("utf-8", "replace")

    def _persist(self, url: str, refused: tuple[str, ...] = _NO_PICTURE) -> bytes:
        until, pause_s, tries = time.monotonic() + _WHOLE_S, _FIRST_PAUSE_S, 1
        while True:
            try:
                return self._once(url, until, refused)
            except _Passing as error:
                wait_s = min(error.wait_s or pause_s, _LONGEST_PAUSE_S)
                if tries == _TRIES or time.monotonic() + wait_s > until:
                    raise SourceError(f"{url} {error}: expected a picture; tried {tries} times, try later") from error
                time.sleep(wait_s)
                tries, pause_s = tries + 1, 2 * pause_s

    def _once(self, url: str, until: float, refused: tuple[str, ...]) -> bytes:
        from urllib3 import exceptions

        try:
            response = self._connections.get(url)
            try:
                _check(url, response, refused)
                return _body(url, response, until)
            except BaseException:
                response.close()  # what is left of the answer is not worth waiting for
                raise
            finally:
                response.release_conn()  # a closed one too: its place among those of the host is free again
        except (exceptions.TimeoutError, exceptions.ProtocolError, exceptions.IncompleteRead) as error:
            raise _Passing(f"cannot be fetched ({_reason(error)})") from error
        except exceptions.MaxRetryError as error:
            if isinstance(error.reason, exceptions.TimeoutError | exceptions.ProtocolError):
                raise _Passing(f"cannot be fetched ({_reason(error.reason)})") from error
            raise SourceError(f"{url} cannot be fetched ({_reason(error.reason)}): check the URL") from error
        except (exceptions.HTTPError, UnicodeError) as error:
            raise SourceError(f"{url} cannot be fetched ({_reason(error)}): check the URL") from error

    @cached_property
    def _connections(self) -> Connections:
        import urllib3  # 50 ms that folders do not need

        return Connections(
            num_pools=1024,
            maxsize=_PER_HOST,
            block=True,
            headers={"User-Agent": "sightline", "Accept": "image/*,*/*;q=0.5"},
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
            retries=urllib3.Retry(None, connect=0, read=0, status=0, other=0, redirect=_REDIRECTS),
        )


def url_item(url: str, downloader: Downloader) -> Item:
    """A picture on the web; its stamp is always the same, for what lies at a URL is taken to stay."""
    url = normal_url(url)
    name = unquote(urlsplit(url).path.rpartition("/")[2]) or urlsplit(url).netloc
    return Item(url, "web", partial(downloader.fetch, url), {"name": name}, is_slow=True)


def is_url(text: str) -> bool:
    """Whether a location lies on the web."""
    return text[:8].lower().startswith(("http://", "https://"))


def normal_url(url: str) -> str:
    """A URL as it goes over the line: in ASCII, without the fragment, which servers never see."""
    try:
        parts = urlsplit(url.strip())
        host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    except ValueError:  # what is no URL fails when it is fetched
        return quote(url.strip(), safe=_SAFE)
    return urlunsplit((parts.scheme.lower(), host, quote(parts.path, safe=_SAFE), quote(parts.query, safe=_SAFE), ""))


class _Passing(Exception):
    """What another try may mend, after `wait_s` seconds if the server said so."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def _check(url: str, response: urllib3.BaseHTTPResponse, refused: tuple[str, ...]) -> None:
    if response.status in _AGAIN:
        raise _Passing(f"answers {response.status}", _seconds(response.headers.get("Retry-After", "")))
    if response.status != 200:
        raise SourceError(f"{url} answers {response.status}, expected a picture: the link is dead, or not for everyone")
    kind = response.headers.get("Content-Type", "").lower()
    if kind.startswith(refused):
        wanted = "a picture" if refused is _NO_PICTURE else "a page"
        raise SourceError(f"{url} gives {kind.split(';')[0]}, expected {wanted}: the link leads to something else")


def _body(url: str, response: urllib3.BaseHTTPResponse, until: float) -> bytes:
    data = bytearray()
    for chunk in response.stream(_CHUNK_BYTES):
        data += chunk
        if len(data) > _LARGEST_BYTES:
            raise SourceError(
                f"{url} has more than {_LARGEST_BYTES >> 20} MB, expected a picture of less: fetch it apart"
            )
        if time.monotonic() > until:
            raise SourceError(f"{url} took more than {_WHOLE_S:.0f} s, expected an answer by then: try again later")
    return bytes(data)


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0


def _reason(error: BaseException | None) -> str:
    """The error in a few words."""
    from urllib3 import exceptions

    if isinstance(error, exceptions.TimeoutError) and not isinstance(error, exceptions.NewConnectionError):
        return f"no answer within {_READ_S:.0f} s"
    if isinstance(error, exceptions.ProtocolError):
        return "the answer broke off"
    end = told(error)
    return (end[:1].lower() + end[1:200]) or type(error).__name__


def _name(url: str) -> str:
    digest = hashlib.sha256(url.encode()).hexdigest()
    return f"{digest[:2]}/{digest}"


def _keep(path: Path, data: bytes) -> None:
    """Written whole or not at all; a full disk costs the cache and not the picture."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial_name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(partial_name).replace(path)
        except OSError:
            Path(partial_name).unlink(missing_ok=True)
            raise
