"""Delimited text as people write it: its encoding, what separates its cells, its header, quotes and comments."""

import codecs
import csv
import gzip
import logging
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TypeAlias

from sightline.errors import SourceError, UsageError
from sightline.sources.files import is_picture
from sightline.text import printable

IMAGE_COLUMNS = (
    *("image", "image_url", "image_path", "url", "picture", "photo", "img", "image_name", "file_name", "filename"),
    *("path", "file", "filepath", "link", "jpg"),
)
"""Names of the column that holds the picture, the likeliest first; case does not matter."""

CAPTION_COLUMNS = ("caption", "captions", "comment", "text", "alt_text", "description", "title")
"""Names of the column that is taken for the caption, the likeliest first."""

DELIMITERS = ("\t", ",", ";", "|")
_ONE_COLUMN = "\x1f"  # stands for none
_SAMPLE_LINES, _SAMPLE_CHARS = 200, 1 << 20
_LONGEST_CELL = 1 << 24
_LONGEST_RECORD = 1000  # lines: an open quote that goes on for longer was never meant as one
_CHUNK_BYTES = 1 << 20
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NUMBERED = re.compile(r"#\d+$")  # Flickr8k.token.txt: name.jpg#0
_LETTERS = "A-Za-zÀ-ÖØ-öø-ÿŠŽŒšžœŸ"
_SYMBOLS = "¡-¦¨¬®-¶¸-¿×÷ƒ†‡ˆ‰‹›€‚„˜™"
# What text in another encoding looks like when it is read as Windows-1252: symbols within words or in a row, capitals
# behind small letters, and accented letters in a row.
_ODD = re.compile(
    f"(?<=[{_LETTERS}])[{_SYMBOLS}](?=[{_LETTERS}])|[{_SYMBOLS}]{{2}}|[¢-ª¬-¯±-¶¸-º¼-¾](?=[À-ÿ])|[¹²³](?=[a-z])|\ufffd"
    "|(?<=[a-zß-öø-ÿ])[À-ÖØ-ÞŠŽŒŸ]|[À-ÖØ-öø-ÿŠŽŒšžœŸ]{3}"
)
_log = logging.getLogger(__name__)

Cells: TypeAlias = list[str]


@dataclass(frozen=True, slots=True)
class Delimited:
    """A text file with a row a line. `skipped` lines come before the first row, which may be the header."""

    path: Path
    encoding: str
    is_given: bool
    delimiter: str
    has_quotes: bool
    skipped: int
    columns: tuple[str, ...]
    is_headless: bool

    def rows(self) -> Iterator[Cells | SourceError]:
        """The cells of each row but the header; of a row with more of them than there are columns an error."""
        number, width = 0, len(self.columns)
        for cells in islice(self._records(), 0 if self.is_headless else 1, None):
            if not any(cells) or (len(cells) == 1 and _is_comment(cells[0], width)):
                continue
            number += 1
            while len(cells) > width and not cells[-1].strip():
                cells.pop()
            if len(cells) > width:
                yield self._joined(cells) or SourceError(
                    f"{printable(str(self.path))}, row {number} has {len(cells)} cells, expected {width} "
                    f"({', '.join(map(printable, self.columns))}): put what has {self.delimiter!r} in it into quotes"
                )
            elif self.is_headless:
                yield [_NUMBERED.sub("", cell) if "#" in cell and is_picture_cell(cell) else cell for cell in cells]
            else:
                yield cells

    def _joined(self, cells: Cells) -> Cells | None:
        """A picture and a caption with separators in it, where there are only these two columns."""
        if len(self.columns) != 2:
            return None
        first, second = (column.lower() in IMAGE_COLUMNS for column in self.columns)
        if first and is_picture(cells[0].strip()):
            return [cells[0], self.delimiter.join(cells[1:]).lstrip(" ")]
        return [self.delimiter.join(cells[:-1]), cells[-1]] if second and is_picture(cells[-1].strip()) else None

    def _records(self) -> Iterator[Cells]:
        """All rows; a quote that does not fit is a mark like any other, and swallows no lines."""
        try:
            with opened(self.path, self.encoding, "strict" if self.is_given else "replace") as file:
                lines = (line.replace("\0", "") if "\0" in line else line for line in islice(file, self.skipped, None))
                yield from self._quoted(lines) if self.has_quotes else (split(line, self.delimiter) for line in lines)
        except UnicodeDecodeError as error:
            what = f"{printable(str(self.path))} is not in {self.encoding} ({error})"
            raise SourceError(f"{what}: name another --encoding") from error

    def _quoted(self, lines: Iterator[str]) -> Iterator[Cells]:
        again, taken = deque[str](), list[str]()

        def feed() -> Iterator[str]:
            while line := again.popleft() if again else next(lines, ""):
                if len(taken) >= _LONGEST_RECORD:
                    again.appendleft(line)
                    return
                taken.append(line)
                yield line

        reader = csv.reader(feed(), delimiter=self.delimiter, skipinitialspace=True, strict=True)
        while True:
            taken.clear()
            try:
                cells = next(reader, None)
            except csv.Error:
                cells = []
            if not taken:
                return
            if not cells or (len(taken) > 1 and (len(cells) != len(self.columns) or self._are_rows(taken[1:]))):
                again.extendleft(reversed(taken[1:]))
                reader = csv.reader(feed(), delimiter=self.delimiter, skipinitialspace=True, strict=True)
                plain = [cell.lstrip(" ") for cell in split(taken[0], self.delimiter)]
                loose = next(csv.reader(taken[:1], delimiter=self.delimiter, skipinitialspace=True))
                is_plain = len(plain) == len(self.columns) or len(loose) != len(self.columns)
                cells = plain if is_plain else loose
            elif len(cells) > len(self.columns) and '"' not in taken[0]:
                cells = split(taken[0], self.delimiter)  # with the blanks behind separators
            yield cells

    def _are_rows(self, lines: Sequence[str]) -> bool:
        """Whether the lines that a quote seems to span are rows of their own."""
        rows = [cells for line in lines if len(cells := split(line, self.delimiter)) == len(self.columns) > 1]
        has_picture = any(is_picture_cell(cell) for cells in rows for cell in cells)
        return has_picture or len(rows) == len(lines) > 1


