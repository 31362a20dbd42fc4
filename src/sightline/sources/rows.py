"""The rows of a table file, one at a time (delimited text, JSON lines or Parquet), and cells as values of a payload."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from sightline.errors import SourceError, needing, summary
from sightline.sources.delimited import is_picture_cell, open_delimited, opened
from sightline.sources.files import unreadable
from sightline.text import printable
from sightline.types import Value

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


def open_rows(path: Path, encoding: str | None = None) -> Rows:
    """The rows of a table; `encoding` is that of a text file, if it is known.

    Raises `SourceError` if it cannot be read, and `ExtraMissing` for Parquet without pyarrow.
    """
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            return _parquet(path)
        if name.endswith((".jsonl", ".ndjson")):
            return _json_lines(path)
        if name.endswith(".json"):
            return _json_document(path)
        table = open_delimited(path, encoding)
    except OSError as error:  # gzip's BadGzipFile is one
        raise unreadable(path, error) from error
    except EOFError as error:
        raise SourceError(f"{path} ends too early, expected the rest of a gzip file: fetch it again") from error

    def read() -> Iterator[Row | SourceError]:
        for cells in table.rows():
            yield cells if isinstance(cells, SourceError) else dict(zip(table.columns, cells, strict=False))

    return Rows(str(path), table.columns, read)


def _json_lines(path: Path) -> Rows:
    def read() -> Iterator[Row | SourceError]:
        with opened(path, "utf-8-sig", "replace") as file:
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
        return _no_object(f"{path}, line {number}", line)
    return row


def _json_document(path: Path) -> Rows:
    """A list of objects, or the captions of COCO (images and annotations) or of Karpathy's splits (sentences)."""
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON ({error}), expected a list of pictures: fetch it again") from error
    rows = document
    if isinstance(document, dict) and isinstance(rows := document.get("images"), list):
        captions = dict[Any, list[Any]]()
        for annotation in document.get("annotations", []):
            if isinstance(annotation, dict) and "caption" in annotation:
                captions.setdefault(annotation.get("image_id"), []).append(annotation["caption"])
        rows = [_captioned(row, captions) if isinstance(row, dict) else row for row in rows]
    elif isinstance(document, dict) and isinstance(rows := document.get("data"), list):
        pass
    elif isinstance(document, dict) and all(is_picture_cell(name) for name in document):
        rows = [{"image": name, "caption": captions} for name, captions in document.items()]
    if not isinstance(rows, list):
        raise SourceError(
            f"{path} holds no list of pictures, expected one of objects, or COCO's images: check the file"
        )
    good = [row for row in rows if isinstance(row, dict)]
    columns = dict.fromkeys(name for row in good[:100] for name in row)

    def read() -> Iterator[Row | SourceError]:
        for number, row in enumerate(rows, 1):
            yield dict(row) if isinstance(row, dict) else _no_object(f"{path}, row {number}", str(row))

    return Rows(str(path), tuple(columns), read)


def _captioned(row: Row, captions: dict[Any, list[Any]]) -> Row:
    said = captions.get(row.get("id"), [])
    for sentence in row.get("sentences") or []:
        said = [*said, sentence.get("raw") if isinstance(sentence, dict) else sentence]
    return {**{name: cell for name, cell in row.items() if name != "sentences"}, **({"caption": said} if said else {})}


def _no_object(what: str, text: str) -> SourceError:
    return SourceError(f"{what} is {printable(text[:40])}, expected a JSON object: mend it")


def _parquet(path: Path) -> Rows:
    with needing(path, "parquet"):
        import pyarrow
        from pyarrow import parquet
    try:
        columns = tuple(parquet.ParquetFile(path).schema_arrow.names)
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path} is not a valid Parquet file ({error}), expected one: fetch it again") from error

    def read() -> Iterator[Row | SourceError]:
        with parquet.ParquetFile(path) as file:
            try:
                for batch in file.iter_batches(_ROWS_AT_ONCE):
                    yield from batch.to_pylist()
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                yield SourceError(f"{path} breaks off ({summary(error)}), expected the rest of it: fetch it again")

    return Rows(str(path), columns, read)


def field_of(column: str) -> str:
    """A column's name as a payload's field: without what filters cannot name, and apart from what pictures tell."""
    name = "".join(c for c in column if c.isprintable() and c not in '"\\').lstrip("$").strip() or "column"
    return f"{name}_given" if name in _OURS else name


def fields_of(row: Row) -> dict[str, Value]:
    """What a row says, as fields of a payload: of a struct each part has a field, `size.width`."""
    fields = dict[str, Value]()
    for column, cell in row.items():
        if isinstance(cell, dict):
            fields |= fields_of({f"{column}.{part}": value for part, value in cell.items()})
        elif (value := value_of(cell)) is not None:
            fields[field_of(column)] = value
    return fields


def value_of(cell: Any) -> Value | None:
    """A cell as a payload's value; None for what says nothing. Text that is written like a number becomes one."""
    match cell:
        case None | "" | [] | {} | bytes():
            return None
        case bool():
            return cell
        case datetime():
            return cell if cell.tzinfo else cell.replace(tzinfo=UTC)
        case date():
            return datetime(cell.year, cell.month, cell.day, tzinfo=UTC)
        case timedelta():
            return cell.total_seconds()
        case int():
            return cell if abs(cell) <= _LARGEST_INTEGER else str(cell)
        case float() | Decimal():
            return float(cell) if math.isfinite(cell) else None
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
    """Valid text: a string as it is, lists, mappings, true, false and null as JSON, anything else as it prints."""
    is_json = isinstance(value, dict | list | tuple | bool | None)
    text = json.dumps(value, default=str, ensure_ascii=False) if is_json else str(value)
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
