"""Read a file, or say why it cannot be read."""

# ruff: noqa: PTH116
# Paths are text here, as in folder.py.

import os
import stat
from functools import partial

from sightline.errors import SourceError
from sightline.text import printable
from sightline.types import Item

MAX_FILE_BYTES = 2 * 1024**3
"""Larger than any picture within the limit of megapixels; a file is read into memory whole."""

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


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


def unreadable(path: str, error: OSError | ValueError) -> SourceError:
    """The error for a path that the system refuses, with the system's reason."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, FileNotFoundError):
        advice = "expected something there; check the path, where its links lead, and that its disk is mounted"
    elif isinstance(error, PermissionError):
        advice = "expected a path that this user may read; change its permissions"
    else:
        advice = "expected a readable path; check it and its disk"
    return SourceError(f"{printable(path)} cannot be read ({reason}): {advice}")


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _SPECIAL.get(stat.S_IFMT(status.st_mode), "a special file")
        raise SourceError(f"{printable(path)} is {kind}: expected a regular file; leave it out")
    if status.st_size > MAX_FILE_BYTES:
        raise SourceError(
            f"{printable(path)} has {status.st_size:,} bytes: expected at most {MAX_FILE_BYTES:,}; store it smaller"
        )


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def unreadable_item(uri: str, error: Exception, *, name: str, folders: list[str]) -> Item:
    """What cannot be offered (a folder that cannot be listed, an archive that ends early), as an item that says so."""
    return Item(uri, "unreadable", partial(refuse, error), {"name": name, "folders": folders})


def refuse(error: Exception) -> bytes:
    """In place of reading what is known to be unreadable."""
    raise error
