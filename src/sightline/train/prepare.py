"""Settings -> a model to train and the sets it learns from, all read, tokenised and cached."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from sightline.errors import UsageError
from sightline.train.batches import Source
from sightline.train.config import DataSettings, Settings
from sightline.train.data import Captioned, PictureSet, read_set
from sightline.train.keywords import TEMPLATES, keywords
from sightline.train.loop import Anchors
from sightline.train.measure import Measured, owners_of, text_vectors
from sightline.train.model import Shape, TwoTowers
from sightline.train.restore import restore
from sightline.train.starts import bert_state, fit_image_head, mobilenet_state
from sightline.train.teacher import SqueezeNet, opinions, sentence_vectors
from sightline.train.text import prune, token_ids
from sightline.train.views import View, pixels, stem_maps

BUNDLED = Path(__file__).parent.parent / "encoders" / "mini"
CLASS_TEMPLATE = "a photo of a {}"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run needs before its first step."""

    model: TwoTowers
    tokenizer: Tokenizer
    sources: Sequence[Source]
    anchors: Anchors
    measures: Sequence[tuple[str, Measured]]
    general: Measured | None
    calibration: Sequence[Path]
    start_folder: Path | None
    """The model folder that the weights came from; None for a new model."""
    dropped: dict[str, dict[str, int]]


