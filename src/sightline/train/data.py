"""Read the sets of a training run, caption tables or class folders, and count what does not fit together."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.errors import SourceError
from sightline.sources.pairs import CAPTION_COLUMNS, IMAGE_COLUMNS, class_folders, column_of
from sightline.sources.rows import Row, Rows, open_rows
from sightline.train.config import DataSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Captioned:
    """One picture and everything that is said of it."""

    path: Path
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Pictures that train or measure together. `dropped` counts, by reason, what could not be used."""

    name: str
    pictures: tuple[Captioned, ...]
    dropped: Mapping[str, int]


def read_set(settings: DataSettings, base: Path, *, is_held_out: bool = False) -> PictureSet:
    """The pictures of a set, paths relative to `base`: those to train on, or with `is_held_out` those put aside.

    Raises `SourceError` when nothing is left to use; what is dropped on the way is counted and logged.
    """
    from_source = _from_folders if settings.kind == "folders" else _from_table
    pictures, dropped = from_source(settings, base)
    name = settings.table or settings.images

    def is_held(key: str) -> bool:
        """The same answer in every run and on every machine."""
        return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100 < settings.hold_out_percent

    used = tuple(picture for key, picture in pictures if is_held(key) == is_held_out)
    if not used:
        split = f" in split '{settings.split}'" if settings.split else ""
        raise SourceError(f"{name} has no usable picture{split}: expected captioned pictures; see {dropped}")
    for reason, count in dropped.items():
        log.warning("%s: %d %s", name, count, reason)
    return PictureSet(name, used, dropped)


def _from_folders(settings: DataSettings, base: Path) -> tuple[list[tuple[str, Captioned]], dict[str, int]]:
    """The pictures by their class, which decides what is held out."""
    root = base / settings.images
    if not root.is_dir():
        raise SourceError(f"{root} is no folder: expected one folder per class in it; check `images`")
    pictures: list[tuple[str, Captioned]] = []
    left_out = 0
    for folder in class_folders(root):
        words = settings.names.get(folder.path.name, folder.words)
        texts = tuple(template.format(words) for template in settings.templates)
        pictures += [(words, Captioned(file, texts)) for file in folder.pictures]
        left_out += folder.left_out
    return pictures, {"files are not pictures by their names": left_out} if left_out else {}


def _from_table(settings: DataSettings, base: Path) -> tuple[list[tuple[str, Captioned]], dict[str, int]]:
    """The pictures by their names in the table."""
    root, path = base / settings.images, base / settings.table
    texts_of: dict[str, list[str]] = {}
    missing: set[str] = set()
    repeated = empty = 0
    table = open_rows(path)
    settings = _with_columns(settings, table.columns)
    for row in _rows(settings, table, path):
        image = str(row.get(settings.image_column) or "")
        texts = [text for name in settings.caption_columns if (text := " ".join(str(row.get(name) or "").split()))]
        if image in missing or not (image in texts_of or (root / image).is_file()):
            missing.add(image)
            continue
        known = texts_of.setdefault(image, [])
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        empty += not texts
        repeated += len(texts) - len(fresh)
        known += fresh
    pictures = [(image, Captioned(root / image, tuple(texts))) for image, texts in texts_of.items() if texts]
    counts = {
        "captioned pictures do not exist": len(missing),
        "rows have no caption": empty,
        "captions are repeated": repeated,
        "pictures have no caption": len(texts_of) - len(pictures),
    }
    return pictures, {reason: count for reason, count in counts.items() if count}


def _with_columns(settings: DataSettings, columns: Sequence[str]) -> DataSettings:
    """The settings with the columns that the table has, where those of the configuration are the usual ones."""
    usual = DataSettings()
    image, captions = settings.image_column, settings.caption_columns
    if image == usual.image_column and image not in columns:
        image = column_of(columns, IMAGE_COLUMNS) or image
    if captions == usual.caption_columns and captions[0] not in columns:
        captions = (column_of(columns, CAPTION_COLUMNS) or captions[0],)
    return replace(settings, image_column=image, caption_columns=captions)


def _rows(settings: DataSettings, table: Rows, path: Path) -> Iterator[Row]:
    """The rows of the chosen split, with the columns checked."""
    for name in (settings.image_column, *settings.caption_columns, settings.split_column):
        if name not in table.columns and (settings.split or name != settings.split_column):
            raise SourceError(
                f"{path} has no column '{name}': it has {', '.join(table.columns) or 'none'}; "
                "name the right one in the configuration"
            )
    splits = dict[str, None]()
    for row in table.walk():
        name = str(row.get(settings.split_column) or "")
        splits[name] = None
        if not settings.split or name == settings.split:
            yield row
    if settings.split and settings.split not in splits:
        raise SourceError(
            f"{path} has no row of split '{settings.split}': it has {', '.join(splits)}; set `split` to one of them"
        )