def open_delimited(path: Path, encoding: str | None = None) -> Delimited:
    """How a file is to be read, from its first 200 lines. Raises `SourceError` for an encoding that cannot be told.

    A first line with a URL or the name of a picture in it is no header: its columns are then called url or image,
    caption, column3 and so on.
    """
    csv.field_size_limit(_LONGEST_CELL)
    used = encoding or encoding_of(path)
    try:
        with opened(path, used, "replace") as file:
            lines = list(islice(file, _SAMPLE_LINES))
    except LookupError as error:
        raise UsageError(f"{encoding!r} is no encoding, expected one such as cp1251, gb18030 or shift_jis") from error
    while sum(map(len, lines)) > _SAMPLE_CHARS and len(lines) > 2:
        lines.pop()
    skipped, delimiter = 0, ""
    if lines and (match := re.fullmatch(r'"?sep=(.)"?\s*', lines[0].lstrip("\ufeff"), re.IGNORECASE | re.DOTALL)):
        skipped, delimiter = 1, match[1]
    while skipped < len(lines) and _is_leading_comment(lines[skipped]):
        skipped += 1
    sample = [line.replace("\0", "") for line in lines[skipped:]]
    delimiter = delimiter or _delimiter(sample)
    plain, quoted = [split(line, delimiter) for line in sample], _parsed(sample, delimiter)
    is_one_width = len({len(cells) for cells in plain if any(cells)}) == 1
    has_quotes = delimiter != "\t" or quoted is not None or not is_one_width  # tabs are never inside a caption
    first = (quoted or plain or [[]])[0] if has_quotes else plain[0]
    is_headless = any(is_picture_cell(cell) for cell in first)
    columns = _positions(first) if is_headless else [cell.strip() for cell in first]
    if columns and columns[0].startswith("#"):
        columns[0] = columns[0].removeprefix("#").strip()
    return Delimited(path, used, encoding is not None, delimiter, has_quotes, skipped, tuple(columns), is_headless)


def split(line: str, delimiter: str) -> Cells:
    """The cells of a line in which quotes are marks like any other."""
    return line.rstrip("\r\n").split(delimiter)


def is_picture_cell(cell: str) -> bool:
    """Whether a cell is a URL or the name of a picture."""
    text = cell.strip()
    return text.lower().startswith(("http://", "https://")) or is_picture(_NUMBERED.sub("", text))


