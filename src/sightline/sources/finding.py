"""A name in a table into the file that it means, where tables and folders do not quite fit together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from sightline.sources.folder import SKIPPED_FOLDERS, is_picture

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG")


class FileFinder:
    """Finds pictures below a folder: by the path that is written, without its suffix, or by its last name alone.

    Downloads come with `id` 1163 for images/1163.jpg, or with tables that name files of nested folders. These are
    looked through once, when the first file is not where it is said to be; a name that two files have names neither.
    """

    def __init__(self, base: Path) -> None:
        self._base = base

    def path(self, text: str) -> Path:
        """The file; where nothing is found the path as it is written, so that reading it tells."""
        written = self._base / Path(text).expanduser()
        try:
            if written.exists() or written.is_symlink():
                return written
        except (OSError, ValueError):
            return written
        return self._beside(written) or self._named.get(written.name) or written

    def _beside(self, written: Path) -> Path | None:
        if is_picture(written.name):
            return None
        candidates = (written.with_name(written.name + suffix) for suffix in _SUFFIXES)
        return next((path for path in candidates if path.exists()), None)

    @cached_property
    def _named(self) -> dict[str, Path | None]:
        found = dict[str, Path | None]()
        for parent, folders, names in os.walk(self._base):
            folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in SKIPPED_FOLDERS)
            for name in names:
                for called in _called(name):
                    found[called] = None if called in found else Path(parent, name)
        return found


def _called(name: str) -> Iterator[str]:
    if is_picture(name) and not name.startswith("."):
        yield name
        yield os.path.splitext(name)[0]  # noqa: PTH122
