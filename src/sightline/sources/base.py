"""What a source is, a location or a pattern of several turned into one, and a URI into the bytes of its picture."""

import glob
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from sightline.errors import SourceError
from sightline.sources.files import absolute, is_archive, is_table, is_video, path_of, unreadable_item
from sightline.sources.folder import open_path
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
    name columns, relative paths start from `base`, and `encoding` is that of their text; of shards `image` names the
    ending of the pictures, `seg.png`. With `archives` the pictures in the archives of a folder are taken too, and
    without what the patterns of `exclude` match. `headers` (name, value) go with each request for a picture on the web.
    """

    cache: Path | None = None
    image: str | None = None
    caption: str | None = None
    base: Path | None = None
    encoding: str | None = None
    archives: bool = False
    exclude: tuple[str, ...] = ()
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
    if isinstance(location, str) and text.startswith("file:"):
        return Single(item_at(text, opening)) if "#" in text else _local(path_of(text), opening)
    if isinstance(location, str) and "://" in text:
        return _remote(text, opening)
    if any(char in text for char in "*?[{") and not Path(text).exists():  # a file may be called so
        pattern = str(absolute(Path(text).expanduser()))
        if not expand(pattern):
            raise SourceError(
                f"{text} names no file, expected at least one: check the pattern, and quote it in a shell"
            )
        return Several(f"file://{quote(pattern)}", partial(expand, pattern), partial(_local, opening=opening))
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
    path = file_of(uri)
    if path is not None and not ("#" in uri and is_table(path)):
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
    """One picture that lies in something else, or elsewhere."""

    item: Item

    @property
    def root(self) -> str:
        """Its URI."""
        return self.item.uri

    def __iter__(self) -> Iterator[Item]:
        """The one item."""
        yield self.item


@dataclass(frozen=True, slots=True)
class Several:
    """Sources one after the other, as one that is complete: `opened` gives each when its turn has come."""

    root: str
    places: Callable[[], list[Path]]
    opened: Callable[[Path], Source]
    left_out: Counter[str] = field(default_factory=Counter, compare=False)

    def __iter__(self) -> Iterator[Item]:
        """The items of all; a part that cannot be opened is an item that says so."""
        left_out = Counter[str]()
        for place in self.places():
            try:
                part = self.opened(place)
            except SourceError as error:
                yield unreadable_item(place.as_uri(), error, name=place.name, folders=[self.root])
                continue
            for item in part:
                folders = item.payload.get("folders", [])
                known = folders if isinstance(folders, list) else []
                yield replace(item, payload={**item.payload, "folders": [self.root, *known]})
            left_out.update(getattr(part, "left_out", {}))
        self.left_out.clear()
        self.left_out.update(left_out)


def expand(pattern: str) -> list[Path]:
    """The paths that an absolute pattern names, in its order: {a,b} and {0000..0010} first, then * ? and [...].

    What a range in braces names is expected to be there; of what `*` names, whatever is there is taken.
    """
    pieces = re.split(r"\{([^{}]*)\}", pattern)  # text, what is in braces, text, ...
    choices = [_choices(piece) if number % 2 else [piece] for number, piece in enumerate(pieces)]
    paths = list[Path]()
    for text in map("".join, itertools.product(*choices)):
        found = glob.glob(text, recursive=True) if glob.has_magic(text) else [text]  # noqa: PTH207  of absolute ones
        paths += map(Path, sorted(found))
    return list(dict.fromkeys(paths))


def _choices(braced: str) -> list[str]:
    """`0000..0010` counts with that many digits, `a,b` is one or the other, anything else is itself."""
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", braced):
        first, last = map(int, match.groups())
        return [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return braced.split(",") if "," in braced else [f"{{{braced}}}"]


def item_at(uri: str, opening: Opening) -> Item:
    """One picture inside a file, by a URI with a #."""
    whole, _, fragment = uri.partition("#")
    path = path_of(whole)
    if is_archive(path):
        from sightline.sources.archive import member_item

        return member_item(path, fragment)
    if is_video(path):
        from sightline.sources.video import frame_item, time_of

        return frame_item(path, time_of(fragment))
    if is_table(path):
        from sightline.sources.table import row_item

        return row_item(path, fragment, opening)
    raise SourceError(f"{uri} is not a picture, expected a file that holds several: check the URI")


def _remote(url: str, opening: Opening) -> Source:
    if url.startswith("hf://"):
        from sightline.sources.huggingface import open_dataset, row_item

        return Single(row_item(url, opening)) if "#" in url else open_dataset(url, opening)
    from sightline.sources.web import WebFolder, is_url, url_item

    if is_url(url):
        return WebFolder(url, opening.downloader) if url.endswith("/") else Single(url_item(url, opening.downloader))
    from sightline.sources.cloud import open_bucket

    return open_bucket(url)


def _local(path: Path, opening: Opening) -> Source:
    if is_table(path) and path.is_file():
        from sightline.sources.table import open_table, shards_of

        path = absolute(path)
        if shards := shards_of(path, opening):
            return Several(path.as_uri(), lambda: shards, lambda shard: _local(shard, opening))
        return open_table(path, opening)
    if is_archive(path) and not path.is_dir():
        from sightline.sources.archive import open_archive

        return open_archive(absolute(path), opening.image)
    if is_video(path) and not path.is_dir():
        from sightline.sources.video import open_video

        return open_video(absolute(path), opening.cache)
    return open_path(path, with_archives=opening.archives, exclude=opening.exclude)
