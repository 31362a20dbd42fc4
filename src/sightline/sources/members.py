"""The members of zip and tar files, read later: from their places, or in one stream where a tar is compressed."""

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import IO, Any, cast

from sightline.errors import SourceError
from sightline.sources.files import MAX_FILE_BYTES, refuse, too_large, unreadable
from sightline.text import printable

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field; APPNOTE.TXT 4.3.7
_ENCRYPTED, _ENDS_WITH_MARK = 1, 2  # bits of the flags
_LZMA_BYTES = 256 << 20  # of the dictionary, which a header may put at 4 GB
_PACKED: tuple[tuple[bytes, Callable[[str], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
_LARGEST_HEADER = 1 << 20  # a long name, or a record of extended attributes
_PASSED_BYTES = 64 << 20  # pictures of a stream that were passed by and may still be asked for by a slower worker


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. `stamp` changes whenever the content may have changed."""

    name: str
    stamp: str
    size_bytes: int
    read: Callable[[], bytes]


def members(path: str) -> Iterator[Member]:
    """Every file in an archive; `SourceError` if it is none, and where it breaks off."""
    return _zip_members(path) if path.lower().endswith(".zip") else _tar_members(path)


def small_contents(path: str, is_wanted: Callable[[str], bool], limit_bytes: int) -> dict[str, bytes]:
    """What the files of a tar archive hold whose names are wanted and that are small, from one pass over it."""
    found = dict[str, bytes]()
    with suppress(SourceError):  # what lies before it breaks off
        for info, file in _walk(path):
            if is_wanted(info.name) and info.size <= limit_bytes:
                file.seek(info.offset_data)
                found[info.name.removeprefix("./")] = file.read(info.size)
    return found


def _zip_members(path: str) -> Iterator[Member]:
    """The files of a zip archive in order of their names; of two with one name the last, as unpacking leaves it.

    Raises `SourceError` if it is no whole zip file. Content alone makes the stamp: its CRC and size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            by_name = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    except zipfile.BadZipFile as error:
        raise _damaged(path, error) from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    for name in sorted(by_name):
        info = by_name[name]
        stamp = f"{info.CRC:08x}-{info.file_size}"
        yield Member(name, stamp, info.file_size, partial(_read_zipped, path, info))


def _read_zipped(path: str, info: zipfile.ZipInfo) -> bytes:
    name = info.filename
    if info.flag_bits & _ENCRYPTED:
        raise SourceError(
            f"{printable(path)}, member {printable(name)} is encrypted, expected one without a password: "
            "unpack it first"
        )
    if max(info.file_size, info.compress_size) > MAX_FILE_BYTES:
        raise too_large(f"{printable(path)}, member {printable(name)}", info.file_size)
    header = _read_at(path, info.header_offset, _LOCAL_HEADER.size, name)
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise _damaged(path, "the member is not where the list says", name)
    start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    data = _read_at(path, start, info.compress_size, name)
    if info.compress_type != zipfile.ZIP_STORED:
        data = _unpacked(path, info, data)
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise _damaged(path, "its checksum differs", name)
    return data


def _unpacked(path: str, info: zipfile.ZipInfo, data: bytes) -> bytes:
    """At most one byte more than announced: a bomb is told from its list without being unpacked."""
    try:
        match info.compress_type:
            case zipfile.ZIP_DEFLATED:
                return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
            case zipfile.ZIP_BZIP2:
                return bz2.BZ2Decompressor().decompress(data, info.file_size + 1)
            case zipfile.ZIP_LZMA:
                return _unpacked_lzma(info, data)
    except (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise _damaged(path, error, info.filename) from error
    raise SourceError(
        f"{printable(path)}, member {printable(info.filename)} is packed by method {info.compress_type}, expected a "
        "usual one (deflate, bzip2, LZMA): unpack it first"
    )


def _unpacked_lzma(info: zipfile.ZipInfo, data: bytes) -> bytes:
    """A zip's own header in front of LZMA1 (APPNOTE.TXT 5.8.8), read as the .lzma format, which has another one."""
    properties = data[4 : 4 + int.from_bytes(data[2:4], "little")]
    size = (1 << 64) - 1 if info.flag_bits & _ENDS_WITH_MARK else info.file_size
    stream = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_BYTES)
    header = properties + size.to_bytes(8, "little")
    return stream.decompress(header + data[4 + len(properties) :], info.file_size + 1)


def _tar_members(path: str) -> Iterator[Member]:
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
            refused = SourceError(
                f"{printable(path)}, member {printable(name)} is sparse or has {info.size:,} bytes: expected a plain "
                f"file of at most {MAX_FILE_BYTES:,}; unpack it first"
            )
            read = partial(refuse, refused)
        elif stream:
            read = partial(stream.read, number, name)
        else:
            read = partial(_read_at, path, info.offset_data, info.size, name)
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
            file.seek(archive.offset)
            end = file.read(tarfile.BLOCKSIZE)
            if end != bytes(tarfile.BLOCKSIZE):  # tarfile takes a header that is cut off or garbled for the end
                raise _damaged(path, "it ends too early" if len(end) < tarfile.BLOCKSIZE else "a header is garbled")
    except _BROKEN as error:
        is_cut = isinstance(error, EOFError) or "end of data" in str(error)
        raise _damaged(path, "it ends too early" if is_cut else error) from error


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
                raise _damaged(self._path, "it changed meanwhile", name)
            self._keep(*found)
            self._next += 1

    def _keep(self, info: tarfile.TarInfo, file: IO[bytes]) -> None:
        held = sum(map(len, self._passed.values()))
        while self._passed and held + info.size > _PASSED_BYTES:
            held -= len(self._passed.pop(next(iter(self._passed))))
        if info.size <= MAX_FILE_BYTES:
            file.seek(info.offset_data)
            self._passed[self._next] = data = file.read(info.size)
            if len(data) < info.size:
                raise _damaged(self._path, "it ends too early", info.name)


class _Headers:
    """An archive of which only headers are read at once: one may announce a name of gigabytes."""

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._path, self.file = path, file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise _damaged(self._path, f"a header of {size:,} bytes")
        return self.file.read(size)


def _damaged(path: str, reason: object, name: str = "") -> SourceError:
    """The error for an archive, or a member of it, that is not whole."""
    what = f"{printable(path)}, member {printable(name)}" if name else printable(path)
    return SourceError(f"{what} is damaged ({reason}), expected a whole archive: fetch it again")


def _read_at(path: str, start: int, size_bytes: int, name: str) -> bytes:
    """A piece of a file; `SourceError` if the file ends before it does."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  paths are text here, as in folder.py
            file.seek(start)
            data = bytearray()
            while len(data) < size_bytes and (more := file.read(size_bytes - len(data))):
                data += more
    except OSError as error:
        raise _damaged(path, error.strerror or error, name) from error
    if len(data) < size_bytes:
        raise _damaged(path, "it ends too early", name)
    return bytes(data)
