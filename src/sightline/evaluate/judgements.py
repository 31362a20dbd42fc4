"""Files that say which picture belongs to which words, turned into queries, a gallery and graded pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.errors import SourceError
from sightline.sources.delimited import CAPTION_COLUMNS, IMAGE_COLUMNS
from sightline.sources.folder import class_folders
from sightline.sources.rows import open_rows
from sightline.sources.table import FileFinder


@dataclass(frozen=True, slots=True)
class Judgements:
    """Queries, the pictures they search among, and which pictures answer which query.

    `pairs` has shape (p, 2): positions in `queries` and in `images`; `grades` has shape (p,), all above 0. With classes
    instead of words the queries are the classes' names and `is_classes` is true. `missing` counts the pictures of the
    table that are not there, `left_out` the files of class folders that are no pictures by their names.
    """

    name: str
    images: Sequence[Path]
    queries: Sequence[str]
    pairs: NDArray[np.int64]
    grades: NDArray[np.float64]
    is_classes: bool = False
    missing: int = 0
    left_out: int = 0


def load(path: Path, *, images: Path | None = None, split: str | None = None) -> Judgements:
    """Read a table of captions, a table of graded judgements, TREC qrels, or a folder of class folders.

    Tables have a header and are separated by tabs, commas or semicolons. `images` is the folder that the names in the
    table lie in; pictures that are not there are counted in `missing`.
    """
    if path.is_dir():
        return _class_folders(path)
    table = open_rows(path)
    names = [table.column((name,)) for name in ("query", "image", "grade")]
    if is_graded := all(names):
        rows = table.walk()
    else:
        names = [table.column(CAPTION_COLUMNS), table.column(IMAGE_COLUMNS)]
        rows = table.of_split(split)
    if not all(names):
        raise SourceError(
            f"{path} has the columns {table.listed}, expected image and caption, "
            "or query, image and grade: name them so in the first line"
        )
    cells = ([str(row.get(name or "") or "") for name in names] for row in rows)
    triples = [(text, image, grade[0] if grade else "1") for text, image, *grade in cells if text and image]
    return _joined(path, triples, images or path.parent, split, is_captions=not is_graded)


def load_qrels(path: Path, topics: Path, *, images: Path) -> Judgements:
    """Read TREC qrels (`topic 0 image grade`) with a table of topics (`topic<TAB>words`)."""
    words = dict(line.split("\t", 1) for line in _text(topics).splitlines() if "\t" in line)
    triples = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        parts = line.split()
        if len(parts) != 4 or parts[0] not in words:
            raise SourceError(f"{path}, line {number}: {line!r}, expected a known topic, 0, a picture and a grade")
        triples.append((words[parts[0]], parts[2], parts[3]))
    return _joined(path, triples, images, None, is_captions=False)


def _joined(
    path: Path, triples: Sequence[tuple[str, str, str]], folder: Path, split: str | None, *, is_captions: bool
) -> Judgements:
    """Positions instead of names, without duplicates and pictures that are not there.

    The same caption of two pictures is two queries, as the published tables count; the same judged query is one.
    """
    finder = FileFinder(folder)
    files = {name: finder.path(name) for name in dict.fromkeys(image for _, image, _ in triples)}
    here = {name: path for name, path in files.items() if path.is_file()}
    images = {name: position for position, name in enumerate(here)}
    queries: dict[tuple[str, str], int] = {}
    graded: dict[tuple[int, int], float] = {}
    for text, image, grade in triples:
        value = _grade(grade, path)
        if image in here and value > 0:
            query = queries.setdefault((text.strip(), image if is_captions else ""), len(queries))
            graded[query, images[image]] = value
    if not graded:
        of_split = f" of split {split!r}" if split else ""
        raise SourceError(f"{path}{of_split} judges no picture that is in {folder}: check --images and --split")
    pairs = np.array(list(graded), np.int64)
    grades = np.array(list(graded.values()), np.float64)
    name = f"{path.stem}:{split}" if split else path.stem
    missing = len(files) - len(here)
    texts = [text for text, _ in queries]
    return Judgements(name, list(here.values()), texts, pairs, grades, missing=missing)


def _class_folders(root: Path) -> Judgements:
    """One folder a class, named after it: `red_panda/` holds pictures of the query "red panda"."""
    classes = class_folders(root)
    labelled = [(label, picture) for label, folder in enumerate(classes) for picture in folder.pictures]
    if not labelled:
        raise SourceError(f"{root} holds no folders with pictures, expected one folder for each class")
    return Judgements(
        root.name,
        [picture for _, picture in labelled],
        [folder.words for folder in classes],
        np.array([(label, position) for position, (label, _) in enumerate(labelled)], np.int64),
        np.ones(len(labelled)),
        is_classes=True,
        left_out=sum(folder.left_out for folder in classes),
    )


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path} ({error.strerror}), expected a table: check the path") from error
    try:
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _grade(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SourceError(f"{path} has the grade {text!r}, expected a number, 0 for not relevant") from error
