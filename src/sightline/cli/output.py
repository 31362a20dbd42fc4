"""What several commands print and write: paths as a terminal can show them, pages, progress bars."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.errors import UsageError
from sightline.text import printable

if TYPE_CHECKING:
    from sightline.types import Hit, Record


def shown_path(hit: "Hit | Record") -> str:
    """Where a picture is, from the current folder on if it lies below it."""
    from sightline.results import location

    here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118  the user's own spelling, links not resolved
    return printable(location(hit).removeprefix(here))


def write_page(path: Path, text: str) -> None:
    """Write a page where the user wants it; `UsageError` where that is not possible."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
