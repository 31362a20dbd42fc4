"""The files of a model, made aside -> a model folder, filled by moves."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sightline.errors import TrainingError

TOWERS = ("visual", "textual")


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A work folder with places for both towers, whose files end up in `folder`; other files in it stay.

    They are moved when all are there, so that a reader never meets a half-written file. Raises `TrainingError` when
    they cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            work = Path(name)
            for tower in TOWERS:
                (work / tower).mkdir()
            yield work
            move_into(folder, work)
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written ({error.strerror or error}): expected room for the model; "
            "free some, or choose another folder, and run the same command again"
        ) from error


def move_into(folder: Path, work: Path) -> None:
    """Moves every file of `work` to its place in `folder`, graphs last."""
    for path in sorted(work.rglob("*"), key=lambda path: (path.suffix == ".onnx", path)):
        if path.is_file():
            target = folder / path.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def take_image_tower(source: Path, work: Path) -> None:
    """Copies the image tower of a model folder, byte for byte, weights beside the graph too."""
    for path in sorted((source / "visual").iterdir()):
        if path.is_file():
            shutil.copy(path, work / "visual" / path.name)
