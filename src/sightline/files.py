"""Files written whole or not at all, and a folder of bounded size that keeps what can be made again."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place when the block ends well, and is removed if not.

    The folder is made. Whoever reads `path` sees the old content or the new, never a part, however many write at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem[:40]}-{uuid4().hex[:12]}.part{path.suffix}")  # some writers go by the suffix
    try:
        yield part
        os.replace(part, path)  # noqa: PTH105  Path.replace is the same, but looks like that of texts
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all; text in UTF-8. Raises `OSError`."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def default_cache() -> Path:
    """Where this system keeps what programs can fetch again."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / "sightline"
    folders = {"darwin": home / "Library" / "Caches" / "sightline", "win32": home / "AppData" / "Local" / "sightline"}
    return folders.get(sys.platform, home / ".cache" / "sightline")


class DiskCache:
    """A folder with at most so many bytes of files; the ones that were not read for longest are forgotten.

    A key is the file's name. Any number of threads and processes may share a folder. A disk that is full or cannot be
    written costs the cache, not the work.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, check_every: int = 1000) -> None:
        self.folder = folder
        self._limit_bytes, self._check_every = limit_bytes, check_every
        self._lock, self._written = threading.Lock(), 0

    def get(self, name: str) -> bytes | None:
        """What is kept under that name."""
        path = self._path(name)
        with suppress(OSError):
            data = path.read_bytes()
            with suppress(OSError):  # a folder that may only be read
                os.utime(path)
            return data
        return None

    def put(self, name: str, data: bytes) -> None:
        """Keep it."""
        with suppress(OSError):
            write_atomically(self._path(name), data)
        with self._lock:
            self._written += 1
            is_due = self._written % self._check_every == 1 or self._check_every == 1
        if is_due:
            self._forget()

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _forget(self) -> None:
        files = list[tuple[float, int, Path]]()
        for path in self.folder.glob("*/*"):
            with suppress(OSError):  # another process forgets too
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self._limit_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            with suppress(OSError):
                path.unlink(missing_ok=True)
            excess -= size
