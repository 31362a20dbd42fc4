"""A folder for the local mode of Qdrant's client, in memory where there is such a disk: it syncs for every point."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def start() -> tuple[str, Callable[[], None]]:
    """The URL of a new folder and what removes it."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="sightline-qdrant-", dir=memory if memory.is_dir() else None)
    return f"qdrant://{folder}", lambda: shutil.rmtree(folder, ignore_errors=True)
