"""Sets of pictures -> the batch of one step, the same for the same seed and step, so that a resumed run repeats it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.train.views import Maps, window


@dataclass(frozen=True, slots=True)
class Source:
    """One set made ready to train on. Lists run over its pictures, inner lists over the texts of one picture."""

    views: Sequence[Maps]
    ids: Sequence[Sequence[Sequence[int]]]
    meanings: Sequence[Sequence[str]]
    """Texts of the same meaning are right for each other's pictures: the lower-cased text, or the class."""
    per_step: int
    opinions: NDArray[np.float16] | None = None
    sentences: Sequence[Tensor] | None = None
    """Per picture (texts, hidden): the sentence encoder's unit vectors of its texts."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Text n and picture n belong together; `positives[n, m]` is 1 where text n also fits picture m."""

    maps: Sequence[Tensor]
    ids: Sequence[Sequence[int]]
    positives: Tensor
    opinions: Tensor | None
    similarity: Tensor | None
    """(texts, pictures): how near each text is to the mean of each picture's texts, for the sentence encoder."""


def draw(sources: Sequence[Source], step: int, *, seed: int, slack: int) -> Batch:
    """The batch of a step: every source gives its `per_step` pictures, one text and one view for each."""
    chance = np.random.default_rng((seed, step))
    maps, ids, meanings, picks = [], [], [], []
    for number, source in enumerate(sources):
        places = _places(source, step, seed=seed + 1000 * (number + 1))
        view = source.views[int(chance.integers(len(source.views)))]
        maps.append(window(view[places], slack, chance))
        choices = [int(chance.integers(len(source.ids[place]))) for place in places]
        ids += [source.ids[place][choice] for place, choice in zip(places, choices, strict=True)]
        meanings += [
            f"{number} {source.meanings[place][choice]}" for place, choice in zip(places, choices, strict=True)
        ]
        picks.append((source, places, choices))
    _, codes = np.unique(meanings, return_inverse=True)
    positives = torch.from_numpy((codes[:, None] == codes[None]).astype(np.float32))
    return Batch(maps, ids, positives, _opinions(picks), _similarity(picks))


Pick = tuple[Source, NDArray[np.int64], list[int]]


def _places(source: Source, step: int, *, seed: int) -> NDArray[np.int64]:
    """The next pictures of a shuffled pass over the source; each pass has its own order."""
    count, wanted = len(source.ids), min(source.per_step, len(source.ids))
    steps_per_pass = count // wanted
    order = np.random.default_rng((seed, step // steps_per_pass)).permutation(count)
    start = step % steps_per_pass * wanted
    return order[start : start + wanted]


def _opinions(picks: Sequence[Pick]) -> Tensor | None:
    rows = [source.opinions[places] for source, places, _ in picks if source.opinions is not None]
    return torch.from_numpy(np.concatenate(rows)).float() if len(rows) == len(picks) else None


def _similarity(picks: Sequence[Pick]) -> Tensor | None:
    chosen, means = [], []
    for source, places, choices in picks:
        if source.sentences is None:
            return None
        chosen += [source.sentences[place][choice] for place, choice in zip(places, choices, strict=True)]
        means += [source.sentences[place].mean(dim=0) for place in places]
    pictures = torch.nn.functional.normalize(torch.stack(means), dim=-1)
    return torch.stack(chosen) @ pictures.T  # (n, hidden) @ (hidden, n) -> (n, n)
