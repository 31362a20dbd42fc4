"""Scores of an index against stock phrases turned into a line: how near each picture comes to a text by chance.

Every picture is somewhat near to every text, and some are nearer to all of them than others (hubs: Radovanović et al.
2010, JMLR 11). So each picture is measured by its own scores: mean and variance of its cosines to a few thousand stock
phrases, the variance kept as a few principal axes. What counts is how many deviations a score stands above that mean.

How high is high comes from texts that mean nothing: draws from a Gaussian with the phrases' mean and covariance.
`heights` are those above which such a text has so many pictures, on average. The best hit is likely if it stands where
chance puts 0.05 pictures; of the best r it then is all r if they stand where chance puts 0.1 r (the false discovery
rate of Benjamini and Hochberg 1995). So a text that means nothing finds something in about 5 of 100 cases, and ten
pictures of dogs need not all be extraordinary.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sightline.chunks import chunks
from sightline.errors import TextNotSupported
from sightline.types import Hit, Note, Record, Vector, Vectors

if TYPE_CHECKING:
    from sightline.encoders.base import Encoder
    from sightline.stores.base import Store

_KIND = "line"  # the kind of note, and its key
_PICTURES = 20_000  # looked at; for a larger index the heights are extrapolated
_LEAST_PHRASES, _MOST_PHRASES = 512, 2_000  # as many as pictures, so that a small index costs little
_DRAWS = 1_000  # texts that mean nothing: 0.05 pictures each are then 50, and the height is known to 0.03
_EXPECTED = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # pictures by chance, whose heights are kept
_OF_THE_BEST, _OF_OTHERS = 0.05, 0.1  # pictures by chance that the best hit may stand for, and each other one
_KEPT = 100  # scores of each draw: the heights need 10 of each on average
_MOST_AXES = 16  # with mini as good as all 384: area under the curve 0.953 against 0.954
_NOTE_BYTES = 18_000  # some engines keep 40 kB of a note at most
_LEAST_VARIANCE = 1e-12  # of a model that gives every text the same vector
_AT_ONCE = 2_048  # pictures compared with all draws at a time
_WITHOUT_THREADS = 16  # pictures at a time: products of that size stay on one core, where a search may share it
_GROWTH = 2.0  # an index that has doubled gets another line


Stand = tuple[float, float]
"""The mean and the deviation of one picture's cosines to texts."""

MOST_JUDGED = 1_000
"""Hits of a query that are judged: the vector of each is read, 7 us from a folder and more from a database."""


@dataclass(frozen=True, slots=True)
class Line:
    """What of an index's scores is chance.

    A picture's mean is its product with `mean` (dim,), its variance the sum of its squared products with `axes`
    (a, dim) plus `rest`. `heights` are those of `_EXPECTED` among the `seen` pictures that were looked at.
    """

    mean: Vector
    axes: Vectors
    rest: float
    heights: Vector
    seen: int
    pictures: int
    """How many the index had when the line was drawn."""

    def stands(self, vectors: Vectors) -> tuple[Vector, Vector]:
        """(n, dim) pictures -> (n,) means and (n,) deviations of each one's cosines to texts."""
        few = range(0, len(vectors), _WITHOUT_THREADS)
        deviations = [deviations_of(vectors[at : at + _WITHOUT_THREADS], self.axes, self.rest) for at in few]
        return np.asarray(vectors @ self.mean, np.float32), np.concatenate(deviations)

    def puts_pictures_as(self, other: Line) -> bool:
        """Whether the stands of all pictures are the same."""
        same = np.array_equal(self.mean, other.mean) and np.array_equal(self.axes, other.axes)
        return same and self.rest == other.rest

    def chances(self, scores: Vector, means: Vector, deviations: Vector) -> Vector:
        """Cosines (n,) of a text to the nearest pictures, all n of them -> (n,) cosines that chance explains."""
        above = (scores - means) / deviations
        order = np.argsort(-above, kind="stable")
        heights = self.height(np.arange(1, len(above) + 1))
        failing = np.flatnonzero(above[order] < heights)
        likely = failing[0] if len(failing) else len(above)
        needed = np.full(len(above), heights[min(likely, len(above) - 1)])
        needed[order[:likely]] = heights[:likely]
        return np.asarray(means + needed * deviations, np.float32)

    def height(self, ranks: NDArray[np.int64]) -> Vector:
        """(n,) ranks among all pictures -> (n,) deviations that chance explains at each.

        The best of n Gaussian scores grows by log n / sqrt(2 log n) (Fisher and Tippett 1928): that carries the height
        from the pictures looked at to all of them.
        """
        expected = np.where(ranks == 1, _OF_THE_BEST, _OF_OTHERS * ranks) * self.seen / max(self.pictures, self.seen)
        known = np.interp(np.log(expected), np.log(_EXPECTED), self.heights)
        growth = 1 / np.sqrt(2 * np.log(max(self.seen, 3)))
        return np.asarray(known - growth * np.log(np.minimum(expected / _EXPECTED[0], 1)), np.float32)


def drawn(store: Store, encoder: Encoder) -> Line | None:
    """The line that was drawn last; None where none was with this model, text tower included. Reads one note."""
    note = store.notes(_KIND).get(_KIND)
    return _of_note(note) if note is not None and note["fingerprint"] == encoder.fingerprint else None


