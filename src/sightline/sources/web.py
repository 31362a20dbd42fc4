"""Pictures on the web: the items of URLs, downloaded in many threads at once and kept in a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from sightline.errors import SourceError, WebError
from sightline.files import DiskCache
from sightline.types import Item

if TYPE_CHECKING:
    from sightline.web.client import Answer, HttpClient

_PER_HOST = 8  # connections to one host, so that none is flooded; the others wait
_WHOLE_S = 60.0
_RETRIES = 2
_LARGEST_BYTES = 64 << 20
_CACHE_BYTES = 20 << 30
_NO_PAGE = ("image/", "application/json", "application/pdf", "video/", "audio/")
_SAFE = "/:?#[]@!$&'()*+,;=%~-._"


class Downloader:
    """Fetches pictures, in many threads at once: few from one host, with retries, and kept in the folder `cache`.

    `headers` go with every request, but not on to another host that a redirect names.
    """

    def __init__(self, cache: Path | None = None, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.cache, self._headers = cache, dict(headers)
        self._kept = DiskCache(cache, limit_bytes=_CACHE_BYTES) if cache else None

    def __reduce__(self) -> tuple[type[Downloader], tuple[Path | None, dict[str, str]]]:
        """Travels to other hosts, where it makes connections of its own."""
        return Downloader, (self.cache, self._headers)

    def fetch(self, url: str) -> bytes:
        """The bytes at a URL, from the cache if they are there; `SourceError` with the reason if they cannot be had."""
        data = self.kept(url)
        if data is None:
            data = self._answer(url, "a picture").data
            if self._kept:
                self._kept.put(_name(url), data)
        return data

    def kept(self, url: str) -> bytes | None:
        """The bytes that the cache keeps of a URL, if it does."""
        return self._kept.get(_name(url)) if self._kept else None

    def page(self, url: str) -> str:
        """The text at a URL, never from the cache; `SourceError` if it cannot be had or is no page."""
        answer = self._answer(url, "a page")
        if answer.content_type.startswith(_NO_PAGE):
            kind = answer.content_type.split(";")[0]
            raise SourceError(f"{url} gives {kind}, expected a page: the link leads to something else")
        return answer.data.decode("utf-8", "replace")

    def _answer(self, url: str, expected: str) -> Answer:
        from sightline.web.client import Retries

        retries = Retries(_RETRIES, within_s=_WHOLE_S)
        try:
            return self._client.fetch(url, most_bytes=_LARGEST_BYTES, total_s=_WHOLE_S, retries=retries)
        except WebError as error:
            if error.is_transient:
                advice = "tried again without success, try later"
            elif error.status is not None:
                advice = f"expected {expected}, the link is dead or not for everyone"
            else:
                advice = "check the URL"
            raise SourceError(f"{error}: {advice}") from error

    @cached_property
    def _client(self) -> HttpClient:
        from sightline.web.client import HttpClient  # 50 ms that folders do not need

        headers = {"Accept": "image/*,*/*;q=0.5", **self._headers}
        return HttpClient(headers=headers, private=self._headers, per_host=_PER_HOST)


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


def _name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
