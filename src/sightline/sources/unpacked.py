"""A source: a folder with archives in it, as downloads from data set sites come."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.sources.archive import Archive, archives_below
from sightline.sources.folder import Folder
from sightline.types import Item


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The pictures of a folder, then those of each archive in it; nothing is written to the disk."""

    folder: Folder

    @property
    def root(self) -> str:
        """The URI of the folder."""
        return self.folder.root

    def __iter__(self) -> Iterator[Item]:
        """The items, archives in order of their names."""
        yield from self.folder
        for path in archives_below(self.folder.path):
            yield from Archive(path, self._above(path))

    def _above(self, path: Path) -> tuple[str, ...]:
        return tuple(parent.as_uri() for parent in (*reversed(path.parents),))
