"""The batch of one step, the same for the same seed and step, so that a resumed run repeats it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    keywords: Keywords | None = None
    keyword_ids: Mapping[str, Sequence[Ids]] = field(default_factory=dict)
    """For every keyword the ids of the phrases that it appears in."""
    keyword_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts and pictures of one step; `positives[t, p]` is 1 where text t fits picture p."""

    pictures: Sequence[Tensor]
    ids: Sequence[Ids]
    positives: Tensor
    places: Sequence[NDArray[np.int64]]
    """For each source the places of its pictures."""
    texts: Sequence[tuple[int, int, int]]
    """Of each text: number of the source, place of the picture, and number of the text, -1 for a keyword."""


def draw(sources: Sequence[TrainingSet], step: int, *, seed: int, texts_per_picture: int = 1) -> Batch:
    """The batch of a step: every source gives its `per_step` pictures, each with some of its texts.

    These are the next pictures of a shuffled pass over the source; each pass has its own order.
    """
    rng = np.random.default_rng((seed, step))
    pictures, places, ids, texts, positives = [], [], [], [], []
    for number, source in enumerate(sources):
        count, wanted = len(source.ids), min(source.per_step, len(source.ids))
        order = np.random.default_rng((seed + 1000 * (number + 1), step // (count // wanted))).permutation(count)
        start = step % (count // wanted) * wanted
        here = order[start : start + wanted]
        places.append(here)
        pictures.append(source.pictures.augmented(here, rng))
        chosen = [(int(at), int(n)) for at in here for n in rng.permutation(len(source.ids[at]))[:texts_per_picture]]
        words = _words_instead(source, [at for at, _ in chosen], rng)
        ids += [words[n][1] if n in words else source.ids[at][which] for n, (at, which) in enumerate(chosen)]
        texts += [(number, at, -1 if n in words else which) for n, (at, which) in enumerate(chosen)]
        positives.append(_positives(source, here, chosen, {n: word for n, (word, _) in words.items()}))
    return Batch(pictures, ids, torch.block_diag(*positives), places, texts)


def _words_instead(source: TrainingSet, places: Sequence[int], rng: np.random.Generator) -> dict[int, tuple[str, Ids]]:
    """By position in `places`: a keyword in place of the picture's text, and the ids of a phrase with it."""
    words = {}
    for position, place in enumerate(places):
        own = source.keywords.own[place] if source.keywords else ()
        if own and rng.random() < source.keyword_share:
            word = own[int(rng.integers(len(own)))]
            phrases = source.keyword_ids[word]
            words[position] = word, phrases[int(rng.integers(len(phrases)))]
    return words


def _positives(
    source: TrainingSet, places: NDArray[np.int64], texts: Sequence[tuple[int, int]], words: Mapping[int, str]
) -> Tensor:
    """(texts, pictures) of one source: 1 for the text's own picture and for those that share its meaning or keyword."""
    groups = [source.positive_groups[at][which] for at, which in texts]
    said: dict[int, set[str]] = {int(at): set() for at in places}
    for (at, _), group in zip(texts, groups, strict=True):
        said[at].add(group)
    positives = np.array([[group in said[at] for at in said] for group in groups], np.float32)
    if source.keywords is not None:
        for position, word in words.items():
            positives[position] = [word in source.keywords.any[at] for at in said]
    return torch.from_numpy(positives)


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
