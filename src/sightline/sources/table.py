"""A table of picture files or URLs into items; its other columns become what is known of each picture."""

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sightline.errors import SourceError
from sightline.sources.finding import FileFinder
from sightline.sources.folder import SingleFile, path_of
from sightline.sources.pairs import CAPTION_COLUMNS, IMAGE_COLUMNS, column_of
from sightline.sources.rows import Row, Rows, open_rows
from sightline.sources.values import field_of, text_of, value_of
from sightline.sources.web import Downloader, is_url, url_item
from sightline.text import printable
from sightline.types import Item, Value

_Numbered: TypeAlias = tuple[int, Row]


@dataclass(frozen=True, slots=True)
class Remote:
    """A cell with a picture that is fetched when it is read."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class TableSource:
    """The pictures of a table, in its order. Rows of one picture become one item, where the last of them stands.

    `root` is the URI of the table. Of a stream, which is not walked through twice, only rows that follow each other
    become one.
    """

    root: str
    rows: Rows
    image_column: str
    caption_column: str | None
    finder: FileFinder
    downloader: Downloader
    is_stream: bool = False

    def __iter__(self) -> Iterator[Item]:
        """One item for each picture; a row without a picture is left out."""
        apart = {} if self.is_stream else self._apart()
        waiting = dict[Any, list[_Numbered]]()
        for key, rows in self._runs():
            more = apart.get(hash(key), 0)
            if not more:
                yield from self._items(list(rows))
                continue
            waiting.setdefault(key, []).extend(rows)
            apart[hash(key)] -= 1
            if more == 1:
                yield from self._items(waiting.pop(key))
        for kept in waiting.values():  # only where two names have one hash
            yield from self._items(kept)

    def _runs(self) -> Iterator[tuple[Any, Iterator[_Numbered]]]:
        """Rows of one picture that follow each other, with what names the picture."""
        return groupby(enumerate(self.rows.walk(), 1), lambda numbered: _key(numbered[1].get(self.image_column)))

    def _apart(self) -> dict[int, int]:
        """By the hash of what names it, how often a picture turns up again further down: 8 bytes for each run of rows.

        Without it such a picture would be indexed once for each place, with the words of only one of them.
        """
        hashes = array("q")
        try:
            for key, _ in self._runs():
                if type(key) is object:  # pictures that stand in the table itself: no two rows are one
                    return {}
                if key not in (None, ""):
                    hashes.append(hash(key))
        except SourceError:  # a line that cannot be read: it is told when its turn comes
            return {}
        found, counts = np.unique(np.array(hashes, np.int64), return_counts=True)
        return dict(zip(found[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True))

    def _items(self, rows: list[_Numbered]) -> Iterator[Item]:
        number, first = rows[0]
        cell = first.get(self.image_column)
        if cell not in (None, ""):
            yield self._item(number, cell, self._payload([row for _, row in rows]))

    def _item(self, number: int, cell: Any, payload: dict[str, Value]) -> Item:
        if isinstance(cell, Remote):
            item = Item(f"{self.root}#{number}", "", cell.read, {"name": cell.name}, is_slow=True)
            return self._joined(item, payload)
        if isinstance(cell, dict | bytes):
            return self._embedded(number, cell, payload)
        text = str(cell).strip()
        if is_url(text):
            return self._joined(url_item(text, self.downloader), payload)
        return self._joined(_file(text, self.finder), payload)

    def _embedded(self, number: int, cell: Any, payload: dict[str, Value]) -> Item:
        """A picture whose bytes stand in the table, as data sets in Parquet have them."""
        data = cell if isinstance(cell, bytes) else cell.get("bytes")
        name = "" if isinstance(cell, bytes) else str(cell.get("path") or "")
        if data is None:
            return self._item(number, name, payload)
        uri = f"{self.root}#{number}"
        stamp = hashlib.sha256(data).hexdigest()[:16]
        return self._joined(Item(uri, stamp, partial(bytes, data), {"name": name or f"row {number}"}), payload)

    def _joined(self, item: Item, payload: dict[str, Value]) -> Item:
        """An item with the row's payload, in its stamp too: a changed caption is a change."""
        of_file = dict(item.payload)
        folders = [*_texts(of_file.pop("folders", [])), self.root]
        marked = json.dumps(payload, default=str, sort_keys=True, ensure_ascii=False)
        stamp = f"{item.stamp}-{hashlib.sha256(marked.encode('utf-8', 'replace')).hexdigest()[:16]}".lstrip("-")
        return Item(item.uri, stamp, item.read, {**payload, **of_file, "folders": folders}, is_slow=item.is_slow)

    def _payload(self, rows: list[Row]) -> dict[str, Value]:
        payload = dict[str, Value]()
        for column in self.rows.columns:
            if column == self.image_column:
                continue
            is_caption = column == self.caption_column and column.lower() != "title"  # a title is looked into as one
            name = "caption" if is_caption else field_of(column)
            values = [value for row in rows if (value := value_of(row.get(column))) is not None]
            if name == "caption":  # of words, and of a year too
                values = [value if isinstance(value, list) else text_of(value) for value in values]
            different = list(dict.fromkeys(map(_hashable, values)))
            if not values:
                continue
            payload[name] = values[0] if len(different) == 1 else [text_of(value) for value in different]
        return payload


