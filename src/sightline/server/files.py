"""The files of indexed pictures: which may be shown, where they are, and thumbnails of them."""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sightline.errors import SourceError
from sightline.files import DiskCache
from sightline.images.read import thumbnail
from sightline.server.answers import Problem
from sightline.sources.base import read_uri
from sightline.sources.files import path_of, read_file
from sightline.sources.web import Downloader, is_url
from sightline.types import Hit, Record

SIDES = (160, 320, 640, 1280, 2048)
"""The longer sides in pixels of the thumbnails that are made; a request gets the next larger one."""

_REFRESH_S = 5.0  # another process may have indexed another folder meanwhile
_LIMIT_BYTES = 2 * 2**30  # about 100,000 thumbnails of 320 pixels


class Roots:
    """The folders whose files may be shown: those that were indexed, that of the uploads, and those of --root.

    A picture that was indexed alone, or from a table, lies in none of them: its path is enough if no link is in it,
    unless records were imported, which may name any file. `notes` are those of a kind that the index keeps.
    """

    def __init__(self, extra: Iterable[Path], notes: Callable[[str], Iterable[str]]) -> None:
        self._extra, self._notes = tuple(extra), notes
        self._known: tuple[bool, tuple[str, ...]] = (True, ())
        self._read_at = -_REFRESH_S

    def file(self, uri: str) -> Path:
        """The real path of a picture; `Problem` if it is gone, not a file, or leads out of the roots by a link."""
        try:
            path = path_of(uri)
            real = os.path.realpath(path)
            status = os.stat(real)  # noqa: PTH116
        except SourceError as error:
            raise Problem(404, f"the picture is not a file of this server, only its address is known: {uri}") from error
        except (OSError, ValueError) as error:
            raise Problem(
                410, "the picture's file has vanished, expected it where it was indexed: mount its disk, or index again"
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise Problem(403, "the picture's path is no longer a regular file: index its folder again")
        has_imports, folders = self._current()
        if (has_imports or real != str(path)) and not os.path.join(real, "").startswith(folders):  # noqa: PTH118
            how = "an imported record names it" if has_imports and real == str(path) else "a link leads there"
            raise Problem(
                403,
                f"the picture's file lies outside of the indexed folders, {how}: start the server with --root and its "
                "folder",
            )
        return Path(real)

    def is_gone(self, uri: str) -> bool:
        """Whether the file is not there any more; a picture that never was a file is never gone."""
        return uri.startswith("file:///") and not os.path.exists(path_of(uri))  # noqa: PTH110  text: faster than Path

    def _current(self) -> tuple[bool, tuple[str, ...]]:
        """Whether there are imported records, and the real folders."""
        if time.monotonic() - self._read_at > _REFRESH_S:
            folders = [*self._extra, *(path_of(uri) for uri in self._notes("root") if uri.startswith("file:///"))]
            real = tuple(os.path.join(os.path.realpath(folder), "") for folder in folders)  # noqa: PTH118
            self._known, self._read_at = (any(self._notes("imported")), real), time.monotonic()
        return self._known


def version(record: Hit | Record) -> str:
    """Changes with the picture's content: names the thumbnail's file, its ETag, and the end of its address."""
    content = record.payload.get("sha256") or f"{record.id}-{record.payload.get('stamp')}"
    return hashlib.sha256(str(content).encode("utf-8", "surrogateescape")).hexdigest()[:20]


class Thumbnails:
    """Small WebP files by content, made once: copies of a picture share them, and they outlive the picture's file.

    Their folder is of bounded size. `downloads` is where indexing kept the pictures of the web.
    """

    def __init__(self, folder: Path, roots: Roots, downloads: Path) -> None:
        self._kept = DiskCache(folder, limit_bytes=_LIMIT_BYTES)
        self._roots, self._downloads = roots, downloads

    def kept(self, record: Record, side: int) -> bytes | None:
        """The thumbnail if it was made before."""
        return self._kept.get(f"{version(record)}-{side}.webp")

    def made(self, record: Record, side: int) -> bytes:
        """The thumbnail, made if need be; a `Problem` where the picture is not to be had, or an `ImageError`."""
        if (data := self.kept(record, side)) is not None:
            return data
        try:
            data = thumbnail(self._read(record.uri), side)
        except SourceError as error:
            raise Problem(410, str(error)) from error
        self._kept.put(f"{version(record)}-{side}.webp", data)
        return data

    def _read(self, uri: str) -> bytes:
        """The bytes of a picture: a file, one inside an archive or a video, or one from the web that indexing kept."""
        if is_url(uri):
            kept = Downloader(self._downloads).kept(uri)
            if kept is None:
                raise Problem(404, f"the picture lies on the web and no copy was kept here: {uri}")
            return kept
        container, mark, _ = uri.partition("#")
        path = self._roots.file(container)
        return read_uri(uri) if mark else read_file(str(path))
