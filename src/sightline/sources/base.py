"""What a source is, and a path turned into one."""

from collections.abc import Iterator
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


def open_source(location: str | Path) -> Source:
    """The pictures of a folder, or one picture file, by path or file: URI; `SourceError` if it cannot be read."""
    is_uri = isinstance(location, str) and location.startswith("file:")
    return open_path(path_of(str(location)) if is_uri else Path(location))
