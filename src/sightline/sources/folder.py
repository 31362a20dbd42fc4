"""A folder of picture files, with the archives in it if wanted, or a single file, into items."""

# ruff: noqa: PTH116, PTH118, PTH119
# Text, not Path, as in files.py.

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import quote_from_bytes

from sightline.errors import SourceError
from sightline.sources.archive import Archive
from sightline.sources.files import (
    OTHER_SUFFIXES,
    absolute,
    is_archive,
    is_picture,
    is_skipped,
    read_file,
    starts_as_picture,
    suffix_of,
    unreadable,
    unreadable_item,
    valid,
)
from sightline.sources.ignore import IGNORE_FILE, NOTHING, Ignore
from sightline.sources.sidecars import (
    FOLDER_TABLES,
    Beside,
    FolderTable,
    Sidecar,
    Sidecars,
    is_sidecar,
    read_folder_table,
    read_sidecars,
)
from sightline.text import printable
from sightline.types import Item, Value


@dataclass(frozen=True, slots=True)
class Folder:
    """All pictures below a folder, in order of their names; links are followed, each real folder is entered once.

    A link to a folder that holds it is not followed. Those in its archives follow with `with_archives`; nothing is
    written to the disk. What the patterns of `exclude` and of `.sightlineignore` files match is no part of it.
    `left_out` counts the other files that the last walk to the end passed by, by suffix.
    """

    path: Path
    with_archives: bool = False
    exclude: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def root(self) -> str:
        """The URI of the folder."""
        return self.path.as_uri()

    def __iter__(self) -> Iterator[Item]:
        """Real folders come before linked ones: a picture keeps its shortest name, and loops end."""
        entered: set[str] = set()
        left_out = Counter[str]()
        archives = list[Archive]()
        linked = deque([replace(_Place.of(self.path), ignore=Ignore.of(str(self.path), self.exclude))])
        while linked:
            pending = [linked.popleft()]
            while pending:
                place = pending.pop()
                if place.real_path in entered:
                    continue
                entered.add(place.real_path)
                try:
                    place, names = place.listed()
                except (OSError, SourceError) as error:
                    name = valid(os.path.basename(place.path))
                    error_of_path = unreadable(place.path, error) if isinstance(error, OSError) else error
                    yield unreadable_item(place.folders[-1], error_of_path, name=name, folders=place.folders[:-1])
                    continue
                left_out.update(suffix_of(name) or "no suffix" for name in names.others)
                if self.with_archives:
                    found = [name for name in names.others if is_archive(name)]
                    left_out.subtract(map(suffix_of, found))
                    archives += [Archive(Path(place.path, name), tuple(place.folders)) for name in found]
                place, beside = place.with_tables(names.tables), Sidecars(names.sidecars)
                yield from (_item(place, name, beside) for name in names.pictures)
                pending += [place.child(name) for name in reversed(names.folders)]
                linked += filter(None, [place.behind_link(name) for name in names.linked_folders])
        for archive in archives:
            yield from archive
            left_out.update(archive.left_out)
        self.left_out.clear()  # whole, for the source may be walked twice at the same time
        self.left_out.update(+left_out)


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


def open_path(path: Path, *, with_archives: bool = False, exclude: tuple[str, ...] = ()) -> Folder | SingleFile:
    """What lies at a path as a source. It becomes absolute by name alone: links in it stay as the user wrote them."""
    path = absolute(path)
    try:
        if path.is_dir() or stat.S_ISDIR(os.lstat(path).st_mode):  # lstat: a link to nowhere is a picture that fails
            os.scandir(path).close()
            return Folder(path, with_archives, exclude)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(path, error) from error
    if not is_picture(path.name) and not starts_as_picture(str(path)):
        raise SourceError(
            f"{printable(str(path))} is neither a folder nor a picture: expected a folder, or a file that ends in "
            ".jpg, .png, .webp or another picture format, or a table (.csv, .tsv, .jsonl, .parquet), an archive (.zip, "
            ".tar) or a video; check the path"
        )
    return SingleFile(path)


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """A folder of pictures of one class; `left_out` counts the files that are not pictures by their names."""

    path: Path
    words: str
    pictures: Sequence[Path]
    left_out: int


