"""A table of picture files or URLs into items; its other columns become what is known of each picture."""

import hashlib
import json
import os
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

import numpy as np

from sightline.errors import SourceError, summary
from sightline.sources.delimited import CAPTION_COLUMNS, IMAGE_COLUMNS
from sightline.sources.files import absolute, bytes_in, is_picture, is_skipped, path_of, unreadable_item
from sightline.sources.folder import SingleFile
from sightline.sources.rows import Row, Rows, fields_of, open_rows, text_of
from sightline.sources.web import Downloader, is_url, url_item
from sightline.types import Item, Value

if TYPE_CHECKING:
    from sightline.sources.base import Opening

_Numbered: TypeAlias = tuple[int, Row | SourceError]
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG")


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
    finder: "FileFinder"
    downloader: Downloader
    is_stream: bool = False

    def __iter__(self) -> Iterator[Item]:
        """One item for each picture; a row without one is left out, a row that cannot be read is one that says so."""
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
        return groupby(enumerate(self.rows.read(), 1), lambda numbered: self._key(numbered[1]))

    def _key(self, row: Row | SourceError) -> Any:
        if isinstance(row, SourceError):
            return row
        cell = row.get(self.image_column)
        if isinstance(cell, dict | bytes):
            return object()  # an id is given again to the next row
        return str(cell) if isinstance(cell, list) else cell

    def _apart(self) -> dict[int, int]:
        """By the hash of what names it, how often a picture turns up again further down: 8 bytes for each run of rows.

        Without it such a picture would be indexed once for each place, with the words of only one of them.
        """
        hashes = array("q")
        for key, _ in self._runs():
            if type(key) is object:  # pictures that stand in the table itself: no two rows are one
                return {}
            if key not in (None, ""):
                hashes.append(hash(key))
        found, counts = np.unique(np.array(hashes, np.int64), return_counts=True)
        return dict(zip(found[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True))

    def _items(self, rows: Sequence[_Numbered]) -> Iterator[Item]:
        (number, _), good = rows[0], [row for _, row in rows if not isinstance(row, SourceError)]
        try:
            for _, row in rows:
                if isinstance(row, SourceError):
                    raise row
            cell = good[0].get(self.image_column)
            if cell not in (None, ""):
                yield self._item(number, cell, self._payload(good))
        except (SourceError, ValueError, RecursionError) as error:  # also a NUL in a path, lone surrogates, deep lists
            what = f"{self.rows.name}, row {number}"
            told = error if isinstance(error, SourceError) else SourceError(f"{what} ({summary(error)}): mend it")
            yield unreadable_item(f"{self.root}#{number}", told, name=f"row {number}", folders=[self.root])

    def _item(self, number: int, cell: Any, payload: dict[str, Value]) -> Item:
        uri = f"{self.root}#{number}"
        if isinstance(cell, dict) and cell.get("bytes") is None:
            cell = cell.get("path") or cell
        if isinstance(cell, Remote):
            return self._joined(Item(uri, "", cell.read, {"name": cell.name}, is_slow=True), payload)
        if isinstance(cell, str) and (data := bytes_in(cell.strip())) is not None:
            cell = data
        if isinstance(cell, bytes) or (isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes)):
            data, name = (cell, "") if isinstance(cell, bytes) else (cell["bytes"], str(cell.get("path") or ""))
            stamp = hashlib.sha256(data).hexdigest()[:16]
            return self._joined(Item(uri, stamp, partial(bytes, data), {"name": name or f"row {number}"}), payload)
        if isinstance(cell, dict | list):
            raise SourceError(
                f"{self.rows.name}, row {number} has {str(cell)[:60]!r} in {self.image_column!r}, expected the path, "
                "the URL or the bytes of a picture: mend it"
            )
        text = str(cell).strip()
        if is_url(text):
            return self._joined(url_item(text, self.downloader), payload)
        (item,) = SingleFile(absolute(path_of(text) if text.startswith("file:") else self.finder.path(text)))
        return self._joined(item, payload)

    def _joined(self, item: Item, payload: dict[str, Value]) -> Item:
        """An item with the row's payload, in its stamp too: a changed caption is a change."""
        of_file = dict(item.payload)
        above = of_file.pop("folders", [])
        folders = [*(above if isinstance(above, list) else []), self.root]
        marked = json.dumps(payload, default=str, sort_keys=True, ensure_ascii=False)
        stamp = f"{item.stamp}-{hashlib.sha256(marked.encode('utf-8', 'replace')).hexdigest()[:16]}".lstrip("-")
        return Item(item.uri, stamp, item.read, {**payload, **of_file, "folders": folders}, is_slow=item.is_slow)

    def _payload(self, rows: Sequence[Row]) -> dict[str, Value]:
        """The fields of all the rows of one picture; where they differ, a field has all its values."""
        said = [fields_of(self._renamed(row)) for row in rows]
        payload = dict[str, Value]()
        for name in dict.fromkeys(name for fields in said for name in fields):
            values = [fields[name] for fields in said if name in fields]
            if name == "caption":  # of words, and of a year too
                values = [value if isinstance(value, list) else text_of(value) for value in values]
            different = dict.fromkeys(tuple(value) if isinstance(value, list) else value for value in values)
            payload[name] = values[0] if len(different) == 1 else [text_of(value) for value in different]
        return payload

    def _renamed(self, row: Row) -> Row:
        is_title = (self.caption_column or "").lower() == "title"  # a title is looked into as one
        caption = None if is_title else self.caption_column
        kept = self.rows.columns if self.is_stream else row  # of a data set not its arrays; of JSON what rows add, too
        named = (name for name in row if name in kept and name != self.image_column)
        return {"caption" if name == caption else name: row[name] for name in named}


