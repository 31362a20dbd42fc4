"""Read the rows of a table file one at a time: delimited text, JSON lines or Parquet, packed or not."""

import codecs
import csv
import gzip
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sightline.errors import ExtraMissing, SourceError
from sightline.sources.files import unreadable
from sightline.sources.folder import is_picture
from sightline.text import printable

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
"""The ends of the names of tables, in lower case; text may be packed with gzip (.csv.gz)."""

DELIMITERS = ("\t", ",", ";", "|")
_CHUNK_BYTES = 1 << 20
_LONGEST_CELL = 1 << 24
_ROWS_AT_ONCE = 1024

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """A table: the names of its columns, and a function that walks through its rows from the start."""

    columns: tuple[str, ...]
    walk: Callable[[], Iterator[Row]]


def is_table(path: Path) -> bool:
    """Whether a file is a table, by its name."""
    return path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


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
        raise unreadable(str(path), error) from error
    except EOFError as error:
        raise SourceError(f"{path} ends too early, expected the rest of a gzip file: fetch it again") from error


def _delimited(path: Path) -> Rows:
    encoding = _encoding(path)
    with _opened(path, encoding) as file:
        first = file.readline()
    delimiter = max(DELIMITERS, key=first.count)
    # Tabs are never inside a caption and quotation marks often are; with other delimiters quoting is needed.
    quoting = csv.QUOTE_NONE if delimiter == "\t" and '"' not in first else csv.QUOTE_MINIMAL
    csv.field_size_limit(_LONGEST_CELL)

    def lists() -> Iterator[list[str]]:
        with _opened(path, encoding) as file:
            lines = (line.replace("\0", "") for line in file)
            try:
                if quoting == csv.QUOTE_NONE:
                    yield from csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
                else:
                    yield from csv.reader(lines, delimiter=delimiter)
            except csv.Error as error:
                raise SourceError(
                    f"{path} cannot be read as a table ({error}), expected columns separated by {delimiter!r}: mend it"
                ) from error

    header = next(iter(lists()), [])
    is_headless = any(_is_url(cell) or is_picture(cell.strip()) for cell in header)
    columns = _positions(header) if is_headless else tuple(cell.strip() for cell in header)

    def walk() -> Iterator[Row]:
        rows = lists()
        for row in rows if is_headless else islice(rows, 1, None):
            if any(row):
                yield dict(zip(columns, row, strict=False))

    return Rows(columns, walk)


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
    def walk() -> Iterator[Row]:
        with _opened(path, "utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _json_row(path, number, line)

    columns = dict.fromkeys(name for row in islice(walk(), 100) for name in row)
    return Rows(tuple(columns), walk)


def _json_row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SourceError(
            f"{path}, line {number} is not JSON ({error}), expected one object a line: mend it"
        ) from error
    if not isinstance(row, dict):
        raise SourceError(f"{path}, line {number} is {printable(line[:40])}, expected a JSON object: mend it")
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
        raise SourceError(f"{path} is no Parquet file ({error}), expected one: fetch it again") from error

    def walk() -> Iterator[Row]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                yield from batch.to_pylist()

    return Rows(columns, walk)


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
