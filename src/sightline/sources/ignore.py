"""What a walk leaves out on purpose: the patterns of `--exclude` and of `.sightlineignore` files, as git reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sightline.errors import SourceError, UsageError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".sightlineignore"


@dataclass(frozen=True, slots=True)
class Ignore:
    """Patterns, each list with the folder that they start from; of those that match a path the last one decides."""

    specs: tuple[tuple[str, GitIgnoreSpec], ...] = ()
    excluded: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    @classmethod
    def of(cls, root: str, exclude: Sequence[str]) -> Ignore:
        """The patterns that a user gave for a folder; they outdo what its files say. `UsageError` for a bad one."""
        try:
            return cls(excluded=((root, _spec(exclude)),) if exclude else ())
        except ValueError as error:
            raise UsageError(f"--exclude: {error}, expected a pattern as in .gitignore, such as '*.tmp.png'") from error

    def within(self, folder: str) -> Ignore:
        """With the patterns of a folder's own file; `SourceError` if one of them cannot be understood."""
        path = os.path.join(folder, IGNORE_FILE)  # noqa: PTH118
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
                return replace(self, specs=(*self.specs, (folder, _spec(file.read().splitlines()))))
        except ValueError as error:
            raise SourceError(f"{path}: {error}, expected patterns as in .gitignore: correct it") from error

    def leaves_out(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether the path is left out."""
        verdict = False
        for root, spec in (*self.specs, *self.excluded):
            found = spec.check_file(os.path.relpath(path, root) + "/" * is_folder).include
            verdict = verdict if found is None else found
        return verdict


NOTHING = Ignore()


def _spec(lines: Iterable[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec  # 20 ms that a folder without patterns does not pay

    return GitIgnoreSpec.from_lines(lines)