def open_table(path: Path, opening: "Opening") -> TableSource:
    """The pictures of a table; relative paths in it start from `opening.base`, or else from the table's folder.

    Raises `SourceError` if no column holds pictures.
    """
    return table_of(path.as_uri(), open_rows(path, opening.encoding), opening, base=opening.base or path.parent)


def table_of(root: str, rows: Rows, opening: "Opening", *, base: Path, is_stream: bool = False) -> TableSource:
    """Rows as a source; `opening` names their columns, or their names tell. `SourceError` if none holds pictures."""
    image_column = rows.column(IMAGE_COLUMNS, opening.image, option="--image-column")
    if image_column is None:
        columns = f"the columns {rows.listed}" if any(map(str.strip, rows.columns)) else "no columns with names"
        raise SourceError(
            f"{rows.name} has {columns}, expected one with paths or URLs of pictures: name it with --image-column"
        )
    caption_column = rows.column(CAPTION_COLUMNS, opening.caption, option="--caption-column")
    return TableSource(root, rows, image_column, caption_column, FileFinder(base), opening.downloader, is_stream)


def row_item(path: Path, fragment: str, opening: "Opening") -> Item:
    """One picture whose bytes stand in a table, by the number of its row; `SourceError` if there is none."""
    for item in open_table(path, opening):
        if item.uri.endswith(f"#{fragment}"):
            return item
    raise SourceError(f"{path} has no picture in row {fragment}, expected one: index the table again")


class FileFinder:
    """Finds pictures below a folder: by the path that is written, without its suffix, or by its last name alone.

    Downloads come with `id` 1163 for images/1163.jpg, or with tables that name files of nested folders, with the
    slashes, accents and cases of another system. The folders are looked through once, when the first file is not where
    it is said to be; a name that two files have names neither.
    """

    def __init__(self, base: Path) -> None:
        self._base = base

    def path(self, text: str) -> Path:
        """The file; where nothing is found the path as it is written, so that reading it tells."""
        meant = [text, unquote(text)]
        meant = list(dict.fromkeys([*meant, *(name.replace("\\", "/") for name in meant)]))
        for name in meant:
            path = self._base / Path(name).expanduser()
            suffixes = ("",) if is_picture(path.name) else ("", *_SUFFIXES)
            try:
                for candidate in (path.with_name(path.name + suffix) for suffix in suffixes):
                    if candidate.exists() or candidate.is_symlink():
                        return candidate
            except (OSError, ValueError):
                continue
        return next(filter(None, map(self._alike, meant)), self._base / Path(text).expanduser())

    def _alike(self, name: str) -> Path | None:
        """The one file that is called so, whatever its case and how its accents are written."""
        folded = _folded(name)
        found = self._named.get(folded.rpartition("/")[2], ())
        for is_meant in (
            lambda path: _folded(path.with_suffix("").as_posix()).endswith(f"/{_stem(folded)}"),
            lambda path: path.as_posix().endswith(f"/{name}"),
        ):
            if len(found) > 1:
                found = tuple(filter(is_meant, found)) or found
        return found[0] if len(found) == 1 else None

    @cached_property
    def _named(self) -> dict[str, tuple[Path, ...]]:
        found = dict[str, tuple[Path, ...]]()
        for parent, folders, names in os.walk(self._base):
            folders[:] = sorted(name for name in folders if not is_skipped(name))
            for name in names:
                if is_picture(name) and not name.startswith("."):
                    for called in (_folded(name), _folded(os.path.splitext(name)[0])):  # noqa: PTH122
                        found[called] = (*found.get(called, ()), Path(parent, name))
        return found


def _stem(name: str) -> str:
    return os.path.splitext(name)[0] if is_picture(name) else name  # noqa: PTH122


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
