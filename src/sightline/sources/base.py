"""What a source is, a location turned into one, and a URI into the bytes of its picture."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sightline.errors import SourceError
from sightline.sources.folder import Folder, open_path, path_of
from sightline.types import Item

if TYPE_CHECKING:
    from sightline.sources.web import Downloader


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


@dataclass(frozen=True)
class Opening:
    """How to open sources, all those of a run alike.

    `cache` is the folder that keeps what is fetched from the web, None keeps nothing. Of tables, `image` and `caption`
    name columns, and relative paths start from `base`. With `archives` the pictures in the archives of a folder are
    taken too. `headers` (name, value) go with each request for a picture on the web.
    """

    cache: Path | None = None
    image: str | None = None
    caption: str | None = None
    base: Path | None = None
    archives: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @cached_property
    def downloader(self) -> "Downloader":
        """What fetches for all these sources together, so that no host is asked by too many at once."""
        from sightline.sources.web import Downloader

        return Downloader(self.cache, dict(self.headers))


def open_source(location: str | Path, opening: Opening | None = None) -> Source:
    """The pictures of a folder, a table, an archive or a video, or one picture, by path, pattern, URI or URL.

    Raises `SourceError` if it cannot be read, and `ExtraMissing` if its kind needs a package that is not here.
    """
    opening = opening or Opening()
    text = str(location)
    if isinstance(location, str) and "://" in text and not text.startswith("file:"):
        return _remote(text, opening)
    if isinstance(location, str) and text.startswith("file:") and "#" in text:
        return Single(item_at(text, opening))
    if isinstance(location, str) and text.startswith("file:"):
        return _local(path_of(text), opening)
    from sightline.sources import patterns

    if patterns.is_pattern(text):
        return patterns.several(text, lambda part: _local(part, opening))
    return _local(Path(location), opening)


def read_uri(uri: str, opening: Opening | None = None) -> bytes:
    """The bytes of one picture, as an index names it: a file, a picture in an archive, a table or a video, or a URL.

    Raises `SourceError` if it cannot be had. Whether it may be shown is for the caller to say, by `file_of`.
    """
    (item,) = open_source(uri, opening)
    return item.read()


def read_here(uri: str, cache: Path | None = None) -> bytes:
    """The bytes of a picture that can be had at once and without a network: a file, or one in an archive or a video.

    Of the web only what the folder `cache` keeps; of tables nothing, for a row is found by reading all before it.
    Raises `SourceError` for all others, and what is gone.
    """
    from sightline.sources import rows

    path = file_of(uri)
    if path is not None and not ("#" in uri and rows.is_table(path)):
        return read_uri(uri)
    kept = Opening(cache).downloader.kept(uri) if cache and uri.startswith(("http://", "https://")) else None
    if kept is None:
        raise SourceError(f"{uri} does not lie here, expected a file on this machine: fetch it first")
    return kept


def file_of(uri: str) -> Path | None:
    """The file on this machine that holds the picture of a URI; None if it lies elsewhere."""
    return path_of(uri.partition("#")[0]) if uri.startswith("file:///") else None


@dataclass(frozen=True, slots=True)
class Single:
    """One picture that lies in something else."""

    item: Item

    @property
    def root(self) -> str:
        """Its URI."""
        return self.item.uri

    def __iter__(self) -> Iterator[Item]:
        """The one item."""
        yield self.item


def item_at(uri: str, opening: Opening) -> Item:
    """One picture inside a file, by a URI with a #."""
    whole, _, fragment = uri.partition("#")
    path = path_of(whole)
    from sightline.sources import archive, rows, video

    if archive.is_archive(path):
        return archive.member_item(path, fragment)
    if video.is_video(path):
        return video.frame_item(path, video.time_of(fragment))
    if rows.is_table(path):
        from sightline.sources.table import row_item

        return row_item(path, fragment, opening.image)
    raise SourceError(f"{uri} is no picture, expected a file that holds several: check the URI")


def _remote(url: str, opening: Opening) -> Source:
    from sightline.sources.web import is_url, url_item

    if url.startswith("hf://"):
        from sightline.sources.huggingface import open_dataset, row_item

        read = row_item if "#" in url else open_dataset
        found = read(url, downloader=opening.downloader, image=opening.image, caption=opening.caption)
        return Single(found) if isinstance(found, Item) else found
    if is_url(url):
        if url.endswith("/"):
            from sightline.sources.webfolder import WebFolder

            return WebFolder(url, opening.downloader)
        return Single(url_item(url, opening.downloader))
    from sightline.sources.cloud import open_bucket

    return open_bucket(url)


def _local(path: Path, opening: Opening) -> Source:
    from sightline.sources import archive, rows, video

    whole = Path(os.path.abspath(path))  # noqa: PTH100  without "..": one file has one name
    if rows.is_table(path) and path.is_file():
        from sightline.sources.table import open_table

        return open_table(
            whole,
            downloader=opening.downloader,
            image=opening.image,
            caption=opening.caption,
            base=opening.base,
        )
    if archive.is_archive(path) and not path.is_dir():
        return archive.open_archive(whole)
    if video.is_video(path) and not path.is_dir():
        return video.open_video(whole, opening.cache)
    source = open_path(path)
    if opening.archives and isinstance(source, Folder):
        from sightline.sources.unpacked import Unpacked

        return Unpacked(source)
    return source
