"""Read the members of a tar file: from their places if it is plain, in one stream if it is compressed."""

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from threading import Lock
from typing import IO, Any, cast

from sightline.errors import SourceError
from sightline.sources.files import MAX_FILE_BYTES, refuse, unreadable
from sightline.sources.members import Member, damaged, read_at
from sightline.text import printable

_PACKED: tuple[tuple[bytes, Callable[[str], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
_LARGEST_HEADER = 1 << 20  # a long name, or a record of extended attributes
_PASSED_BYTES = 64 << 20  # pictures of a stream that were passed by and may still be asked for by a slower worker


def members(path: str) -> Iterator[Member]:
    """The files of a tar archive in its order; memory does not grow with their number.

    Raises `SourceError` if it is none, and after its last whole member if it ends too early. The stamp is made of a
    member's size and time, and of the archive's time where the member has none.
    """
    try:
        archive_time = os.stat(path).st_mtime_ns  # noqa: PTH116  paths are text here, as in folder.py
        opener = _opener(path)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    stream = _Stream(path) if opener else None
    for number, (info, _) in enumerate(_walk(path)):
        name = info.name.removeprefix("./")
        stamp = f"{info.size}-{int(info.mtime) or archive_time}"
        if info.size > MAX_FILE_BYTES or info.issparse():
            read = partial(refuse, _too_large(path, info))
        elif stream:
            read = partial(stream.read, number, name)
        else:
            read = partial(read_at, path, info.offset_data, info.size, name)
        yield Member(name, stamp, info.size, read)


def _opener(path: str) -> Callable[[str], Any] | None:
    """What unpacks the file, None if it is plain: by its first bytes, for names lie."""
    with _open_plain(path) as file:
        start = file.read(8)
    return next((opener for magic, opener in _PACKED if start.startswith(magic)), None)


def _open_plain(path: str) -> IO[bytes]:
    return open(path, "rb")  # noqa: PTH123


def _walk(path: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Regular files with the open archive; `SourceError` where it is broken."""
    try:
        opener = _opener(path) or _open_plain
        with opener(path) as file, tarfile.open(fileobj=cast(IO[bytes], _Headers(path, file)), mode="r:") as archive:
            while info := archive.next():
                vars(archive)["members"].clear()  # tarfile keeps every one: 1 kB each
                if info.isreg():
                    yield info, file
            _check_end(path, file, archive)
    except _BROKEN as error:
        is_cut = isinstance(error, EOFError) or "end of data" in str(error)
        raise damaged(path, "it ends too early" if is_cut else error) from error


def _check_end(path: str, file: IO[bytes], archive: tarfile.TarFile) -> None:
    """Python takes a header that is cut off or garbled for the end; a true end is a block of zeros."""
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        raise damaged(path, "it ends too early" if len(block) < tarfile.BLOCKSIZE else "a header is garbled")


class _Stream:
    """A compressed archive, read from front to back by whoever asks for something further on.

    What lies before is kept for a while, since workers ask a little out of order; for more the stream starts anew.
    """

    def __init__(self, path: str) -> None:
        self._path, self._lock = path, Lock()
        self._next, self._left = 0, _walk(path)
        self._passed: dict[int, bytes] = {}

    def read(self, number: int, name: str) -> bytes:
        with self._lock:
            if number not in self._passed:
                self._go_to(number, name)
            return self._passed[number]

    def _go_to(self, number: int, name: str) -> None:
        if number < self._next:
            self._next, self._left = 0, _walk(self._path)
        while self._next <= number:
            found = next(self._left, None)
            if found is None:
                self._next, self._left = 0, _walk(self._path)
                raise damaged(self._path, "it changed meanwhile", name)
            self._keep(*found)
            self._next += 1

    def _keep(self, info: tarfile.TarInfo, file: IO[bytes]) -> None:
        held = sum(map(len, self._passed.values()))
        while self._passed and held + info.size > _PASSED_BYTES:
            held -= len(self._passed.pop(next(iter(self._passed))))
        if info.size <= MAX_FILE_BYTES:
            self._passed[self._next] = _content(self._path, info, file)


class _Headers:
    """An archive of which only headers are read at once: one may announce a name of gigabytes."""

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._path, self.file = path, file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise damaged(self._path, f"a header of {size:,} bytes")
        return self.file.read(size)


def _content(path: str, info: tarfile.TarInfo, file: IO[bytes]) -> bytes:
    file.seek(info.offset_data)
    data = file.read(info.size)
    if len(data) < info.size:
        raise damaged(path, "it ends too early", info.name)
    return data


def _too_large(path: str, info: tarfile.TarInfo) -> SourceError:
    return SourceError(
        f"{printable(path)}, member {printable(info.name)} is sparse or has {info.size:,} bytes: expected a plain file "
        f"of at most {MAX_FILE_BYTES:,}; unpack it first"
    )
