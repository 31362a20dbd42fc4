"""What a source is, and a location turned into one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sightline.sources.folder import open_path, path_of
from sightline.types import Item


class Source(Protocol):
    """Offers pictures, one by one, without reading them.

    Two iterations over the same pictures give the same items in the same order. What cannot be offered (a folder
    without permission, a link to nowhere) is an item too, whose `read` raises: nothing is silently missing.
    """

    @property
    def root(self) -> str:
        """The URI that all items lie under, or that of the only item."""

    def __iter__(self) -> Iterator[Item]:
        """The items, one at a time: a million of them need no more memory than the largest folder's names."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How to open sources. `cache` is the folder that keeps what is fetched from the web, None keeps nothing.

    Of tables, `image` and `caption` name columns, and relative paths start from `base`.
    """

    cache: Path | None = None
    image: str | None = None
    caption: str | None = None
    base: Path | None = None


def open_source(location: str | Path, opening: Opening | None = None) -> Source:
    """The pictures of a folder, of a table of paths or URLs, or one picture, by path, file: URI or URL.

    Raises `SourceError` if it cannot be read, and `ExtraMissing` if its kind needs a package that is not here.
    """
    opening = opening or Opening()
    text = str(location)
    if isinstance(location, str) and text[:8].lower().startswith(("http://", "https://")):
        from sightline.sources.web import Downloader, SingleUrl

        return SingleUrl(text, Downloader(opening.cache))
    path = path_of(text) if isinstance(location, str) and text.startswith("file:") else Path(location)
    from sightline.sources.rows import is_table

    if is_table(path) and path.is_file():
        from sightline.sources.table import open_table
        from sightline.sources.web import Downloader

        downloader = Downloader(opening.cache)
        path = Path(path).absolute()
        return open_table(path, downloader=downloader, image=opening.image, caption=opening.caption, base=opening.base)
    return open_path(path)
