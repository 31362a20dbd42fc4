"""A table of picture files or URLs into items; its other columns become what is known of each picture."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sightline.errors import SourceError
from sightline.sources.folder import SingleFile, path_of
from sightline.sources.rows import Row, Rows, open_rows
from sightline.sources.web import Downloader, is_url, url_item
from sightline.types import Item, Value

IMAGE_COLUMNS = (
    *("image", "image_url", "image_path", "url", "picture", "photo", "img", "image_name", "file_name", "filename"),
    *("path", "file", "link", "jpg"),
)
"""Names of the column that holds the picture, the likeliest first; case does not matter."""

CAPTION_COLUMNS = ("caption", "captions", "comment", "text", "alt_text", "description")
"""Names of the column that is taken for the caption, the likeliest first."""

_OURS = ("folders", "stamp", "sha256", "width", "height", "size_bytes", "modified", "taken", "camera", "name")
_LARGEST_INTEGER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Table:
    """The pictures of a table, in its order. Rows of one picture that follow each other become one item."""

    path: Path
    rows: Rows
    image_column: str
    caption_column: str | None
    base: Path
    downloader: Downloader

    @property
    def root(self) -> str:
        """The URI of the table."""
        return self.path.as_uri()

    def __iter__(self) -> Iterator[Item]:
        """One item for each picture; a row without a picture is left out."""
        for _, rows in groupby(enumerate(self.rows.walk(), 1), lambda numbered: _key(numbered[1][self.image_column])):
            (number, first), *others = rows
            cell = first[self.image_column]
            if cell not in (None, ""):
                yield self._item(number, cell, self._payload([first, *(row for _, row in others)]))

    def _item(self, number: int, cell: Any, payload: dict[str, Value]) -> Item:
        if isinstance(cell, dict | bytes):
            return self._embedded(number, cell, payload)
        text = str(cell).strip()
        if is_url(text):
            return self._joined(url_item(text, self.downloader), payload)
        return self._joined(_file(text, self.base), payload)

    def _embedded(self, number: int, cell: Any, payload: dict[str, Value]) -> Item:
        """A picture whose bytes stand in the table, as data sets in Parquet have them."""
        data = cell if isinstance(cell, bytes) else cell.get("bytes")
        name = "" if isinstance(cell, bytes) else str(cell.get("path") or "")
        if data is None:
            return self._item(number, name, payload)
        uri = f"{self.root}#{quote(name) if name else number}"
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
            values = [value for row in rows if (value := _value(row.get(column))) is not None]
            different = list(dict.fromkeys(map(_hashable, values)))
            if not values:
                continue
            name = "caption" if column == self.caption_column else _field(column)
            payload[name] = values[0] if len(different) == 1 else [_text(value) for value in different]
        return payload


def open_table(
    path: Path,
    *,
    downloader: Downloader,
    image: str | None = None,
    caption: str | None = None,
    base: Path | None = None,
) -> Table:
    """The pictures of a table; relative paths in it start from `base`, or else from the table's folder.

    `image` and `caption` name the columns where their names do not tell. Raises `SourceError` if there is none.
    """
    rows = open_rows(path)
    image_column = _column(path, rows.columns, image, IMAGE_COLUMNS, "--image-column")
    if image_column is None:
        raise SourceError(
            f"{path} has the columns {', '.join(rows.columns) or '(none)'}, expected one with paths or URLs "
            "of pictures: name it with --image-column"
        )
    caption_column = _column(path, rows.columns, caption, CAPTION_COLUMNS, "--caption-column")
    return Table(path, rows, image_column, caption_column, base or path.parent, downloader)


def _column(path: Path, columns: tuple[str, ...], given: str | None, usual: tuple[str, ...], flag: str) -> str | None:
    if given is not None:
        if given not in columns:
            raise SourceError(f"{path} has no column {given!r}, expected {flag} to be one of {', '.join(columns)}")
        return given
    by_name = {column.lower().replace(" ", "_"): column for column in columns}
    return next((by_name[name] for name in usual if name in by_name), None)


def _file(text: str, base: Path) -> Item:
    path = path_of(text) if text.startswith("file:") else base / Path(text).expanduser()
    (item,) = SingleFile(path)
    return item


def _key(cell: Any) -> Any:
    return id(cell) if isinstance(cell, dict | bytes) else cell


def _field(column: str) -> str:
    """A column's name as a payload's field: without what filters cannot name, and apart from what pictures tell."""
    name = "".join(c for c in column if c.isprintable() and c not in '"\\').lstrip("$").strip() or "column"
    return f"{name}_given" if name in _OURS else name


def _value(cell: Any) -> Value | None:
    """A cell as a payload's value; None for what says nothing. Text that is written like a number becomes one."""
    match cell:
        case None | "" | [] | {}:
            return None
        case bool() | datetime():
            return cell if isinstance(cell, bool) or cell.tzinfo else cell.replace(tzinfo=UTC)
        case int():
            return cell if abs(cell) <= _LARGEST_INTEGER else str(cell)
        case float():
            return cell if math.isfinite(cell) else None
        case list() | tuple():
            return [_text(element) for element in cell]
        case str():
            return _read(cell.strip())
    return _text(cell)


def _read(text: str) -> Value | None:
    """`007` and `1e5` stay text: what does not print as it was read is a code, not a number."""
    if not text:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if str(number) == text and abs(number) <= _LARGEST_INTEGER:
            return number
    return _text(text)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _texts(value: object) -> list[str]:
    return value if isinstance(value, list) else []


def _hashable(value: Value) -> Any:
    return tuple(value) if isinstance(value, list) else value
