"""A folder of picture files, or a single one, into items."""

# ruff: noqa: PTH100, PTH116, PTH118, PTH119, PTH122, PTH123
# Text, not Path: joining a name, its stat and its URI take 2.4 us a file, not 5.1.

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sightline.errors import SourceError
from sightline.sources.files import read_file, unreadable, unreadable_item
from sightline.sources.sidecars import (
    TABLES,
    FolderTable,
    Sidecar,
    Sidecars,
    Told,
    is_sidecar,
    read_folder_table,
    read_sidecars,
)
from sightline.text import printable
from sightline.types import Item, Value

_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".avif", ".avifs")
_RARER = (".heic", ".heics", ".heif", ".heifs", ".hif", ".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = frozenset((*_COMMON, *_RARER, ".pfm"))
"""The ends, in lower case, of the file names that are taken for pictures."""

OTHER_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .dng .erf .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f "
    ".ai .eps .jp2 .jxl .pdf .psb .psd .svg .svgz .xcf .avi .m4v .mkv .mov .mp4 .mpg .mts .webm .wmv .aac .flac .m4a "
    ".mp3 .ogg .wav .7z .bz2 .gz .rar .tar .tgz .xz .zip .csv .doc .docx .htm .html .ini .db .json .jsonl .log .md "
    ".parquet .ppt .pptx .py .tsv .txt .xls .xlsx .xml .yaml .yml .part .crdownload .tmp".split()
)
"""Suffixes of files that are no pictures, or not to be read as such; of other names the first bytes decide."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")

SKIPPED_FOLDERS = frozenset({"@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that systems keep for themselves, with thumbnails or deleted files in them. Hidden ones are skipped too."""


@dataclass(frozen=True, slots=True)
class Folder:
    """All pictures below a folder, in order of their names; links are followed, each real folder is entered once.

    `left_out` counts the files that the last walk to the end passed by, by suffix.
    """

    path: Path
    left_out: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def root(self) -> str:
        """The URI of the folder."""
        return self.path.as_uri()

    def __iter__(self) -> Iterator[Item]:
        """Real folders come before linked ones: a picture keeps its shortest name, and loops end."""
        entered: set[str] = set()
        left_out = Counter[str]()
        linked = deque([_Place.of(self.path)])
        while linked:
            pending = [linked.popleft()]
            while pending:
                place = pending.pop()
                if place.real_path in entered:
                    continue
                entered.add(place.real_path)
                try:
                    names = _names(place.path)
                except OSError as error:
                    yield _failing(place, error)
                    continue
                left_out.update(names.left_out)
                place, beside = place.with_tables(names.tables), Sidecars(names.sidecars)
                yield from (_item(place, name, beside) for name in names.pictures)
                pending += [place.child(name, is_link=False) for name in reversed(names.folders)]
                linked += [place.child(name, is_link=True) for name in names.linked_folders]
        self.left_out.clear()  # whole, for the source may be walked twice at the same time
        self.left_out.update(left_out)


@dataclass(frozen=True, slots=True)
class SingleFile:
    """One picture file."""

    path: Path

    @property
    def root(self) -> str:
        """The URI of the file."""
        return self.path.as_uri()

    def __iter__(self) -> Iterator[Item]:
        """The one item."""
        place, beside = _Place.of(self.path.parent), Sidecars([])
        with suppress(OSError):  # a folder that may be entered but not listed
            names = _listed(place.path, os.stat(place.path).st_mtime_ns)
            place, beside = place.with_tables(names.tables), Sidecars(names.sidecars)
        yield _item(place, self.path.name, beside)


