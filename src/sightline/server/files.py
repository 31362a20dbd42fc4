"""Which files of indexed pictures may be shown, and where they are."""

import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sightline.errors import SourceError
from sightline.server.problems import Problem
from sightline.sources.files import path_of

_REFRESH_S = 5.0  # another process may have indexed another folder meanwhile


class Roots:
    """The folders whose files may be shown: those that were indexed, that of the uploads, and those of --root.

    A picture that was indexed alone, or from a table, lies in none of them: its path is enough if no link is in it.
    """

    def __init__(self, extra: Iterable[Path], indexed: Callable[[], Iterable[str]]) -> None:
        self._extra, self._indexed = tuple(extra), indexed
        self._real: tuple[str, ...] = ()
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
            raise Problem(403, "the picture's place is no regular file any more: index its folder again")
        if real != str(path) and not self._is_inside(real):
            raise Problem(
                403,
                "the picture's file lies outside of the indexed folders, a link leads there: start the server with "
                "--root and its folder",
            )
        return Path(real)

    def is_gone(self, uri: str) -> bool:
        """Whether the file is not there any more; a picture that never was a file is never gone."""
        if not uri.startswith("file:///"):
            return False
        return not os.path.exists(path_of(uri))  # noqa: PTH110  text: three times as fast as Path

    def _is_inside(self, real: str) -> bool:
        return any(os.path.join(real, "").startswith(root) for root in self._roots())  # noqa: PTH118

    def _roots(self) -> tuple[str, ...]:
        if time.monotonic() - self._read_at > _REFRESH_S:
            folders = [*self._extra, *(path_of(uri) for uri in self._indexed() if uri.startswith("file:///"))]
            self._real = tuple(os.path.join(os.path.realpath(folder), "") for folder in folders)  # noqa: PTH118
            self._read_at = time.monotonic()
        return self._real
