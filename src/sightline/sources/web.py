"""Pictures on the web, single ones and those that a server lists, downloaded in many threads and kept in a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from sightline.errors import SourceError, WebError
from sightline.files import DiskCache
from sightline.sources.files import is_picture, unreadable_item
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
                self._kept.put(_key(url), data)
        return data

    def kept(self, url: str) -> bytes | None:
        """The bytes that the cache keeps of a URL, if it does."""
        return self._kept.get(_key(url)) if self._kept else None

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


@dataclass(frozen=True, slots=True)
class WebFolder:
    """All pictures that the pages below a URL link to, in order of their names, each page visited once."""

    url: str
    downloader: Downloader

    @property
    def root(self) -> str:
        """The URL, which ends with a slash."""
        return normal_url(self.url)

    def __iter__(self) -> Iterator[Item]:
        """The items; a page that cannot be had is one that says so."""
        pending, visited = [self.root], set[str]()
        while pending:
            page = pending.pop()
            visited.add(page)
            try:
                links = _links(page, self.downloader.page(page))
            except SourceError as error:
                yield unreadable_item(page, error, name=_name(page), folders=self._above(page))
                continue
            for link in links:
                if is_picture(_name(link)):
                    item = url_item(link, self.downloader)
                    yield replace(item, payload={**item.payload, "folders": [*self._above(page), page]})
            pending += [link for link in reversed(links) if link.endswith("/") and link not in visited]

    def _above(self, page: str) -> list[str]:
        parts = page.removeprefix(self.root).split("/")[:-1]
        return [self.root + "".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts))]


def url_item(url: str, downloader: Downloader) -> Item:
    """A picture on the web; its stamp is always the same, for what lies at a URL is taken to stay."""
    url = normal_url(url)
    return Item(url, "web", partial(downloader.fetch, url), {"name": _name(url)}, is_slow=True)


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


def _links(page: str, text: str) -> list[str]:
    """What the page links to below itself, without what is asked after a ? (orders of the same list)."""
    found = _Links()
    found.feed(text)
    urls = {normal_url(urljoin(page, link)) for link in found.links}
    return sorted(url for url in urls if url.startswith(page) and url != page and not urlsplit(url).query)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _name(url: str) -> str:
    return unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or urlsplit(url).netloc


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
