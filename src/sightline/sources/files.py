"""Files on this disk: which are pictures by their names, what their URIs are, and their bytes or why there are none."""

# ruff: noqa: PTH100, PTH116, PTH122, PTH123
# Text, not Path: joining a name, its stat and its URI take 2.4 us a file, not 5.1.

import binascii
import os
import re
import stat
from base64 import b64decode
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import unquote_to_bytes

from sightline import types
from sightline.errors import SourceError
from sightline.text import printable
from sightline.types import Item

_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".avif", ".avifs")
_RARER = (".heic", ".heics", ".heif", ".heifs", ".hif", ".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = frozenset((*_COMMON, *_RARER, ".pfm", ".jxl"))
"""The ends, in lower case, of the file names that are taken for pictures."""

TABLES = (".csv", ".tsv", ".txt", ".token", ".json", ".jsonl", ".ndjson", ".parquet")
"""The ends of the names of tables; text may be packed with gzip (.csv.gz)."""

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".ts", ".3gp", ".ogv")

OTHER_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .dng .erf .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f "
    ".ai .eps .jp2 .pdf .psb .psd .svg .svgz .xcf .mts .aac .flac .m4a .mp3 .ogg .wav .7z .bz2 .gz .rar .xz "
    ".doc .docx .htm .html .ini .db .json .log .md .ppt .pptx .py .xls .xlsx .xml .yaml .yml .part .crdownload "
    ".tmp".split()
).union(TABLES, ARCHIVES, VIDEOS)
"""Suffixes of files that are no pictures, or not to be read as such; of other names the first bytes decide."""

SKIPPED_FOLDERS = frozenset({"@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that systems keep for themselves, with thumbnails or deleted files in them. Hidden ones are skipped too."""

MAX_FILE_BYTES = 2 * 1024**3
"""Larger than any picture within the limit of megapixels; a file is read into memory whole."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


_DATA_URL = re.compile(r"data:[^,;]*(?:;(?!base64)[^,;]*)*(?P<packed>;\s*base64)?,", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24}")
_SHORTEST_BASE64 = 64  # no picture takes less


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by its name."""
    return suffix_of(name) in SUFFIXES


def is_table(path: Path) -> bool:
    """Whether a file is a table, by its name."""
    return path.name.lower().removesuffix(".gz").endswith(TABLES)


def is_archive(path: str | Path) -> bool:
    """Whether a file is an archive, by its name."""
    return str(path).lower().endswith(ARCHIVES)


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name."""
    return path.name.lower().endswith(VIDEOS)


def is_skipped(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or the system's own."""
    return name.startswith(".") or name in SKIPPED_FOLDERS


def suffix_of(name: str) -> str:
    """The last suffix of a file's name, in lower case."""
    return os.path.splitext(name)[1].lower()


def starts_as_picture(path: str) -> bool:
    """Whether the first bytes of a file are those of a common picture format, whatever its name."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb", buffering=0) as file:
            head = file.read(16)
    except (OSError, ValueError):
        return False
    return _is_start_of_picture(head)


def bytes_in(text: str) -> bytes | None:
    """The bytes that a text holds as a data: URL, or as plain base64 that begins as a picture; None if it is neither.

    `SourceError` for a data: URL of damaged base64.
    """
    found = _DATA_URL.match(text)
    if not found:
        head = text[:24]
        if len(text) < _SHORTEST_BASE64 or not _BASE64.fullmatch(head) or not _is_start_of_picture(b64decode(head)):
            return None
        with suppress(binascii.Error):
            return b64decode("".join(text.split()), validate=True)
        return None
    packed = unquote_to_bytes(text[found.end() :])
    if not found["packed"]:
        return packed
    try:
        return b64decode(b"".join(packed.split()), validate=True)
    except binascii.Error as error:
        raise SourceError(
            f"a data: URL that is not valid base64 ({error}), expected the bytes of a picture file: mend it"
        ) from error


def is_data_url(text: str) -> bool:
    """Whether a text is a URL that holds its own bytes."""
    return _DATA_URL.match(text) is not None


def _is_start_of_picture(head: bytes) -> bool:
    if head[4:8] == b"ftyp":
        return head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"hevc")
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def absolute(path: str | Path) -> Path:
    """A path absolute by name alone: without "..", for one file has one name; links stay as they are written."""
    return Path(os.path.abspath(path))  # Path.absolute keeps "..", Path.resolve follows links


def file_uri(path: str | Path) -> str:
    """The URI of a file, by its absolute path."""
    return absolute(Path(path).expanduser()).as_uri()


def path_of(uri: str) -> Path:
    """The path of a file: URI, whatever bytes are in its name; `SourceError` for other schemes."""
    try:
        return types.path_of(uri)
    except ValueError as error:
        raise SourceError(str(error)) from error


def valid(name: str) -> str:
    """A name as valid UTF-8: bytes that are none become U+FFFD."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "replace")


def read_file(path: str) -> bytes:
    """The bytes of a regular file; `SourceError` if it cannot be read or changes meanwhile.

    Pipes and devices are not opened: reading one may never end.
    """
    try:
        _check_regular(path, os.stat(path))
        with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
            before = os.fstat(file.fileno())
            _check_regular(path, before)  # again: another file may have taken the name
            data = file.read()
            after = os.fstat(file.fileno())
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) != after.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise SourceError(
            f"{printable(path)} changed while being read: expected a finished file; it is read again by the next run"
        )
    return data


def unreadable(path: str | Path, error: OSError | ValueError) -> SourceError:
    """The error for a path that the system refuses, with the system's reason."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, FileNotFoundError):
        advice = "expected something there; check the path, where its links lead, and that its disk is mounted"
    elif isinstance(error, PermissionError):
        advice = "expected a path that this user may read; change its permissions"
    else:
        advice = "expected a readable path; check it and its disk"
    return SourceError(f"{printable(str(path))} cannot be read ({reason}): {advice}")


def too_large(what: str, size_bytes: int) -> SourceError:
    """The error for a file that is larger than `MAX_FILE_BYTES`."""
    return SourceError(f"{what} has {size_bytes:,} bytes: expected at most {MAX_FILE_BYTES:,}; store it smaller")


def unreadable_item(uri: str, error: Exception, *, name: str, folders: list[str]) -> Item:
    """What cannot be offered (a folder that cannot be listed, an archive that ends early), as an item that says so."""
    return Item(uri, "unreadable", partial(refuse, error), {"name": name, "folders": folders})


def refuse(error: Exception) -> bytes:
    """In place of reading what is known to be unreadable."""
    raise error


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _SPECIAL.get(stat.S_IFMT(status.st_mode), "a special file")
        raise SourceError(f"{printable(path)} is {kind}: expected a regular file; leave it out")
    if status.st_size > MAX_FILE_BYTES:
        raise too_large(printable(path), status.st_size)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
