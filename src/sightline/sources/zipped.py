"""Read the members of a zip file, each from its place without opening the archive again."""

import bz2
import lzma
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
_ENCRYPTED, _ENDS_WITH_MARK = 1, 2  # bits of the flags
_LZMA_BYTES = 256 << 20  # of the dictionary, which a header may put at 4 GB


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
    header = read_at(path, info.header_offset, _LOCAL_HEADER.size, name)
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise damaged(path, "the member is not where the list says", name)
    start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    data = read_at(path, start, info.compress_size, name)
    if info.compress_type != zipfile.ZIP_STORED:
        data = _unpacked(path, info, data)
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise damaged(path, "its checksum differs", name)
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
        raise damaged(path, error, info.filename) from error
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
