"""What several commands write: pages where the user wants them, and paths as the terminal can show them."""

from pathlib import Path

from sightline.errors import UsageError


def write_page(path: Path, text: str) -> None:
    """Write a page where the user wants it; `UsageError` where that is not possible."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
