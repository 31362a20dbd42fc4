"""A source: a folder on a web server that lists its files as links."""

from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

from sightline.errors import SourceError
from sightline.sources.files import unreadable_item
from sightline.sources.folder import is_picture
from sightline.sources.web import Downloader, normal_url, url_item
from sightline.types import Item


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
                    payload = {**item.payload, "folders": [*self._above(page), page]}
                    yield Item(item.uri, item.stamp, item.read, payload, is_slow=True)
            pending += [link for link in reversed(links) if link.endswith("/") and link not in visited]

    def _above(self, page: str) -> list[str]:
        parts = page.removeprefix(self.root).split("/")[:-1]
        return [self.root + "".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts))]


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