def opened(path: Path, encoding: str, errors: str) -> IO[str]:
    """A text file, packed or not, with the ends of its lines as they are."""
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding=encoding, errors=errors, newline="")
    return path.open(encoding=encoding, errors=errors, newline="")


def encoding_of(path: Path) -> str:
    """UTF-8, UTF-16 and 32 with their marks, or Windows-1252, which old spreadsheets write, and which is logged.

    From the whole file, with constant memory. Raises `SourceError` where it looks like none of them.
    """
    decoder, western = codecs.getincrementaldecoder("utf-8")(), codecs.getincrementaldecoder("cp1252")("replace")
    is_utf8, high, odd = True, 0, 0
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        while data := file.read(_CHUNK_BYTES):
            if file.tell() == len(data):
                for mark, name in _MARKS:
                    if data.startswith(mark):
                        return name
            try:
                decoder.decode(data, final=len(data) < _CHUNK_BYTES)
            except UnicodeDecodeError:
                is_utf8 = False
            text = "" if data.isascii() else western.decode(data)
            high += sum(1 for char in text if not char.isascii())
            odd += len(_ODD.findall(text))
    if is_utf8:
        return "utf-8-sig"
    if 10 * odd > high:
        raise SourceError(
            f"{printable(str(path))} is neither UTF-8 nor, by its letters, Windows-1252: name its encoding with "
            "--encoding (cp1251, gb18030, big5, shift_jis, euc_kr ...), or save it as UTF-8"
        )
    _log.warning("%s is not UTF-8 and was read as Windows-1252: if letters are wrong, name its --encoding", path)
    return "cp1252"


def _delimiter(sample: Sequence[str]) -> str:
    """What most lines have as often as the first; of a list of URLs or names with a comma here and there, none."""
    best, found = (False, 0.5), _ONE_COLUMN
    for delimiter in DELIMITERS:
        rows = _parsed(sample, delimiter) or [split(line, delimiter) for line in sample]
        rows = [row for row in rows if any(row)]
        if not rows:
            continue
        first, widths = rows[0], [len(row) for row in rows]
        width = Counter(widths).most_common(1)[0][0] if len(first) == 1 and is_picture_cell(first[0]) else len(first)
        share = sum(count >= width for count in widths) / len(rows)
        knows = any(is_picture_cell(cell) or cell.strip().lower().lstrip("# ") in IMAGE_COLUMNS for cell in first)
        if width > 1 and share > 0.5 and (knows, share) > best and not _cuts_urls(rows):
            best, found = (knows, share), delimiter
    return found


def _cuts_urls(rows: Sequence[Cells]) -> bool:
    """Whether each line is one URL that ends like a picture, of which the separator would make two cells."""
    cells = [[cell.strip() for cell in row] for row in rows]
    return all(
        row[0].lower().startswith(("http://", "https://"))
        and not any(is_picture(cell) or " " in cell or "://" in cell[8:] for cell in row[:-1])
        and is_picture(row[-1])
        for row in cells
    )


def _parsed(sample: Sequence[str], delimiter: str) -> list[Cells] | None:
    """The rows, if all quotes in them are as CSV has them."""
    try:
        return list(csv.reader(sample, delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        is_only_cut = "unexpected end" in str(error) and len(sample) >= _SAMPLE_LINES
        return _parsed(sample[:-1], delimiter) if is_only_cut else None


def _positions(first: Sequence[str]) -> list[str]:
    """Names for the columns of a table without a header."""
    names, is_captioned = list[str](), False
    for number, cell in enumerate(first, 1):
        if is_picture_cell(cell) and "url" not in names and "image" not in names:
            names.append("url" if "://" in cell else "image")
        elif not is_captioned and not cell.replace(".", "").isdecimal():
            is_captioned = True
            names.append("caption")
        else:
            names.append(f"column{number}")
    return names


def _is_leading_comment(line: str) -> bool:
    """A line before the table: empty, or with a # in front that is neither a header nor the name of a picture."""
    if not line.strip():
        return True
    if not line.startswith("#"):
        return False
    cells = [cell.strip().lower() for cell in re.split(r"[\t,;|]", line[1:])]
    if len(cells) > 1 and any(cell in IMAGE_COLUMNS for cell in cells):
        return False
    return line[1:2].isspace() or not any(is_picture(cell) and "://" not in cell for cell in cells)


def _is_comment(cell: str, width: int) -> bool:
    return cell.startswith("#") and (width > 1 or cell[1:2].isspace() or "://" in cell)
