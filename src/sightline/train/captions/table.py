"""A folder of pictures and a captioner -> a table of captions, the one that evaluation and training read."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL.Image import Image

from sightline.errors import EncoderError, ImageError, SourceError
from sightline.images.read import read
from sightline.sources.base import open_source
from sightline.sources.folder import path_of
from sightline.train.captions.captioners import Captioner
from sightline.types import Item

HEADER = "image\tcaption\n"


@dataclass(frozen=True, slots=True)
class Captioned:
    """How far a run is, in pictures: `kept` had a caption before, `failed` are uri and reason of the others."""

    total: int = 0
    written: int = 0
    kept: int = 0
    failed: tuple[tuple[str, str], ...] = ()


Listener = Callable[[Captioned], None]


@dataclass(frozen=True, slots=True)
class _Task:
    """A picture to be captioned, and what the table calls it."""

    name: str
    item: Item


def caption(
    folder: Path, table: Path, captioner: Captioner, *, batch_size: int = 8, listen: Listener = lambda _: None
) -> Captioned:
    """Captions every picture below `folder` that `table` does not have yet; names are relative to the folder.

    Each batch is on the disk before the next begins: a kill loses one batch at most, and the same command goes on.
    Pictures that cannot be read are reported and tried again the next time. Raises `SourceError` for a folder that
    cannot be read, or a table that is another one or cannot be written.
    """
    known = _known(table)
    root = folder if folder.is_dir() else folder.parent
    tasks, refused = _tasks(folder, Path(os.path.abspath(root)))  # noqa: PTH100  links in it stay as they are
    fresh = [task for task in tasks if task.name not in known]
    done = Captioned(total=len(tasks) + len(refused), kept=len(tasks) - len(fresh), failed=tuple(refused))
    listen(done)
    for start in range(0, len(fresh), batch_size):
        rows, failed = _batch(fresh[start : start + batch_size], captioner)
        _append(table, "".join(f"{name}\t{text}\n" for name, text in rows))
        done = replace(done, written=done.written + len(rows), failed=(*done.failed, *failed))
        listen(done)
    return done


def _batch(tasks: Sequence[_Task], captioner: Captioner) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Rows of the table, and failures with their reasons."""
    pictures, failed = list[tuple[_Task, Image]](), list[tuple[str, str]]()
    for task in tasks:
        try:
            pictures.append((task, read(task.item.read(), image_size=captioner.image_size)))
        except (OSError, SourceError, ImageError) as error:
            failed.append((task.item.uri, str(error)))
    if not pictures:
        return [], failed
    try:
        said = captioner.captions([picture for _, picture in pictures])
    except RuntimeError as error:  # torch has no narrower class for what a device refuses
        raise EncoderError(
            f"the captioning model failed on {len(pictures)} pictures ({error}), expected a caption for each: "
            "try a smaller --batch; what is written is kept"
        ) from error
    rows = [(task.name, " ".join(text.split())) for (task, _), text in zip(pictures, said, strict=True)]
    silent = [task.item.uri for (task, _), (_, text) in zip(pictures, rows, strict=True) if not text]
    return [row for row in rows if row[1]], [*failed, *((uri, "the model says nothing of it") for uri in silent)]


def _tasks(folder: Path, root: Path) -> tuple[list[_Task], list[tuple[str, str]]]:
    """The pictures, and those whose names no table can hold."""
    tasks, refused = list[_Task](), list[tuple[str, str]]()
    for item in open_source(folder):
        name = path_of(item.uri).relative_to(root).as_posix()
        if "\t" in name or len(name.splitlines()) != 1 or not _is_utf8(name):
            refused.append((item.uri, "its name has a tab, a line break or no valid UTF-8: rename it"))
        else:
            tasks.append(_Task(name, item))
    return tasks, refused


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _known(table: Path) -> set[str]:
    """The pictures that the table has a caption of. A last line that a kill cut off is taken away."""
    if not table.exists():
        return set()
    try:
        text = table.read_text("utf-8")
        if text and not text.startswith(HEADER):
            first = text.partition("\n")[0]
            raise SourceError(
                f"{table} begins with {first[:80]!r}, expected {HEADER.strip()!r}, as this command writes it: "
                "choose another --output"
            )
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            os.truncate(table, len(whole.encode()))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{table} cannot be read ({error}), expected a captions table: choose another") from error
    return set(_names(whole))


def _names(text: str) -> Iterator[str]:
    for line in text.split("\n")[1:]:
        name, _, said = line.partition("\t")
        if said.strip():
            yield name


def _append(table: Path, rows: str) -> None:
    """In one write that is on the disk when it returns."""
    try:
        with table.open("a", encoding="utf-8", newline="") as file:
            file.write(rows if file.tell() else HEADER + rows)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SourceError(
            f"{table} cannot be written ({error.strerror}), expected room and permission: mend that and run the "
            "same command, which goes on"
        ) from error