def class_folders(root: Path) -> list[ClassFolder]:
    """The folders in a folder, one a class, named after it: `red_panda/` and `red-panda/` hold "red panda"s.

    Raises `SourceError` if `root` is not a folder or cannot be read. Hidden folders and files are no part of it.
    """
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        found = list[ClassFolder]()
        for folder in folders:
            files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
            pictures = [path for path in files if is_picture(path.name)]
            words = folder.name.replace("_", " ").replace("-", " ")
            found.append(ClassFolder(folder, words, pictures, len(files) - len(pictures)))
    except OSError as error:
        raise SourceError(f"{root} cannot be read ({error.strerror}), expected a folder for each class") from error
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder on the way. `folders` are the URIs from the root of the file system down to this one."""

    path: str
    real_path: str
    folders: list[str]
    tables: tuple[FolderTable, ...] = ()
    ignore: Ignore = NOTHING

    @classmethod
    def of(cls, path: Path) -> "_Place":
        folders = [folder.as_uri() for folder in (*reversed(path.parents), path)]
        return cls(str(path), os.path.realpath(path), folders)

    def listed(self) -> "tuple[_Place, _Names]":
        """What the folder holds and is not to be left out, and the folder as one that knows its own patterns."""
        names = _names(self.path)
        ignore = self.ignore.within(self.path) if names.has_ignore_file else self.ignore
        if ignore.specs or ignore.excluded:

            def kept(found: list[str], *, are_folders: bool = False) -> list[str]:
                paths = ((name, os.path.join(self.path, name)) for name in found)
                return [name for name, path in paths if not ignore.leaves_out(path, is_folder=are_folders)]

            names = replace(
                names,
                pictures=kept(names.pictures),
                folders=kept(names.folders, are_folders=True),
                linked_folders=kept(names.linked_folders, are_folders=True),
                others=kept(names.others),
            )
        return replace(self, ignore=ignore), names

    def child(self, name: str) -> "_Place":
        path, real_path = os.path.join(self.path, name), os.path.join(self.real_path, name)
        return replace(self, path=path, real_path=real_path, folders=[*self.folders, self.uri(name)])

    def behind_link(self, name: str) -> "_Place | None":
        """The folder that a link leads to; None if it holds the link: its pictures have been or are not asked for."""
        real_path = os.path.realpath(os.path.join(self.path, name))
        if os.path.commonpath([real_path, self.real_path]) == real_path:
            return None
        return replace(self.child(name), real_path=real_path)

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
    others: list[str] = field(default_factory=list)
    has_ignore_file: bool = False


def _names(path: str) -> _Names:
    names = _Names()
    unknown = list[str]()
    has_ignore_file = False
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            has_ignore_file |= name == IGNORE_FILE
            if is_skipped(name) or name in ("Thumbs.db", "desktop.ini"):
                continue
            if entry.is_dir(follow_symlinks=False):
                names.folders.append(name)
            elif entry.is_symlink() and _may_be_folder(entry):
                names.linked_folders.append(name)
            elif is_picture(name):
                names.pictures.append(name)
            elif name in FOLDER_TABLES:
                names.tables.append(name)
            elif is_sidecar(name):
                names.sidecars.append(name)
            else:
                unknown.append(name)
    if "index.sqlite" in unknown and any(name.startswith("vectors-") for name in unknown):  # one of our own indexes
        return _Names()
    for name in unknown:
        is_other = suffix_of(name) in OTHER_SUFFIXES or not starts_as_picture(os.path.join(path, name))
        (names.others if is_other else names.pictures).append(name)
    for found in (names.pictures, names.folders, names.linked_folders, names.sidecars, names.tables, names.others):
        found.sort()
    return replace(names, has_ignore_file=has_ignore_file)


@lru_cache(4)  # single pictures that are read again mostly lie in few folders
def _listed(path: str, modified_ns: int) -> _Names:
    return _names(path)


def _may_be_folder(link: os.DirEntry[str]) -> bool:
    """A link to nowhere counts as a folder unless named like a picture: it may lead to a disk that is not mounted."""
    try:
        return stat.S_ISDIR(link.stat().st_mode)
    except OSError:
        return not is_picture(link.name)


def _item(place: _Place, name: str, sidecars: Sidecars) -> Item:
    path = os.path.join(place.path, name)
    payload: dict[str, Value] = {"name": valid(name), "folders": place.folders}
    try:
        status = os.stat(path)
    except OSError:
        return Item(place.uri(name), "unreadable", partial(read_file, path), payload)
    payload["size_bytes"] = status.st_size
    with suppress(OverflowError, ValueError, OSError):  # a damaged file system can give any year
        payload["modified"] = datetime.fromtimestamp(status.st_mtime, UTC)
    stamps, beside = [f"{status.st_size}-{status.st_mtime_ns}"], Beside()
    if files := [file for sidecar in sidecars.of(name) if (file := _sidecar(place.path, sidecar))]:
        beside = read_sidecars(files)
        stamps += [file.stamp for file in files]
    for table in place.tables:
        row, stamp = table.row(path)
        beside.payload |= row
        stamps += [stamp] if stamp else []
    read = partial(read_file, path)
    return Item(place.uri(name), "-".join(stamps), read, beside.payload | payload, fallback=beside.fallback)


def _sidecar(folder: str, name: str) -> Sidecar | None:
    path = os.path.join(folder, name)
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Sidecar(name, f"{status.st_size}-{status.st_mtime_ns}", status.st_size, partial(read_file, path))
