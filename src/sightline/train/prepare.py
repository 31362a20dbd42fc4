"""Settings -> a model to train and the sets it learns from, all read, tokenised and made ready."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.encoders.hub import Hub
from sightline.errors import UsageError
from sightline.train.batches import Source
from sightline.train.config import DataSettings, Settings
from sightline.train.data import Captioned, PictureSet, read_set
from sightline.train.keywords import TEMPLATES, keywords
from sightline.train.loop import Anchors
from sightline.train.measure import Measured, owners_of, text_vectors
from sightline.train.own.model import Towers
from sightline.train.own.published import fit_image_head
from sightline.train.own.start import OwnStart, lines
from sightline.train.own.teacher import SqueezeNet, opinions, sentence_vectors
from sightline.train.pictures import without_unreadable
from sightline.train.start import Say, Start, open_start

CLASS_TEMPLATE = "a photo of a {}"
CALIBRATION_PICTURES = 96


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run needs before its first step."""

    start: Start
    sources: Sequence[Source]
    anchors: Anchors
    measures: Sequence[tuple[str, Measured]]
    general: Measured | None
    calibration: Sequence[Path]
    dropped: dict[str, dict[str, int]]

    @property
    def model(self) -> Towers:
        """The model in training."""
        return self.start.model


def prepare(settings: Settings, base: Path, say: Say, hub: Hub | None = None) -> Prepared:
    """Reads data and start weights; `say` is told what is being done, since some of it takes minutes."""
    if not settings.data:
        raise UsageError(
            "there is nothing to train on: expected at least one [[data]] table; add it to the configuration"
        )
    sets = [without_unreadable(read_set(data, base)) for data in settings.data]
    texts = [text for one in sets for picture in one.pictures for text in picture.texts]
    maker = _Maker(settings, base, open_start(settings, base, texts, hub), say)
    sources = [maker.source(data, one) for data, one in zip(settings.data, sets, strict=True)]
    if isinstance(maker.start, OwnStart) and maker.start.folder is None:
        say("fitting the image head to the sentence vectors")
        fit_image_head(maker.start.model, sources[0])
    measures = [(data.name or data.table or data.images, maker.measured(data)) for data in settings.measure]
    general = maker.measured(settings.general) if settings.general else None
    calibration = [path for one in sets for path in _some(one)]
    dropped = {one.name: dict(one.dropped) for one in sets}
    return Prepared(maker.start, sources, maker.anchors(), measures, general, calibration, dropped)


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

    def source(self, data: DataSettings, pictures: PictureSet) -> Source:
        paths = [picture.path for picture in pictures.pictures]
        shown = self.start.training_pictures(data, paths, pictures.name, self.say)
        ids = self._ids(pictures.pictures)
        total = sum(one.share for one in self.settings.data)
        per_step = max(1, round(self.settings.optimiser.batch_size * data.share / total))
        source = Source(shown, ids, _meanings(data, pictures), per_step, self._opinions(paths), self._sentences(ids))
        return self._with_keywords(source, data, pictures) if data.keyword_share else source

    def _with_keywords(self, source: Source, data: DataSettings, pictures: PictureSet) -> Source:
        words = keywords([picture.texts for picture in pictures.pictures])
        phrases = {
            word: self.start.ids([template.format(word) for template in TEMPLATES])
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

    def _opinions(self, paths: Sequence[Path]) -> NDArray[np.float16] | None:
        teacher = self.settings.teacher
        if not teacher.classifier_weight:
            return None
        self.say(f"asking the classifier about {len(paths):,} pictures")
        classifier = SqueezeNet(np.load(self.base / teacher.classifier))
        rows: NDArray[np.float16] = opinions(classifier, paths, self.start.model.shape.image_size)
        return rows

    def _sentences(self, ids: Sequence[Sequence[Sequence[int]]]) -> list[Tensor] | None:
        if not self.settings.teacher.soft_share and self.settings.start.model:
            return None
        if not isinstance(self.start, OwnStart):
            raise UsageError(
                f"teacher.soft_share is {self.settings.teacher.soft_share} and {self.settings.start.model} holds no "
                "sentence encoder: expected 0 with this start; take the line out"
            )
        flat = [row for rows in ids for row in rows]
        self.say(f"sentence vectors of {len(flat):,} texts")
        return list(sentence_vectors(self.start.model.text.eval(), flat).split([len(rows) for rows in ids]))


def _meanings(data: DataSettings, pictures: PictureSet) -> list[list[str]]:
    """Of a class folder every template means the class; of a caption, its words."""
    if data.kind == "folders":
        return [[picture.texts[0].lower()] * len(picture.texts) for picture in pictures.pictures]
    return [[text.lower() for text in picture.texts] for picture in pictures.pictures]
