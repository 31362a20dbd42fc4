"""A zip file into its members, each read from its place without opening the archive again."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial

from sightline.errors import SourceError
from sightline.sources.files import MAX_FILE_BYTES, unreadable
from sightline.sources.members import Member, damaged, read_at
from sightline.text import printable

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field; APPNOTE.TXT 4.3.7
_ENCRYPTED = 1  # a bit of the flags


def members(path: str) -> Iterator[Member]:
    """The files of a zip archive in order of their names; of two with one name the last, as unpacking leaves it.

    Raises `SourceError` if it is no whole zip file. Content alone makes the stamp: its CRC and size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            by_name = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    except zipfile.BadZipFile as error:
        raise damaged(path, error) from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    for name in sorted(by_name):
        info = by_name[name]
        stamp = f"{info.CRC:08x}-{info.file_size}"
        yield Member(name, stamp, info.file_size, partial(_read, path, info))


def _read(path: str, info: zipfile.ZipInfo) -> bytes:
    name = info.filename
    if info.flag_bits & _ENCRYPTED:
        raise SourceError(
            f"{printable(path)}, member {printable(name)} is encrypted, expected one without a password: "
            "unpack it first"
        )
    if max(info.file_size, info.compress_size) > MAX_FILE_BYTES:
        raise SourceError(
            f"{printable(path)}, member {printable(name)} has {info.file_size:,} bytes: expected at most "
            f"{MAX_FILE_BYTES:,}; store it smaller"
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return _read_slowly(path, info)
    header = read_at(path, info.header_offset, _LOCAL_HEADER.size, name)
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise damaged(path, "the member is not where the list says", name)
    start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    data = read_at(path, start, info.compress_size, name)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        data = _inflate(path, info, data)
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise damaged(path, "its checksum differs", name)
    return data


def _inflate(path: str, info: zipfile.ZipInfo, data: bytes) -> bytes:
    """At most one byte more than announced: a bomb is told from its list without being unpacked."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
    except zlib.error as error:
        raise damaged(path, error, info.filename) from error


def _read_slowly(path: str, info: zipfile.ZipInfo) -> bytes:
    """The rarer methods; opening the archive reads its whole list."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(info)
    except NotImplementedError as error:
        raise SourceError(
            f"{printable(path)}, member {printable(info.filename)} cannot be unpacked ({error}), expected a usual "
            "method: unpack it first"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise damaged(path, error, info.filename) from error
