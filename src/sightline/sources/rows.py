"""The rows of a table file, one at a time (delimited text, JSON lines or Parquet), and cells as values of a payload."""

import codecs
import csv
import gzip
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

from sightline.errors import ExtraMissing, SourceError
from sightline.sources.files import is_picture, unreadable
from sightline.text import printable
from sightline.types import Value

IMAGE_COLUMNS = (
    *("image", "image_url", "image_path", "url", "picture", "photo", "img", "image_name", "file_name", "filename"),
    *("path", "file", "filepath", "link", "jpg"),
)
"""Names of the column that holds the picture, the likeliest first; case does not matter."""

CAPTION_COLUMNS = ("caption", "captions", "comment", "text", "alt_text", "description", "title")
"""Names of the column that is taken for the caption, the likeliest first."""

DELIMITERS = ("\t", ",", ";", "|")
_CHUNK_BYTES = 1 << 20
_LONGEST_CELL = 1 << 24
_ROWS_AT_ONCE = 1024
_OURS = ("folders", "stamp", "sha256", "width", "height", "size_bytes", "modified", "taken", "camera", "name")
_LARGEST_INTEGER = 2**53 - 1

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """A table: what messages call it, the names of its columns, and a function that reads its rows from the start.

    A row that cannot be read is an error in its place.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[], Iterator[Row | SourceError]]

    def walk(self) -> Iterator[Row]:
        """The rows; raises the `SourceError` of one that cannot be read."""
        for row in self.read():
            if isinstance(row, SourceError):
                raise row
            yield row

    def of_split(self, split: str | None, column: str = "split") -> Iterator[Row]:
        """The rows of one split, or all without one; raises `SourceError` if there is no such split."""
        if not split:
            yield from self.walk()
            return
        name = self.column((column.lower(),))
        if name is None:
            raise SourceError(f"{self.name} has no column {column} (it has {self.listed}): leave the split out")
        found = set[str]()
        for row in self.walk():
            found.add(str(row.get(name) or ""))
            if row.get(name) == split:
                yield row
        if split not in found:
            raise SourceError(f"{self.name} has no split {split!r}, expected one of {', '.join(sorted(found))}")

    def column(self, usual: Sequence[str], given: str | None = None, *, option: str = "") -> str | None:
        """The column `given`, or else the one with one of the usual names, if there is one.

        Raises `SourceError` if the table has no column `given`, which `option` names.
        """
        if given is None:
            by_name = {column.strip().lower().replace(" ", "_"): column for column in self.columns}
            return next((by_name[name] for name in usual if name in by_name), None)
        if given not in self.columns:
            raise SourceError(f"{self.name} has no column {given!r}, expected {option} to be one of {self.listed}")
        return given

    @property
    def listed(self) -> str:
        """The names of the columns, for a message."""
        return ", ".join(printable(column) for column in self.columns if column.strip()) or "(none)"


def open_rows(path: Path) -> Rows:
    """The rows of a table; raises `SourceError` if it cannot be read and `ExtraMissing` for Parquet without pyarrow.

    Delimiter and encoding are read off the file: UTF-8, UTF-16 with its mark, else Windows-1252, which old spreadsheets
    write. A first line with a URL or the name of a picture in it is no header: its columns are then called url or
    image, caption, column3 and so on.
    """
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            return _parquet(path)
        return _json_lines(path) if name.endswith((".jsonl", ".ndjson")) else _delimited(path)
    except OSError as error:  # gzip's BadGzipFile is one
        raise unreadable(path, error) from error
    except EOFError as error:
        raise SourceError(f"{path} ends too early, expected the rest of a gzip file: fetch it again") from error


def _delimited(path: Path) -> Rows:
    encoding = _encoding(path)
    with _opened(path, encoding) as file:
        first = file.readline()
    delimiter = max(DELIMITERS, key=first.count)
    # Tabs are never inside a caption and quotation marks often are; with other delimiters quoting is needed.
    is_plain = delimiter == "\t" and '"' not in first
    csv.field_size_limit(_LONGEST_CELL)

    def lists() -> Iterator[list[str]]:
        with _opened(path, encoding) as file:
            lines = (line.replace("\0", "") for line in file)
            try:
                yield from csv.reader(
                    lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if is_plain else csv.QUOTE_MINIMAL
                )
            except csv.Error as error:
                raise SourceError(
                    f"{path} cannot be read as a table ({error}), expected columns separated by {delimiter!r}: mend it"
                ) from error

    header = next(lists(), [])
    is_headless = any(_is_url(cell) or is_picture(cell.strip()) for cell in header)
    columns = _positions(header) if is_headless else tuple(cell.strip() for cell in header)

    def read() -> Iterator[Row]:
        for row in islice(lists(), 0 if is_headless else 1, None):
            if any(row):
                yield dict(zip(columns, row, strict=False))

    return Rows(str(path), columns, read)


def _positions(first: list[str]) -> tuple[str, ...]:
    """Names for the columns of a table without a header."""
    names, is_captioned = list[str](), False
    for number, cell in enumerate(first, 1):
        if (_is_url(cell) or is_picture(cell.strip())) and "url" not in names and "image" not in names:
            names.append("url" if _is_url(cell) else "image")
        elif not is_captioned and not cell.replace(".", "").isdecimal():
            is_captioned = True
            names.append("caption")
        else:
            names.append(f"column{number}")
    return tuple(names)


def _is_url(cell: str) -> bool:
    return cell.strip().lower().startswith(("http://", "https://"))


def _json_lines(path: Path) -> Rows:
    def read() -> Iterator[Row | SourceError]:
        with _opened(path, "utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _json_row(path, number, line)

    good = (row for row in read() if isinstance(row, dict))
    columns = dict.fromkeys(name for row in islice(good, 100) for name in row)
    return Rows(str(path), tuple(columns), read)


def _json_row(path: Path, number: int, line: str) -> Row | SourceError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return SourceError(f"{path}, line {number} is not JSON ({error}), expected one object a line: mend it")
    if not isinstance(row, dict):
        return SourceError(f"{path}, line {number} is {printable(line[:40])}, expected a JSON object: mend it")
    return row


def _parquet(path: Path) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ExtraMissing(
            f"{path} needs 'pyarrow', which is not installed: pip install 'sightline[parquet]'"
        ) from error
    try:
        columns = tuple(parquet.ParquetFile(path).schema_arrow.names)
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path} is not a valid Parquet file ({error}), expected one: fetch it again") from error

    def read() -> Iterator[Row]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                yield from batch.to_pylist()

    return Rows(str(path), columns, read)


def _opened(path: Path, encoding: str) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding=encoding, errors="replace", newline="")
    return path.open(encoding=encoding, errors="replace", newline="")


def _encoding(path: Path) -> str:
    """From one pass over the bytes, with constant memory."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        file.seek(0, os.SEEK_SET)
        try:
            while data := file.read(_CHUNK_BYTES):
                decoder.decode(data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig"


def field_of(column: str) -> str:
    """A column's name as a payload's field: without what filters cannot name, and apart from what pictures tell."""
    name = "".join(c for c in column if c.isprintable() and c not in '"\\').lstrip("$").strip() or "column"
    return f"{name}_given" if name in _OURS else name


def value_of(cell: Any) -> Value | None:
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
            return [text_of(element) for element in cell]
        case str():
            return _read_text(cell.strip())
    return text_of(cell)


def _read_text(text: str) -> Value | None:
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
    return text_of(text)


def text_of(value: object) -> str:
    """Valid text: a string as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
