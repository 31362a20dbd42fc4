"""Expand a pattern such as `shards/{0000..0010}.tar`, and join several sources into one."""

import glob
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from sightline.errors import SourceError
from sightline.sources.files import unreadable_item
from sightline.types import Item

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class _Part(Protocol):
    def __iter__(self) -> Iterator[Item]: ...


@dataclass(frozen=True, slots=True)
class Several:
    """Sources one after the other, as one that is complete: `opened` gives each when its turn has come."""

    root: str
    places: Callable[[], list[Path]]
    opened: Callable[[Path], _Part]

    def __iter__(self) -> Iterator[Item]:
        """The items of all; a part that cannot be opened is an item that says so."""
        for place in self.places():
            try:
                part = self.opened(place)
            except SourceError as error:
                yield unreadable_item(place.as_uri(), error, name=place.name, folders=[self.root])
                continue
            for item in part:
                yield self._under(item)

    def _under(self, item: Item) -> Item:
        folders = item.payload.get("folders", [])
        known = folders if isinstance(folders, list) else []
        return replace(item, payload={**item.payload, "folders": [self.root, *known]})


def is_pattern(text: str) -> bool:
    """Whether a location names several files, unless there is one that is called so."""
    return any(char in text for char in "*?[{") and not Path(text).exists()


def several(pattern: str, opened: Callable[[Path], _Part]) -> Several:
    """The sources that a pattern names; raises `SourceError` if it names none.

    What a range in braces names is expected to be there; of what `*` names, whatever is there is taken.
    """
    absolute = os.path.abspath(Path(pattern).expanduser())  # noqa: PTH100  without "..": one file has one name
    if not expand(absolute):
        raise SourceError(f"{pattern} names no file, expected at least one: check the pattern, and quote it in a shell")
    return Several(f"file://{quote(absolute)}", partial(expand, absolute), opened)


def expand(pattern: str) -> list[Path]:
    """The paths that a pattern names, in its order: {a,b} and {0000..0010} first, then * ? and [...]."""
    paths = list[Path]()
    for text in _without_braces(pattern):
        found = glob.glob(text, recursive=True) if glob.has_magic(text) else [text]  # noqa: PTH207  of absolute ones
        paths += map(Path, sorted(found))
    return list(dict.fromkeys(paths))


def _without_braces(pattern: str) -> Iterator[str]:
    pieces = _BRACES.split(pattern)  # text, what is in braces, text, ...
    choices = [_choices(piece) if number % 2 else [piece] for number, piece in enumerate(pieces)]
    return map("".join, itertools.product(*choices))


def _choices(braced: str) -> list[str]:
    """`0000..0010` counts with that many digits, `a,b` is one or the other, anything else is itself."""
    if match := _RANGE.fullmatch(braced):
        first, last = map(int, match.groups())
        return [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return braced.split(",") if "," in braced else [f"{{{braced}}}"]
