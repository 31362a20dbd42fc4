"""What lies in an archive, as named members that are read later."""

from collections.abc import Callable
from dataclasses import dataclass

from sightline.errors import SourceError
from sightline.text import printable


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. `stamp` changes whenever the content may have changed."""

    name: str
    stamp: str
    size_bytes: int
    read: Callable[[], bytes]


def damaged(path: str, reason: object, name: str = "") -> SourceError:
    """The error for an archive, or a member of it, that is not whole."""
    what = f"{printable(path)}, member {printable(name)}" if name else printable(path)
    return SourceError(f"{what} is damaged ({reason}), expected a whole archive: fetch it again")


def read_at(path: str, start: int, size_bytes: int, name: str) -> bytes:
    """A piece of a file; `SourceError` if the file ends before it does."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  paths are text here, as in folder.py
            file.seek(start)
            data = bytearray()
            while len(data) < size_bytes and (more := file.read(size_bytes - len(data))):
                data += more
    except OSError as error:
        raise damaged(path, error.strerror or error, name) from error
    if len(data) < size_bytes:
        raise damaged(path, "it ends too early", name)
    return bytes(data)