def prepare(settings: Settings, base: Path, say: Say) -> Prepared:
    """Reads data and start weights; `say` is told what is being done, since caching maps takes minutes."""
    if not settings.data:
        raise UsageError(
            "there is nothing to train on: expected at least one [[data]] table; add it to the configuration"
        )
    sets = [read_set(data, base) for data in settings.data]
    model, tokenizer = _start(
        settings, base, [text for one in sets for picture in one.pictures for text in picture.texts]
    )
    model.to(memory_format=torch.channels_last)
    maker = _Maker(settings, base, model, tokenizer, say)
    sources = [maker.source(data, one) for data, one in zip(settings.data, sets, strict=True)]
    if not settings.start.model:
        say("fitting the image head to the sentence vectors")
        fit_image_head(model, sources[0])
    measures = [(data.name or data.table or data.images, maker.measured(data)) for data in settings.measure]
    general = maker.measured(settings.general) if settings.general else None
    calibration = [picture.path for one in sets for picture in one.pictures[:: max(1, len(one.pictures) // 96)]]
    dropped = {one.name: dict(one.dropped) for one in sets}
    folder = start_folder(settings, base)
    return Prepared(model, tokenizer, sources, maker.anchors(), measures, general, calibration, folder, dropped)


def start_folder(settings: Settings, base: Path) -> Path | None:
    """The folder of the model to start from; None when it is made from published parts."""
    name = settings.start.model
    return BUNDLED if name == "mini" else base / name if name else None


def _start(settings: Settings, base: Path, texts: Sequence[str]) -> tuple[TwoTowers, Tokenizer]:
    """The bundled model, a model folder, or a new model from published parts."""
    start, dropout = settings.start, settings.optimiser.dropout
    torch.manual_seed(settings.seed)
    folder = start_folder(settings, base)
    if folder is not None:
        return restore(folder, dropout=dropout)
    words = [*texts, *(line for file in start.vocabulary_texts for line in _lines(base / file))]
    full = Tokenizer.from_file(str(base / start.tokenizer))
    tokenizer, kept = prune(full, words, size=start.vocabulary_size)
    shape = Shape(image_size=start.image_size, vocabulary_size=len(kept))
    model = TwoTowers(shape, dropout)
    model.image.load_state_dict(mobilenet_state(base / start.image_weights), strict=False)
    state = bert_state(base / start.text_weights, kept, context_length=shape.context_length)
    model.text.load_state_dict(state | {"projection.weight": torch.eye(shape.dim, shape.hidden)})
    return model, tokenizer


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


@dataclass(frozen=True, slots=True)
class _Maker:
    """Turns sets of pictures into tensors with the model as it is before training."""

    settings: Settings
    base: Path
    model: TwoTowers
    tokenizer: Tokenizer
    say: Say

    def source(self, data: DataSettings, pictures: PictureSet) -> Source:
        paths = [picture.path for picture in pictures.pictures]
        side, seed = self.model.shape.image_size, self.settings.seed
        views = []
        for number in range(data.views):
            self.say(f"{pictures.name}: view {number + 1} of {data.views}, {len(paths):,} pictures")
            views.append(stem_maps(self.model.image.eval(), paths, View(number, side, seed)))
        ids = self._ids(pictures.pictures)
        total = sum(one.share for one in self.settings.data)
        per_step = max(1, round(self.settings.optimiser.batch_size * data.share / total))
        source = Source(views, ids, _meanings(data, pictures), per_step, self._opinions(paths), self._sentences(ids))
        return self._with_keywords(source, data, pictures) if data.keyword_share else source

    def _with_keywords(self, source: Source, data: DataSettings, pictures: PictureSet) -> Source:
        words = keywords([picture.texts for picture in pictures.pictures])
        length = self.model.shape.context_length
        phrases = {
            word: token_ids(self.tokenizer, [template.format(word) for template in TEMPLATES], context_length=length)
            for word in {word for own in words.own for word in own}
        }
        return replace(source, keywords=words, keyword_ids=phrases, keyword_share=data.keyword_share)

    def measured(self, data: DataSettings) -> Measured:
        pictures = read_set(data, self.base, is_held_out=data.hold_out_percent > 0).pictures
        self.say(f"{data.name or data.table or data.images}: {len(pictures):,} pictures to measure on")
        whole = View(0, self.model.shape.image_size)
        maps = stem_maps(self.model.image.eval(), [picture.path for picture in pictures], whole)
        return Measured(maps, [row for rows in self._ids(pictures) for row in rows], owners_of(pictures))

    def anchors(self) -> Anchors:
        teacher = self.settings.teacher
        texts = [line for file in teacher.anchor_texts for line in _lines(self.base / file)]
        ids = token_ids(self.tokenizer, texts, context_length=self.model.shape.context_length)
        names = _lines(self.base / teacher.class_names) if teacher.classifier_weight else []
        named = [CLASS_TEMPLATE.format(name) for name in names]
        class_ids = token_ids(self.tokenizer, named, context_length=self.model.shape.context_length)
        vectors = self._start_vectors(ids) if ids else torch.zeros(0, self.model.shape.dim)
        return Anchors(ids, vectors, class_ids)

    def _start_vectors(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Where the anchors are before training: the sentence encoder's own space, for a new model."""
        with torch.no_grad():
            return text_vectors(self.model.eval(), ids)

    def _ids(self, pictures: Sequence[Captioned]) -> list[list[list[int]]]:
        flat = [text for picture in pictures for text in picture.texts]
        rows = iter(token_ids(self.tokenizer, flat, context_length=self.model.shape.context_length))
        return [[next(rows) for _ in picture.texts] for picture in pictures]

    def _opinions(self, paths: Sequence[Path]) -> NDArray[np.float16] | None:
        teacher = self.settings.teacher
        if not teacher.classifier_weight:
            return None
        self.say(f"asking the classifier about {len(paths):,} pictures")
        classifier = SqueezeNet(np.load(self.base / teacher.classifier))
        rows: NDArray[np.float16] = opinions(classifier, paths, self.model.shape.image_size)
        return rows

    def _sentences(self, ids: Sequence[Sequence[Sequence[int]]]) -> list[Tensor] | None:
        if not self.settings.teacher.soft_share and self.settings.start.model:
            return None
        flat = [row for rows in ids for row in rows]
        self.say(f"sentence vectors of {len(flat):,} texts")
        return list(sentence_vectors(self.model.text.eval(), flat).split([len(rows) for rows in ids]))


def _meanings(data: DataSettings, pictures: PictureSet) -> list[list[str]]:
    """Of a class folder every template means the class; of a caption, its words."""
    if data.kind == "folders":
        return [[picture.texts[0].lower()] * len(picture.texts) for picture in pictures.pictures]
    return [[text.lower() for text in picture.texts] for picture in pictures.pictures]


def calibration_pixels(paths: Sequence[Path], side: int) -> NDArray[np.uint8]:
    """(n, 3, side, side): whole pictures for the quantiser."""
    return np.stack([pixels(path, View(0, side)) for path in paths])
