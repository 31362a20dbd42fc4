"""The two vector files of a generation: written at their end, mapped for reading.

`vectors-<generation>.int8` is scanned; `vectors-<generation>.float32` holds the vectors themselves, to rank the few
that came near and to give them back (in float16, one of 500 true neighbours was missed among 300,000: measured). Row
`slot` of both belongs to one record. A row that was published by a commit never changes; rows beyond the published ones
are left over from a writer that was killed, and the next writer overwrites them.
"""

import contextlib
import mmap
import os
import re
import sys
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sightline.errors import StoreDamaged
from sightline.types import Vectors

Codes: TypeAlias = NDArray[np.int8]
"""Shape (n, dim), each from -127 to 127."""
Slots: TypeAlias = NDArray[np.int64]
"""Shape (n,): rows of the vector files."""

VECTOR = np.dtype("<f4")
DATABASE = "index.sqlite"
"""The file that all others belong to."""
_FILE = re.compile(r"vectors-(\d+)\.(int8|float32)")


def files_of(folder: Path, generation: int) -> tuple[Path, Path]:
    """Where the codes and the vectors of a generation are."""
    return folder / f"vectors-{generation}.int8", folder / f"vectors-{generation}.float32"


def create_files(folder: Path, generation: int) -> None:
    """Make both files of a generation, empty, readable by whom the database is, and their names durable."""
    mode = (folder / DATABASE).stat().st_mode & 0o666
    for path in files_of(folder, generation):
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, mode))
    sync_folder(folder)


def remove_other_files(folder: Path, generation: int) -> None:
    """Delete the files of other generations; who still maps them reads on. Call it under the write lock only."""
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match and int(match[1]) != generation:
            with contextlib.suppress(PermissionError):  # Windows keeps mapped files: the next writer tries again
                path.unlink(missing_ok=True)


def map_files(folder: Path, generation: int, dim: int, slots: int) -> tuple[Codes, Vectors, list[mmap.mmap]]:
    """The first `slots` codes and vectors, (slots, dim) each, read from disk as they are touched, and their mappings.

    Raises `StoreDamaged` if there are fewer, and `FileNotFoundError`. `check_size` has to come before they are used.
    """
    mapped, rows, dtypes = list[mmap.mmap](), list[NDArray[Any]](), list[np.dtype[Any]]([np.dtype(np.int8), VECTOR])
    for path, dtype in zip(files_of(folder, generation), dtypes, strict=True):
        needed = slots * dim * dtype.itemsize
        with path.open("rb") as file:
            check_size(path, os.fstat(file.fileno()).st_size, needed)
            if needed:
                mapped.append(mmap.mmap(file.fileno(), needed, access=mmap.ACCESS_READ))
        rows.append(np.frombuffer(mapped[-1] if needed else b"", dtype).reshape(slots, dim))
    return rows[0], rows[1], mapped


def check_size(path: Path, size: int, needed: int) -> None:
    """Raise `StoreDamaged` if files are too short, perhaps since they were mapped: touching more ends the process."""
    if size < needed:
        raise StoreDamaged(
            f"{path} holds {size} bytes of vectors, expected at least {needed}: restore it from a backup, or run "
            "sightline status --repair, which removes the records that were lost, and index again"
        )


@contextlib.contextmanager
def appending(folder: Path, generation: int) -> Iterator[tuple[FileIO, FileIO]]:
    """Both files open for `write_rows`; what was written is on the disk when this ends without an error."""
    codes_path, vectors_path = files_of(folder, generation)
    with codes_path.open("r+b", buffering=0) as codes, vectors_path.open("r+b", buffering=0) as vectors:
        yield codes, vectors
        for file in (codes, vectors):
            if sys.platform == "darwin":
                import fcntl

                fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)  # fsync leaves the bytes in the disk's own cache there
            else:
                getattr(os, "fdatasync", os.fsync)(file.fileno())


def write_rows(file: FileIO, first: int, rows: NDArray[Any]) -> int:
    """Write (n, dim) rows from slot `first` on; gives their CRC-32."""
    data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
    file.seek(first * rows.shape[1] * rows.itemsize)
    written = 0
    while written < len(data):  # a raw file may write less than asked
        written += file.write(data[written:])
    return zlib.crc32(data)


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
