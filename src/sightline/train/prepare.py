"""What a run needs before its first step: the model and the sets it learns from, read, tokenised and made ready."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from sightline.encoders.hub import Hub
from sightline.errors import UsageError
from sightline.train import clip, mini
from sightline.train.batches import KEYWORD_TEMPLATES, TrainingSet, keywords
from sightline.train.config import DataSettings, Settings
from sightline.train.data import Captioned, PictureSet, read_set
from sightline.train.loop import Anchors, Lesson
from sightline.train.measure import Measured, text_vectors
from sightline.train.model import MOST_CALIBRATION, Say, Start, TwoTowers
from sightline.train.pictures import without_unreadable


class StartRecipe(Lesson, Protocol):
    """The making of a model from other parts than a start of the settings: recipes/mini is one."""

    def start(self, settings: Settings, base: Path, texts: Sequence[str]) -> Start[TwoTowers]:
        """The model before training; `texts` are all that it will learn from."""

    def begin(self, sets: Sequence[PictureSet], sources: Sequence[TrainingSet], say: Say) -> None:
        """Called once, before the anchors are taken."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run needs before its first step."""

    start: Start[TwoTowers]
    sources: Sequence[TrainingSet]
    anchors: Anchors
    measures: Sequence[tuple[str, Measured]]
    general: Measured | None
    calibration: Sequence[Path]
    dropped: dict[str, dict[str, int]]
    lesson: Lesson | None = None

    @property
    def model(self) -> TwoTowers:
        """The model in training."""
        return self.start.model


def prepare(
    settings: Settings, base: Path, say: Say, hub: Hub | None = None, recipe: StartRecipe | None = None
) -> Prepared:
    """Reads data and start weights; `say` is told what is being done, since some of it takes minutes."""
    if not settings.data:
        raise UsageError(
            "there is nothing to train on: expected at least one [[data]] table; add it to the configuration"
        )
    if recipe is None and not settings.start.model:
        raise UsageError(
            "start.model is empty, which only the recipe of a new bundled model reads: name a model, or run "
            "`python -m recipes.mini.make` in a clone of the repository"
        )
    start: Start[TwoTowers]
    sets = [without_unreadable(read_set(data, base)) for data in settings.data]
    if recipe is not None:
        start = recipe.start(settings, base, [text for one in sets for pair in one.pictures for text in pair.texts])
    elif clip.is_clip(settings.start.model, base):
        start = clip.open_start(settings, base, hub)
    else:
        start = mini.open_start(settings, base)
    sources = [_training_set(start, data, one, say) for data, one in zip(settings.data, sets, strict=True)]
    if recipe is not None:
        recipe.begin(sets, sources, say)
    ids = start.ids([line for file in settings.teacher.anchor_texts for line in lines(base / file)])
    with torch.no_grad():  # where the anchors are before training
        vectors = text_vectors(start.model.eval(), ids) if ids else torch.zeros(0, start.model.dim)
    return Prepared(
        start=start,
        sources=sources,
        anchors=Anchors(ids, vectors),
        measures=[(_name(data), _measured(start, data, base, say)) for data in settings.measure],
        general=_measured(start, settings.general, base, say) if settings.general else None,
        calibration=[
            picture.path for one in sets for picture in one.pictures[:: max(1, len(one.pictures) // MOST_CALIBRATION)]
        ],
        dropped={one.name: dict(one.dropped) for one in sets},
        lesson=recipe,
    )


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _name(data: DataSettings) -> str:
    return data.name or data.table or data.images


def _training_set(start: Start[TwoTowers], data: DataSettings, found: PictureSet, say: Say) -> TrainingSet:
    texts, settings = [picture.texts for picture in found.pictures], start.settings
    words = keywords(texts) if data.keyword_share else None
    said = {word for own in words.own for word in own} if words else ()
    if data.kind == "folders":  # every template means the class; a caption means its words
        groups = [[some[0].lower()] * len(some) for some in texts]
    else:
        groups = [[text.lower() for text in some] for some in texts]
    share = data.share / sum(one.share for one in settings.data)
    return TrainingSet(
        pictures=start.training_pictures(data, [picture.path for picture in found.pictures], found.name, say),
        ids=_ids(start, found.pictures),
        positive_groups=groups,
        per_step=max(1, round(settings.optimiser.batch_size * share)),
        keywords=words,
        keyword_ids={word: start.ids([form.format(word) for form in KEYWORD_TEMPLATES]) for word in said},
        keyword_share=data.keyword_share,
    )


def _measured(start: Start[TwoTowers], data: DataSettings, base: Path, say: Say) -> Measured:
    pictures = without_unreadable(read_set(data, base, is_held_out=data.hold_out_percent > 0)).pictures
    say(f"{_name(data)}: {len(pictures):,} pictures to measure on")
    shown = start.measuring_pictures([picture.path for picture in pictures])
    owners = np.repeat(np.arange(len(pictures)), [len(picture.texts) for picture in pictures])
    return Measured(shown, [row for rows in _ids(start, pictures) for row in rows], owners)


def _ids(start: Start[TwoTowers], pictures: Sequence[Captioned]) -> list[list[list[int]]]:
    rows = iter(start.ids([text for picture in pictures for text in picture.texts]))
    return [[next(rows) for _ in picture.texts] for picture in pictures]
