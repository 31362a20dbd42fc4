"""Pictures fetched by URL for whoever asks, with SSRF protection: from public addresses alone, within limits."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from sightline.errors import AddressRefused, WebError
from sightline.server.problems import Problem, overloaded
from sightline.sources.web import normal_url
from sightline.web.addresses import Address, AddressGuard, is_public

_MOST_AT_ONCE = 8
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
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE, "sightline-urls")

    async def fetch(self, url: str) -> bytes:
        """The bytes behind a URL; a `Problem` if it may not be asked, does not answer, or gives too much."""
        _check(url)
        if self._running >= _MOST_AT_ONCE:
            raise overloaded(f"{self._running} URLs are fetched already: try again in a moment")
        guard = AddressGuard(self._limits.may_reach)
        job = asyncio.get_running_loop().run_in_executor(self._threads, self._get, normal_url(url), guard)
        self._running += 1
        job.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(self._limits.total_s):
                return await asyncio.shield(job)
        except TimeoutError as error:
            raise Problem(422, f"{_shown(url)} takes more than {self._limits.total_s:g} s: {_ADVICE}") from error
        except AddressRefused as error:
            raise Problem(403, f"{_shown(url)} {error.reason}: {_ADVICE}") from error
        except WebError as error:
            raise Problem(422, f"{_shown(url)} {error.reason}: {_ADVICE}") from error
        finally:
            guard.abort()  # the thread ends soon, whatever the server does

    def _get(self, url: str, guard: AddressGuard) -> bytes:
        from sightline.web.client import HttpClient

        client = HttpClient(headers={"Accept": "image/*"}, read_s=self._limits.total_s, guard=guard)
        try:
            return client.fetch(url, most_bytes=self._limits.size_bytes).data
        finally:
            client.close()

    def _ended(self, job: "asyncio.Future[bytes]") -> None:
        self._running -= 1
        if not job.cancelled():
            job.exception()  # seen, also where nobody waits any more


def _check(url: str) -> None:
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0:
            return
    raise Problem(422, f"the URL is {_shown(url)!r}, expected http:// or https://, a host, and no password")


def _shown(url: str) -> str:
    """A URL without its query, which may hold a secret."""
    return re.sub(r"[?#].*", "", url, flags=re.DOTALL)[:200]
