"""The two vector files of a generation: written at their end, mapped for reading, checked by CRC.

`vectors-<generation>.int8` is scanned; `vectors-<generation>.float32` holds the vectors themselves, to rank the few
that came near and to give them back (in float16, one of 500 true neighbours was missed among 300,000: measured). Row
`slot` of both belongs to one record. A row that was published by a commit never changes; rows beyond the published ones
are left over from a writer that was killed, and the next writer overwrites them.
"""

import contextlib
import mmap
import os
import re
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import StoreDamaged
from sightline.stores.local.scan import Codes
from sightline.types import Vectors

VECTOR = np.dtype("<f4")
_CODE = np.dtype(np.int8)
_FILE = re.compile(r"vectors-(\d+)\.(int8|float32)")


def codes_file(folder: Path, generation: int) -> Path:
    """Where the codes of a generation are."""
    return folder / f"vectors-{generation}.int8"


def vectors_file(folder: Path, generation: int) -> Path:
    """Where the vectors of a generation are."""
    return folder / f"vectors-{generation}.float32"


def create_files(folder: Path, generation: int) -> None:
    """Make both files of a generation, empty, and their names durable."""
    for path in (codes_file(folder, generation), vectors_file(folder, generation)):
        path.write_bytes(b"")
    sync_folder(folder)


def remove_other_files(folder: Path, generation: int) -> None:
    """Delete the files of other generations; who still maps them reads on. Call it under the write lock only."""
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match and int(match[1]) != generation:
            with contextlib.suppress(PermissionError):  # Windows keeps mapped files: the next writer tries again
                path.unlink(missing_ok=True)


def map_codes(folder: Path, generation: int, dim: int, slots: int) -> Codes:
    """The first `slots` codes, (slots, dim), read from disk as they are touched; `StoreDamaged` if there are fewer."""
    return _map(codes_file(folder, generation), _CODE, dim, slots)


def map_vectors(folder: Path, generation: int, dim: int, slots: int) -> Vectors:
    """The first `slots` vectors, (slots, dim), likewise."""
    return _map(vectors_file(folder, generation), VECTOR, dim, slots)


@contextlib.contextmanager
def appending(folder: Path, generation: int) -> Iterator[tuple[FileIO, FileIO]]:
    """Both files open for `write_rows`; what was written is on the disk when this ends without an error."""
    with (
        codes_file(folder, generation).open("r+b", buffering=0) as codes,
        vectors_file(folder, generation).open("r+b", buffering=0) as vectors,
    ):
        yield codes, vectors
        sync_file(codes)
        sync_file(vectors)


def write_rows(file: FileIO, first: int, rows: NDArray[Any]) -> int:
    """Write (n, dim) rows from slot `first` on; gives their CRC-32."""
    data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
    file.seek(first * rows.shape[1] * rows.itemsize)
    written = 0
    while written < len(data):  # a raw file may write less than asked
        written += file.write(data[written:])
    return zlib.crc32(data)


def read_rows(path: Path, first: int, count: int, row_bytes: int) -> bytes:
    """The bytes of some rows, fewer if the file is shorter or missing."""
    try:
        with path.open("rb") as file:
            file.seek(first * row_bytes)
            return file.read(count * row_bytes)
    except FileNotFoundError:
        return b""


def lengthen(path: Path, size_bytes: int) -> None:
    """Make a file at least so long, with zeros, creating it if needed."""
    with path.open("ab") as file:
        if file.tell() < size_bytes:
            file.truncate(size_bytes)


def sync_file(file: FileIO) -> None:
    """Return when the file's bytes are on the disk."""
    if full := _full_sync():
        full(file.fileno())
    else:
        getattr(os, "fdatasync", os.fsync)(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full_sync() -> Any:
    """On macOS fsync leaves the bytes in the disk's own cache; only this control flushes them."""
    try:
        import fcntl
    except ImportError:
        return None
    control = getattr(fcntl, "F_FULLFSYNC", None)
    return None if control is None else lambda descriptor: fcntl.fcntl(descriptor, control)


def _map(path: Path, dtype: np.dtype[Any], dim: int, slots: int) -> NDArray[Any]:
    needed = slots * dim * dtype.itemsize
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < needed:
            raise StoreDamaged(
                f"{path} holds {size} bytes, expected at least {needed}: restore it from a backup, or run "
                "sightline status --repair, which removes the records that were lost, and index again"
            )
        if not needed:
            return np.empty((0, dim), dtype)
        mapped = mmap.mmap(file.fileno(), needed, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype).reshape(slots, dim)
