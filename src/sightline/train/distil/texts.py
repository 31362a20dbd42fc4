"""Captions, names and titles of many pictures -> each text once, with the pictures that it is right for."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.train.config import DataSettings
from sightline.train.data import KEYWORD_TEMPLATES, PictureSet, keywords, read_set

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TextSet:
    """One set: for each of its pictures the numbers of its texts, and of the bare words among them."""

    share: float
    keyword_share: float
    places: Places
    texts: Sequence[Sequence[int]]
    words: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Texts:
    """Every text once. `right` says for each which pictures it is right for, by their places among the teacher's."""

    texts: tuple[str, ...]
    right: Sequence[Places]
    sets: Sequence[TextSet]

    def draw(self, count: int, chance: np.random.Generator) -> tuple[Places, Places]:
        """Numbers of texts, and a place of a picture for each: a set by its share, a picture of it, a text of that."""
        shares = np.array([one.share for one in self.sets], np.float64)
        numbers, places = [], []
        for which in chance.choice(len(self.sets), count, p=shares / shares.sum()):
            one = self.sets[which]
            row = int(chance.integers(len(one.places)))
            words = one.words[row] if chance.random() < one.keyword_share else ()
            some = words or one.texts[row]
            numbers.append(some[int(chance.integers(len(some)))])
            places.append(one.places[row])
        return np.array(numbers), np.array(places)

    def right_for(self, count: int) -> list[Places]:
        """For each of the teacher's `count` pictures the numbers of the texts that are right for it."""
        owners = np.concatenate(list(self.right))
        numbers = np.repeat(np.arange(len(self.texts)), [len(at) for at in self.right])
        order = np.argsort(owners, kind="stable")
        return np.split(numbers[order], np.searchsorted(owners[order], np.arange(1, count)))

    def said_of(self, count: int) -> list[Places]:
        """The same without bare words that captions agree on."""
        found: list[list[int]] = [[] for _ in range(count)]
        for one in self.sets:
            for place, texts in zip(one.places, one.texts, strict=True):
                found[place] += texts
        return [np.unique(np.array(some, np.int64)) for some in found]


def texts_of(settings: Sequence[DataSettings], base: Path, root: Path, places: Mapping[str, int]) -> Texts:
    """The texts of all sets; `places` are those of the teacher's pictures by their names, relative to `root`."""
    numbers: dict[str, int] = {}
    right: list[list[int]] = []

    def number(text: str, at: Sequence[int]) -> int:
        known = numbers.setdefault(text, len(numbers))
        right.extend([] for _ in range(len(numbers) - len(right)))
        right[known] += at
        return known

    sets = []
    for one in settings:
        pictures = read_set(one, base)
        known = [
            (place, picture.texts)
            for picture, name in zip(pictures.pictures, names_of(pictures, root), strict=True)
            if (place := places.get(name)) is not None
        ]
        if not known:
            continue
        templates = one.templates if one.kind == "captions" else ("{}",)  # folders have theirs filled in
        texts = [
            [number(template.format(text), [place]) for text in some for template in templates] for place, some in known
        ]
        words: list[list[int]] = [[] for _ in known]
        if one.keyword_share:
            found = keywords([some for _, some in known])
            said: dict[str, list[int]] = {}
            for (place, _), some_words in zip(known, found.any, strict=True):
                for word in some_words:
                    said.setdefault(word, []).append(place)
            forms = tuple(dict.fromkeys(KEYWORD_TEMPLATES))
            phrases = {word: [number(form.format(word), at) for form in forms] for word, at in said.items()}
            words = [[phrase for word in own for phrase in phrases[word]] for own in found.own]
        sets.append(TextSet(one.share, one.keyword_share, np.array([place for place, _ in known]), texts, words))
    return Texts(tuple(numbers), [np.unique(at) for at in right], sets)


def names_of(pictures: PictureSet, root: Path) -> list[str]:
    """The names of a set's pictures as the teacher has them: paths relative to `root`."""
    return [Path(os.path.relpath(picture.path, root)).as_posix() for picture in pictures.pictures]
