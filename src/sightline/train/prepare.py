"""What a run needs before its first step: the model and the sets it learns from, read, tokenised and made ready."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.encoders.hub import Hub
from sightline.errors import UsageError
from sightline.train.batches import KEYWORD_TEMPLATES, TrainingSet, keywords
from sightline.train.clip import is_clip, open_clip_start
from sightline.train.config import DataSettings, Settings
from sightline.train.data import Captioned, PictureSet, read_set
from sightline.train.loop import Anchors
from sightline.train.measure import Measured, owners_of, text_vectors
from sightline.train.mini import open_mini_start
from sightline.train.model import Say, Start, TwoTowers
from sightline.train.pictures import without_unreadable

CLASS_TEMPLATE = "a photo of a {}"
CALIBRATION_PICTURES = 96


class StartRecipe(Protocol):
    """What only the making of a new bundled model needs; see recipes/mini."""

    def start(self, settings: Settings, base: Path, texts: Sequence[str]) -> Start:
        """A new model from published parts; `texts` decide what its vocabulary holds."""

    def teacher_probabilities(
        self, settings: Settings, base: Path, paths: Sequence[Path]
    ) -> NDArray[np.float16] | None:
        """(n, classes): what a classifier takes each picture for; None without one."""

    def sentences(self, start: Start, ids: Sequence[Sequence[int]]) -> Tensor:
        """(n, hidden): a sentence encoder's unit vectors of texts."""

    def begin(self, start: Start, first: TrainingSet, say: Say) -> None:
        """Called once, before the anchors are taken."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run needs before its first step."""

    start: Start
    sources: Sequence[TrainingSet]
    anchors: Anchors
    measures: Sequence[tuple[str, Measured]]
    general: Measured | None
    calibration: Sequence[Path]
    dropped: dict[str, dict[str, int]]

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
    _check_recipe(settings, recipe)
    sets = [without_unreadable(read_set(data, base)) for data in settings.data]
    if recipe is not None:
        texts = [text for one in sets for picture in one.pictures for text in picture.texts]
        start = recipe.start(settings, base, texts)
    elif is_clip(settings.start.model, base):
        start = open_clip_start(settings, base, hub)
    else:
        start = open_mini_start(settings, base)
    maker = _Maker(settings, base, start, say, recipe)
    sources = [maker.source(data, one) for data, one in zip(settings.data, sets, strict=True)]
    if recipe is not None:
        recipe.begin(start, sources[0], say)
    measures = [(data.name or data.table or data.images, maker.measured(data)) for data in settings.measure]
    general = maker.measured(settings.general) if settings.general else None
    calibration = [path for one in sets for path in _some(one)]
    dropped = {one.name: dict(one.dropped) for one in sets}
    return Prepared(maker.start, sources, maker.anchors(), measures, general, calibration, dropped)


def _check_recipe(settings: Settings, recipe: StartRecipe | None) -> None:
    teacher = settings.teacher
    wanted = {
        "start.model is empty": not settings.start.model,
        "teacher.soft_share is set": bool(teacher.soft_share),
        "teacher.classifier_weight is set": bool(teacher.classifier_weight),
    }
    if recipe is None and any(wanted.values()):
        named = " and ".join(name for name, is_so in wanted.items() if is_so)
        raise UsageError(
            f"{named}, which only the recipe of a new bundled model reads: take it out of the configuration, or run "
            "`python -m recipes.mini.make` in a clone of the repository"
        )


def _some(pictures: PictureSet) -> list[Path]:
    step = max(1, len(pictures.pictures) // CALIBRATION_PICTURES)
    return [picture.path for picture in pictures.pictures[::step]]


@dataclass(frozen=True, slots=True)
class _Maker:
    """Turns sets of pictures into tensors with the model as it is before training."""

    settings: Settings
    base: Path
    start: Start
    say: Say
    recipe: StartRecipe | None

    def source(self, data: DataSettings, pictures: PictureSet) -> TrainingSet:
        paths = [picture.path for picture in pictures.pictures]
        shown = self.start.training_pictures(data, paths, pictures.name, self.say)
        ids = self._ids(pictures.pictures)
        total = sum(one.share for one in self.settings.data)
        source = TrainingSet(
            pictures=shown,
            ids=ids,
            positive_groups=_positive_groups(data, pictures),
            per_step=max(1, round(self.settings.optimiser.batch_size * data.share / total)),
            teacher_probabilities=self._teacher_probabilities(paths),
            sentences=self._sentences(ids),
        )
        return self._with_keywords(source, data, pictures) if data.keyword_share else source

    def _with_keywords(self, source: TrainingSet, data: DataSettings, pictures: PictureSet) -> TrainingSet:
        words = keywords([picture.texts for picture in pictures.pictures])
        phrases = {
            word: self.start.ids([template.format(word) for template in KEYWORD_TEMPLATES])
            for word in {word for own in words.own for word in own}
        }
        return replace(source, keywords=words, keyword_ids=phrases, keyword_share=data.keyword_share)

    def measured(self, data: DataSettings) -> Measured:
        pictures = without_unreadable(read_set(data, self.base, is_held_out=data.hold_out_percent > 0)).pictures
        self.say(f"{data.name or data.table or data.images}: {len(pictures):,} pictures to measure on")
        shown = self.start.measuring_pictures([picture.path for picture in pictures])
        return Measured(shown, [row for rows in self._ids(pictures) for row in rows], owners_of(pictures))

    def anchors(self) -> Anchors:
        teacher, model = self.settings.teacher, self.start.model
        ids = self.start.ids([line for file in teacher.anchor_texts for line in lines(self.base / file)])
        names = lines(self.base / teacher.class_names) if teacher.classifier_weight else []
        class_ids = self.start.ids([CLASS_TEMPLATE.format(name) for name in names])
        vectors = self._start_vectors(ids) if ids else torch.zeros(0, model.shape.dim)
        return Anchors(ids, vectors, class_ids)

    def _start_vectors(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Where the anchors are before training: the sentence encoder's own space, for a new model."""
        with torch.no_grad():
            return text_vectors(self.start.model.eval(), ids)

    def _ids(self, pictures: Sequence[Captioned]) -> list[list[list[int]]]:
        flat = [text for picture in pictures for text in picture.texts]
        rows = iter(self.start.ids(flat))
        return [[next(rows) for _ in picture.texts] for picture in pictures]

    def _teacher_probabilities(self, paths: Sequence[Path]) -> NDArray[np.float16] | None:
        if self.recipe is None or not self.settings.teacher.classifier_weight:
            return None
        self.say(f"asking the classifier about {len(paths):,} pictures")
        return self.recipe.teacher_probabilities(self.settings, self.base, paths)

    def _sentences(self, ids: Sequence[Sequence[Sequence[int]]]) -> list[Tensor] | None:
        if self.recipe is None:
            return None
        flat = [row for rows in ids for row in rows]
        self.say(f"sentence vectors of {len(flat):,} texts")
        return list(self.recipe.sentences(self.start, flat).split([len(rows) for rows in ids]))


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _positive_groups(data: DataSettings, pictures: PictureSet) -> list[list[str]]:
    """Of a class folder every template means the class; of a caption, its words."""
    if data.kind == "folders":
        return [[picture.texts[0].lower()] * len(picture.texts) for picture in pictures.pictures]
    return [[text.lower() for text in picture.texts] for picture in pictures.pictures]
