"""The batch of one step, the same for the same seed and step, so that a resumed run repeats it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sightline.train.pictures import Pictures

Ids = Sequence[int]
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


@dataclass(frozen=True, slots=True)
class Keywords:
    """Per picture: words that at least two of its captions have, and all frequent words that any has.

    People type `dog` and captions never say just that: a model that sees sentences only puts bare words anywhere, and
    `dog` found a pizza.
    """

    own: Sequence[tuple[str, ...]]
    any: Sequence[frozenset[str]]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """One set made ready to train on. Lists run over its pictures, inner lists over the texts of one picture."""

    pictures: Pictures
    ids: Sequence[Sequence[Ids]]
    positive_groups: Sequence[Sequence[str]]
    """Texts of the same meaning are right for each other's pictures: the lower-cased text, or the class."""
    per_step: int
    teacher_probabilities: NDArray[np.float16] | None = None
    sentences: Sequence[Tensor] | None = None
    """Per picture (texts, hidden): the sentence encoder's unit vectors of its texts."""
    keywords: Keywords | None = None
    keyword_ids: Mapping[str, Sequence[Ids]] | None = None
    """For every keyword the ids of the phrases that it appears in."""
    keyword_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts and pictures of one step; `positives[t, p]` is 1 where text t fits picture p."""

    pictures: Sequence[Tensor]
    ids: Sequence[Ids]
    positives: Tensor
    teacher_probabilities: Tensor | None
    similarity: Tensor | None
    """(texts, pictures): how near each text is to the mean of each picture's texts, for the sentence encoder."""
    is_sentence: Tensor
    """(texts,): false for keywords, which have no similarity."""


@dataclass(frozen=True, slots=True)
class _Pick:
    """What one source gives to a step: pictures by place, and for each some of its texts or keywords instead."""

    source: TrainingSet
    pictures: Tensor
    places: NDArray[np.int64]
    texts: Sequence[tuple[int, int]]
    """(row of the picture in `places`, number of the text)."""
    words: Mapping[int, tuple[str, Ids]]
    """By position in `texts`: the keyword that takes its place, and its ids."""


def draw(sources: Sequence[TrainingSet], step: int, *, seed: int, texts_per_picture: int = 1) -> Batch:
    """The batch of a step: every source gives its `per_step` pictures, each with some of its texts."""
    rng = np.random.default_rng((seed, step))
    picks = [
        _pick(source, _places(source, step, seed=seed + 1000 * number), rng, texts_per_picture)
        for number, source in enumerate(sources, 1)
    ]
    positives = torch.block_diag(*(_positives(pick) for pick in picks))
    ids = [row for pick in picks for row in _ids(pick)]
    is_sentence = [place not in pick.words for pick in picks for place in range(len(pick.texts))]
    pictures = [pick.pictures for pick in picks]
    return Batch(pictures, ids, positives, _teacher_probabilities(picks), _similarity(picks), torch.tensor(is_sentence))


def _places(source: TrainingSet, step: int, *, seed: int) -> NDArray[np.int64]:
    """The next pictures of a shuffled pass over the source; each pass has its own order."""
    count, wanted = len(source.ids), min(source.per_step, len(source.ids))
    steps_per_pass = count // wanted
    order = np.random.default_rng((seed, step // steps_per_pass)).permutation(count)
    start = step % steps_per_pass * wanted
    return order[start : start + wanted]


def _pick(source: TrainingSet, places: NDArray[np.int64], rng: np.random.Generator, texts_per_picture: int) -> _Pick:
    pictures = source.pictures.augmented(places, rng)
    texts = [
        (row, int(number))
        for row, place in enumerate(places)
        for number in rng.permutation(len(source.ids[place]))[:texts_per_picture]
    ]
    words = {}
    for position, (row, _) in enumerate(texts):
        own = source.keywords.own[places[row]] if source.keywords and source.keyword_ids else ()
        if own and rng.random() < source.keyword_share:
            word = own[int(rng.integers(len(own)))]
            phrases = (source.keyword_ids or {})[word]
            words[position] = (word, phrases[int(rng.integers(len(phrases)))])
    return _Pick(source, pictures, places, texts, words)


def _ids(pick: _Pick) -> list[Ids]:
    source, places = pick.source, pick.places
    chosen = [source.ids[places[row]][number] for row, number in pick.texts]
    return [pick.words[n][1] if n in pick.words else ids for n, ids in enumerate(chosen)]


def _positives(pick: _Pick) -> Tensor:
    """(texts, pictures) of one source: 1 for the text's own picture and for those that share its meaning or keyword."""
    positive_groups = [pick.source.positive_groups[pick.places[row]][number] for row, number in pick.texts]
    said: list[set[str]] = [set() for _ in pick.places]
    for (row, _), meaning in zip(pick.texts, positive_groups, strict=True):
        said[row].add(meaning)
    positives = np.array([[meaning in one for one in said] for meaning in positive_groups], np.float32)
    if pick.source.keywords is not None:
        for position, (word, _) in pick.words.items():
            positives[position] = [word in pick.source.keywords.any[place] for place in pick.places]
    return torch.from_numpy(positives)


def _teacher_probabilities(picks: Sequence[_Pick]) -> Tensor | None:
    rows = [
        pick.source.teacher_probabilities[pick.places]
        for pick in picks
        if pick.source.teacher_probabilities is not None
    ]
    return torch.from_numpy(np.concatenate(rows)).float() if len(rows) == len(picks) else None


def _similarity(picks: Sequence[_Pick]) -> Tensor | None:
    chosen, means = [], []
    for pick in picks:
        sentences = pick.source.sentences
        if sentences is None:
            return None
        chosen += [sentences[pick.places[row]][number] for row, number in pick.texts]
        means += [sentences[place].mean(dim=0) for place in pick.places]
    pictures = functional.normalize(torch.stack(means), dim=-1)
    return torch.stack(chosen) @ pictures.T  # (texts, hidden) @ (hidden, pictures) -> (texts, pictures)


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
    single = {word for word in words if _counts(word)}
    return single | {f"{one} {other}" for one, other in pairwise(words) if _counts(one) and _counts(other)}


def _counts(word: str) -> bool:
    return len(word) >= SHORTEST and word not in STOP_WORDS