def open_table(
    path: Path,
    *,
    downloader: Downloader,
    image: str | None = None,
    caption: str | None = None,
    base: Path | None = None,
) -> TableSource:
    """The pictures of a table; relative paths in it start from `base`, or else from the table's folder.

    `image` and `caption` name the columns where their names do not tell. Raises `SourceError` if there is none.
    """
    rows = open_rows(path)
    return table_of(path.as_uri(), rows, downloader=downloader, image=image, caption=caption, base=base or path.parent)


def table_of(
    root: str,
    rows: Rows,
    *,
    downloader: Downloader,
    image: str | None,
    caption: str | None,
    base: Path,
    is_stream: bool = False,
) -> TableSource:
    """Rows as a source; `SourceError` if no column holds pictures."""
    told = printable(str(path_of(root)) if root.startswith("file:") else root)
    image_column = _column(told, rows.columns, image, IMAGE_COLUMNS, "--image-column")
    if image_column is None:
        raise SourceError(
            f"{told} has {_listed(rows.columns)}, expected one with paths or URLs of pictures: name it with "
            "--image-column"
        )
    caption_column = _column(told, rows.columns, caption, CAPTION_COLUMNS, "--caption-column")
    return TableSource(root, rows, image_column, caption_column, FileFinder(base), downloader, is_stream)


def row_item(path: Path, fragment: str, image: str | None = None) -> Item:
    """One picture whose bytes stand in a table, by the number of its row; `SourceError` if there is none."""
    table = open_table(path, downloader=Downloader(), image=image)
    for item in table:
        if item.uri.endswith(f"#{fragment}"):
            return item
    raise SourceError(f"{path} has no picture in row {fragment}, expected one: index the table again")


def _listed(columns: tuple[str, ...]) -> str:
    names = [printable(column) for column in columns if column.strip()]
    return f"the columns {', '.join(names)}" if names else "no columns with names"


def _column(told: str, columns: tuple[str, ...], given: str | None, usual: tuple[str, ...], flag: str) -> str | None:
    if given is not None:
        if given not in columns:
            raise SourceError(f"{told} has no column {given!r}, expected {flag} to be one of {', '.join(columns)}")
        return given
    return column_of(columns, usual)


def _file(text: str, finder: FileFinder) -> Item:
    path = path_of(text) if text.startswith("file:") else finder.path(text)
    (item,) = SingleFile(Path(os.path.abspath(path)))  # noqa: PTH100  the name that a folder gives it, without ".."
    return item


def _key(cell: Any) -> Any:
    return object() if isinstance(cell, dict | bytes) else cell  # an id is given again to the next row


def _texts(value: object) -> list[str]:
    return value if isinstance(value, list) else []


def _hashable(value: Value) -> Any:
    return tuple(value) if isinstance(value, list) else value