def stands_of(line: Line, records: Sequence[Record]) -> dict[str, Stand]:
    """The mean and the deviation of each picture's cosines to texts, by id."""
    if not records:
        return {}
    means, deviations = line.stands(np.stack([record.vector for record in records]))
    pairs = zip(means.tolist(), deviations.tolist(), strict=True)
    return dict(zip((record.id for record in records), pairs, strict=True))


def chance_scores(line: Line, hits: Sequence[Hit], stands: Mapping[str, Stand]) -> tuple[float, ...]:
    """The cosine that each hit of a text has to reach to be likely.

    Whether a hit is likely depends on its rank: `hits` are all from the best one on. One without a stand, which was
    removed meanwhile, is nobody's answer.
    """
    there = [hit for hit in hits if hit.id in stands]
    if not there:
        return (1.0,) * len(hits)
    scores = np.array([hit.score for hit in there], np.float32)
    means, deviations = np.array([stands[hit.id] for hit in there], np.float32).reshape(-1, 2).T
    chances = dict(zip((hit.id for hit in there), line.chances(scores, means, deviations).tolist(), strict=True))
    return tuple(chances.get(hit.id, 1.0) for hit in hits)


def is_current(store: Store, encoder: Encoder) -> bool:
    """Whether the line that was drawn last is of this model, text tower included, and of half the pictures at least."""
    line = drawn(store, encoder)
    return line is not None and store.count() <= int(_GROWTH * line.pictures)


def redraw(store: Store, encoder: Encoder, phrases: Callable[[int], Sequence[str]]) -> bool:
    """Draw the line from stock phrases, of which `phrases` gives that many, and note it in the store.

    Gives whether it could be drawn: not for an empty index or an image-only model.
    """
    count = store.count()
    if not count:
        return False
    try:
        texts = encoder.encode_texts(list(phrases(min(max(count, _LEAST_PHRASES), _MOST_PHRASES))))
    except TextNotSupported:
        return False
    store.write_notes(_KIND, {_KIND: _to_note(draw(store, texts)) | {"fingerprint": encoder.fingerprint}})
    return True


def draw(store: Store, texts: Vectors, *, seed: int = 0) -> Line:
    """The line of a store, from the vectors of stock phrases: (p, dim)."""
    mean = texts.mean(axis=0)
    spread = (texts - mean) / np.sqrt(len(texts) - 1)
    axes, rest = _axes(spread)
    random = np.random.default_rng(seed).standard_normal((_DRAWS, len(texts))).astype(np.float32)
    meaningless = mean + random @ spread  # (d, p) @ (p, dim) -> (d, dim)
    meaningless /= np.linalg.norm(meaningless, axis=1, keepdims=True)
    best, seen = np.empty((_DRAWS, 0), np.float32), 0
    for vectors in _sampled(store):
        above = meaningless @ vectors.T - vectors @ mean  # (d, dim) @ (dim, n) -> (d, n)
        above /= deviations_of(vectors, axes, rest)
        best = -np.sort(-np.concatenate([best, above], axis=1), axis=1)[:, :_KEPT]
        seen += len(vectors)
    ranked = -np.sort(-best, axis=None)  # (d, kept) -> (d * kept,)
    kept = ranked[[min(int(_DRAWS * expected), len(ranked) - 1) for expected in _EXPECTED]]
    return Line(mean, axes, rest, np.asarray(kept, np.float32), seen, store.count())


def deviations_of(vectors: Vectors, axes: Vectors, rest: float) -> Vector:
    """(n, dim) pictures -> (n,): the standard deviation of each one's cosines to the stock phrases."""
    along = vectors @ axes.T  # (n, dim) @ (dim, a) -> (n, a)
    return np.asarray(np.sqrt((along**2).sum(axis=1) + rest + _LEAST_VARIANCE), np.float32)


def _sampled(store: Store) -> Iterator[Vectors]:
    """At most `_PICTURES` of a store in arrays of (n, dim): in order of id, a hash, and so at random."""
    pictures = (record.vector for record in islice(store.scan(), _PICTURES))
    for few in chunks(pictures, _AT_ONCE):
        yield np.stack(few)


def _axes(spread: Vectors) -> tuple[Vectors, float]:
    """(p, dim) whose products sum to the covariance -> its first axes (a, dim), and the variance along all others.

    The axes are scaled so that a picture's variance is the sum of its squared products with them, plus the rest.
    """
    dim = spread.shape[1]
    values, directions = np.linalg.eigh(spread.T @ spread)  # (dim, p) @ (p, dim) -> (dim, dim)
    count = max(1, min(_MOST_AXES, _NOTE_BYTES // (2 * dim) - 1, dim - 1))
    rest = float(np.maximum(values[:-count], 0).sum() / max(1, dim - count))
    scaled = directions[:, -count:] * np.sqrt(np.maximum(values[-count:] - rest, 0))
    return np.asarray(scaled.T, np.float32), rest


def _to_note(line: Line) -> Note:
    both = np.vstack([line.mean, line.axes]).astype("<f2")  # (1 + a, dim)
    rows = base64.b64encode(both.tobytes()).decode()
    numbers = {"rest": line.rest, "heights": line.heights.tolist(), "seen": line.seen, "pictures": line.pictures}
    return {"rows": rows, "dim": both.shape[1]} | numbers


def _of_note(note: Note) -> Line:
    rows = np.frombuffer(base64.b64decode(note["rows"]), "<f2").astype(np.float32)
    both = rows.reshape(-1, note["dim"])  # -> (1 + a, dim)
    heights = np.array(note["heights"], np.float32)
    return Line(both[0], both[1:], note["rest"], heights, note["seen"], note["pictures"])
