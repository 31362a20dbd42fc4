"""The sets of a training run, caption tables or class folders: read, counted what does not fit, with their keywords."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import SourceError
from sightline.sources.delimited import CAPTION_COLUMNS, IMAGE_COLUMNS
from sightline.sources.folder import class_folders
from sightline.sources.rows import open_rows
from sightline.train.config import DataSettings

KEYWORD_TEMPLATES = ("{}", "{}", "{}", "a {}", "a photo of a {}", "a picture of {}", "{} in a photo")
SHORTEST = 3
AGREEING = 2
STOP_WORDS = frozenset(
    "a an the of in on at is are and with to his her its their through by for from up down out into over near while "
    "two three one four several some other another as it he she they that this who which be being has have behind "
    "front next against around off onto along across under during top side very all each them him there look looks "
    "looking stand stands standing sit sits sitting wear wears wearing hold holds holding small big little large "
    "young older old group different".split()
)
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


@dataclass(frozen=True, slots=True)
class Keywords:
    """Per picture: words that at least two of its captions have, and all frequent words that any has.

    People type `dog` and captions never say just that: a model that sees sentences only puts bare words anywhere, and
    `dog` found a pizza.
    """

    own: Sequence[tuple[str, ...]]
    any: Sequence[frozenset[str]]


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
        raise SourceError(f"{root} is not a folder: expected one folder per class in it; check `images`")
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
    root = base / settings.images
    texts_of: dict[str, list[str]] = {}
    missing: set[str] = set()
    repeated = empty = 0
    table, usual = open_rows(base / settings.table), DataSettings()
    image_column, caption_columns = settings.image_column, settings.caption_columns
    if image_column == usual.image_column:  # any of the usual names will do
        image_column = table.column(IMAGE_COLUMNS) or image_column
    if caption_columns == usual.caption_columns:
        caption_columns = (table.column(CAPTION_COLUMNS) or caption_columns[0],)
    for name in (image_column, *caption_columns):
        table.column((), name, option="the configured one")
    for row in table.of_split(settings.split, settings.split_column):
        image = str(row.get(image_column) or "")
        texts = [text for name in caption_columns if (text := " ".join(str(row.get(name) or "").split()))]
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


def keywords(captions: Sequence[Sequence[str]], *, least_pictures: int = 15) -> Keywords:
    """Words and pairs of neighbouring words that are agreed on for at least `least_pictures` pictures."""
    counts = [Counter(word for text in texts for word in _words(text)) for texts in captions]
    agreed = [{word for word, count in counter.items() if count >= AGREEING} for counter in counts]
    totals = Counter(word for words in agreed for word in words)
    frequent = {word for word, total in totals.items() if total >= least_pictures}
    own = [tuple(sorted(words & frequent)) for words in agreed]
    return Keywords(own, [frozenset(counter.keys() & frequent) for counter in counts])


def _words(text: str) -> set[str]:
    words = re.findall(r"[a-z]+", text.lower())
    counting = [len(word) >= SHORTEST and word not in STOP_WORDS for word in words]
    pairs = {f"{words[n]} {words[n + 1]}" for n in range(len(words) - 1) if counting[n] and counting[n + 1]}
    return {word for word, counts in zip(words, counting, strict=True) if counts} | pairs