def open_path(path: Path) -> Folder | SingleFile:
    """What lies at a path as a source. It becomes absolute by name alone: links in it stay as the user wrote them."""
    path = Path(os.path.abspath(path))  # Path.absolute keeps "..", Path.resolve follows links
    try:
        if path.is_dir() or stat.S_ISDIR(os.lstat(path).st_mode):  # lstat: a link to nowhere is a picture that fails
            os.scandir(path).close()
            return Folder(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(str(path), error) from error
    if not is_picture(path.name) and not starts_as_picture(str(path)):
        raise SourceError(
            f"{printable(str(path))} is neither a folder nor a picture: expected a folder, or a file that ends in "
            ".jpg, .png, .webp or another picture format, or a table (.csv, .tsv, .jsonl, .parquet), an archive (.zip, "
            ".tar) or a video; check the path"
        )
    return SingleFile(path)


def file_uri(path: str | Path) -> str:
    """The URI of a file: absolute by name alone, without "..", for one file has one name; links stay as written."""
    return Path(os.path.abspath(Path(path).expanduser())).as_uri()


def path_of(uri: str) -> Path:
    """The path of a file: URI, whatever bytes are in its name; `SourceError` for other schemes."""
    if not uri.startswith("file:///"):
        raise SourceError(f"{uri} is not a file on this machine: expected file:///...; fetch it to a folder first")
    path = os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    return Path(path[1:] if os.name == "nt" else path)  # Windows: /C:/photos


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder on the way. `folders` are the URIs from the root of the file system down to this one."""

    path: str
    real_path: str
    folders: list[str]
    tables: tuple[FolderTable, ...] = ()

    @classmethod
    def of(cls, path: Path) -> "_Place":
        folders = [folder.as_uri() for folder in (*reversed(path.parents), path)]
        return cls(str(path), os.path.realpath(path), folders)

    def child(self, name: str, *, is_link: bool) -> "_Place":
        path = os.path.join(self.path, name)
        real_path = os.path.realpath(path) if is_link else os.path.join(self.real_path, name)
        return _Place(path, real_path, [*self.folders, self.uri(name)], self.tables)

    def with_tables(self, names: Iterable[str]) -> "_Place":
        found = filter(None, [read_folder_table(self.path, name) for name in names])
        return replace(self, tables=(*self.tables, *found)) if names else self

    def uri(self, name: str) -> str:
        """As `Path.as_uri`, in a fifth of the time."""
        return f"{self.folders[-1].rstrip('/')}/{quote_from_bytes(os.fsencode(name))}"


@dataclass(frozen=True, slots=True)
class _Names:
    """What one folder holds. Names, not `DirEntry`s: a third of the memory (72 bytes), and `os.stat` is as fast."""

    pictures: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    linked_folders: list[str] = field(default_factory=list)
    sidecars: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def _names(path: str) -> _Names:
    names = _Names()
    marks, others = set[str](), list[str]()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(".") or name in SKIPPED_FOLDERS or name in ("Thumbs.db", "desktop.ini"):
                continue
            if entry.is_dir(follow_symlinks=False):
                names.folders.append(name)
            elif entry.is_symlink() and _may_be_folder(entry):
                names.linked_folders.append(name)
            elif is_picture(name):
                names.pictures.append(name)
            elif name in TABLES:
                names.tables.append(name)
            elif is_sidecar(name):
                names.sidecars.append(name)
            elif name == "index.sqlite" or name.startswith("vectors-"):
                marks.add(name[:8])
            else:
                others.append(name)
    if len(marks) == 2:  # one of our own indexes
        return _Names()
    for name in others:
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in OTHER_SUFFIXES and starts_as_picture(os.path.join(path, name)):
            names.pictures.append(name)
        else:
            names.left_out[suffix or "no suffix"] += 1
    for found in (names.pictures, names.folders, names.linked_folders, names.sidecars, names.tables):
        found.sort()
    return names


@lru_cache(4)  # single pictures that are read again mostly lie in few folders
def _listed(path: str, modified_ns: int) -> _Names:
    return _names(path)


def _may_be_folder(link: os.DirEntry[str]) -> bool:
    """A link to nowhere counts as a folder unless named like a picture: it may lead to a disk that is not mounted."""
    try:
        return stat.S_ISDIR(link.stat().st_mode)
    except OSError:
        return not is_picture(link.name)


def valid(name: str) -> str:
    """A name as valid UTF-8: bytes that are none become U+FFFD."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "replace")


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by its name."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def starts_as_picture(path: str) -> bool:
    """Whether the first bytes of a file are those of a common picture format, whatever its name."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb", buffering=0) as file:
            head = file.read(16)
    except (OSError, ValueError):
        return False
    if head[4:8] == b"ftyp":
        return head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"hevc")
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _item(place: _Place, name: str, beside: Sidecars) -> Item:
    path = os.path.join(place.path, name)
    payload: dict[str, Value] = {"name": valid(name), "folders": place.folders}
    try:
        status = os.stat(path)
    except OSError:
        return Item(place.uri(name), "unreadable", partial(read_file, path), payload)
    payload["size_bytes"] = status.st_size
    with suppress(OverflowError, ValueError, OSError):  # a damaged file system can give any year
        payload["modified"] = datetime.fromtimestamp(status.st_mtime, UTC)
    stamps, told = [f"{status.st_size}-{status.st_mtime_ns}"], Told()
    if sidecars := [file for sidecar in beside.of(name) if (file := _sidecar(place.path, sidecar))]:
        told = read_sidecars(sidecars)
        stamps += [file.stamp for file in sidecars]
    for table in place.tables:
        row, stamp = table.row(path)
        told.payload |= row
        stamps += [stamp] if stamp else []
    read = partial(read_file, path)
    return Item(place.uri(name), "-".join(stamps), read, told.payload | payload, fallback=told.fallback)


def _sidecar(folder: str, name: str) -> Sidecar | None:
    path = os.path.join(folder, name)
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Sidecar(name, f"{status.st_size}-{status.st_mtime_ns}", status.st_size, partial(read_file, path))


def _failing(place: _Place, error: OSError) -> Item:
    """A folder that cannot be listed, as an item that says so when it is read."""
    error_of_path, name = unreadable(place.path, error), valid(os.path.basename(place.path))
    return unreadable_item(place.folders[-1], error_of_path, name=name, folders=place.folders[:-1])
