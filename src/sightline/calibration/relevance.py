"""Which hits of a text are better than chance: each score measured against the picture's scores to stock phrases.

Some pictures are nearer to all texts than others (hubs: Radovanović et al. 2010, JMLR 11). So what counts is how many
deviations a score stands above the mean of the picture's own cosines to a few thousand stock phrases.

How high is high comes from texts that mean nothing: draws from a Gaussian with the phrases' mean and covariance. The
best hit is likely if it stands where chance puts 0.05 pictures; of the best r it then is all r if they stand where
chance puts 0.1 r (the false discovery rate of Benjamini and Hochberg 1995). So a text that means nothing finds
something in about 5 of 100 cases, and ten pictures of dogs need not all be extraordinary.

People see this as a line between the likely hits and the others; docs/howto/honest-line.md tells what it is worth.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.base import Encoder
from sightline.errors import TextNotSupported
from sightline.stores.base import Store
from sightline.types import Hit, Note, Vector, Vectors, chunks

MOST_JUDGED = 1_000
"""Hits of a query that are judged: the vector of each is read, 7 us from a folder and more from a database."""

_KIND = "line"  # the kind of note, and its key
_BLOCKS = (64, 256, MOST_JUDGED)  # hits that are judged together: the same ones, however many were asked for
_PICTURES = 20_000  # looked at; for a larger index the heights are extrapolated
_LEAST_PHRASES, _MOST_PHRASES = 512, 2_000  # as many as pictures, so that a small index costs little
_DRAWS = 1_000  # texts that mean nothing: 0.05 pictures each are then 50, and the height is known to 0.03
_EXPECTED = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # pictures by chance, whose heights are kept
_OF_THE_BEST, _OF_OTHERS = 0.05, 0.1  # pictures by chance that the best hit may stand for, and each other one
_KEPT = 100  # scores of each draw: the heights need 10 of each on average
_OWN_SHARE = 0.25  # of a picture's own mean and deviation in what its scores are measured by; the rest is the index's
_MOST_AXES = 16  # with mini as good as all 384: area under the curve 0.953 against 0.954
_NOTE_BYTES = 18_000  # some engines keep 40 kB of a note at most
_LEAST_VARIANCE = 1e-12  # of a model that gives every text the same vector
_AT_ONCE = 2_048  # pictures compared with all draws at a time
_WITHOUT_THREADS = 16  # pictures at a time: products of that size stay on one core, where a search may share it
_GROWTH = 2.0  # an index that has doubled is calibrated anew
_KEPT_S = 10.0  # the calibration in a judge: of a database it is a round trip, and it changes when an index has doubled

PictureStats = tuple[float, float]
"""The mean and the standard deviation of one picture's cosines to texts."""
KnownStats = MutableMapping[tuple[int, str, str], PictureStats]
"""Those of pictures by (calibration, id, stamp), to be remembered between searches."""


@dataclass(frozen=True, slots=True)
class RelevanceCalibration:
    """What of an index's scores is chance.

    A picture's mean is its product with `mean` (dim,), its variance the sum of its squared products with `axes`
    (a, dim) plus `rest`; both are drawn towards `usual`. `heights` are those of `_EXPECTED` among the `seen` pictures
    that were looked at.
    """

    mean: Vector
    axes: Vectors
    rest: float
    usual: PictureStats | None
    """What is usual among the index's pictures; None in an index that was calibrated before that was noted."""
    heights: Vector
    seen: int
    pictures: int
    """How many the index had when it was calibrated."""

    def stats(self, vectors: Vectors) -> tuple[Vector, Vector]:
        """(n, dim) pictures -> (n,) means and (n,) standard deviations that each one's cosines to texts count by."""
        deviations = np.empty(len(vectors), np.float32)
        for at in range(0, len(vectors), _WITHOUT_THREADS):
            along = vectors[at : at + _WITHOUT_THREADS] @ self.axes.T  # (n, dim) @ (dim, a) -> (n, a)
            deviations[at : at + _WITHOUT_THREADS] = np.sqrt((along**2).sum(axis=1) + self.rest + _LEAST_VARIANCE)
        means = np.asarray(vectors @ self.mean, np.float32)
        if self.usual is None:
            return means, deviations
        mean, deviation = ((1 - _OWN_SHARE) * usual for usual in self.usual)
        return mean + _OWN_SHARE * means, deviation + _OWN_SHARE * deviations

    def thresholds(self, scores: Vector, means: Vector, deviations: Vector) -> Vector:
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


class RelevanceJudge:
    """Tells from which score on each hit of a text is likely. Its methods may be called from many threads."""

    def __init__(self, store: Store, encoder: Encoder, known_stats: KnownStats | None = None) -> None:
        self._store, self._encoder, self._known_stats = store, encoder, known_stats
        self._loaded: tuple[float, RelevanceCalibration | None] | None = None
        self._generation = 0

    @property
    def calibration(self) -> RelevanceCalibration | None:
        """That of the index, at most ten seconds old; None where it was never calibrated with this model."""
        if self._loaded is None or time.monotonic() - self._loaded[0] > _KEPT_S:
            found = load(self._store, self._encoder)
            if found:  # stats of pictures are kept as long as these are the same
                self._generation = hash((found.mean.tobytes(), found.axes.tobytes(), found.rest, found.usual))
            self._loaded = time.monotonic(), found
        return self._loaded[1]

    def thresholds(self, found: Sequence[Sequence[Hit]]) -> list[tuple[float, ...] | None]:
        """For each query's hits the scores that they have to reach; None where there is no hit or no calibration.

        The hits must be all from the best one on, `judged_together` of them where there are as many.
        """
        calibration = self.calibration
        if calibration is None:
            return [None] * len(found)
        known = {} if self._known_stats is None else self._known_stats
        keys = {hit.id: (self._generation, hit.id, str(hit.payload.get("stamp", ""))) for hits in found for hit in hits}
        stats = {name: stats for name, key in keys.items() if (stats := known.get(key)) is not None}
        missing = [name for name in keys if name not in stats]
        if missing and (records := self._store.fetch(missing)):
            means, deviations = calibration.stats(np.stack([record.vector for record in records]))
            for record, mean, deviation in zip(records, means.tolist(), deviations.tolist(), strict=True):
                stats[record.id] = mean, deviation
                if keys[record.id][2]:
                    known[keys[record.id]] = mean, deviation
        return [thresholds(calibration, hits, stats) if hits else None for hits in found]


def judged_together(count: int) -> int:
    """How many of the best hits are judged together with the first `count` ones."""
    return next((block for block in _BLOCKS if block >= count), count)


def load(store: Store, encoder: Encoder) -> RelevanceCalibration | None:
    """The last calibration; None where there is none with this model, text tower included. Reads one note."""
    note = store.notes(_KIND).get(_KIND)
    if note is None or note["fingerprint"] != encoder.fingerprint:
        return None
    rows = np.frombuffer(base64.b64decode(note["rows"]), "<f2").astype(np.float32)
    both = rows.reshape(-1, note["dim"])  # -> (1 + a, dim)
    heights = np.array(note["heights"], np.float32)
    usual = tuple(note["usual"]) if "usual" in note else None
    return RelevanceCalibration(both[0], both[1:], note["rest"], usual, heights, note["seen"], note["pictures"])


def thresholds(
    calibration: RelevanceCalibration, hits: Sequence[Hit], stats: Mapping[str, PictureStats]
) -> tuple[float, ...]:
    """The cosine that each hit of a text has to reach to be likely; `hits` are all from the best one on.

    They are judged in blocks, so that a threshold does not depend on how many hits were asked for. A hit without stats,
    which was removed meanwhile, is nobody's answer.
    """
    needed = list[float]()
    for block in _BLOCKS:
        there = [hit for hit in hits[:block] if hit.id in stats]
        if len(needed) >= len(hits) or not there:
            break
        scores = np.array([hit.score for hit in there], np.float32)
        means, deviations = np.array([stats[hit.id] for hit in there], np.float32).reshape(-1, 2).T
        heights = calibration.thresholds(scores, means, deviations).tolist()
        of_hit = dict(zip((hit.id for hit in there), heights, strict=True))
        needed += [of_hit.get(hit.id, 1.0) for hit in hits[len(needed) : block]]
    return tuple(needed) + (1.0,) * (len(hits) - len(needed))


def is_current(store: Store, encoder: Encoder) -> bool:
    """Whether the last calibration is of this model, text tower included, and of half the pictures at least."""
    calibration = load(store, encoder)
    return (
        calibration is not None
        and calibration.usual is not None
        and store.count() <= int(_GROWTH * calibration.pictures)
    )


def calibrate(store: Store, encoder: Encoder, phrases: Callable[[int], Sequence[str]]) -> bool:
    """Calibrate an index on stock phrases, of which `phrases` gives that many, and note the result in the store.

    Gives whether it could be done: not for an empty index or an image-only model.
    """
    if not (count := store.count()):
        return False
    if unload := getattr(encoder, "unload", None):  # the tower of pictures leaves before that of texts comes
        unload()
    try:
        texts = encoder.encode_texts(list(phrases(min(max(count, _LEAST_PHRASES), _MOST_PHRASES))))
    except TextNotSupported:
        return False
    fitted = fit(store, texts)
    both = np.vstack([fitted.mean, fitted.axes]).astype("<f2")  # (1 + a, dim)
    note: Note = {"rows": base64.b64encode(both.tobytes()).decode(), "dim": both.shape[1], "rest": fitted.rest}
    note |= {
        "usual": fitted.usual,
        "heights": fitted.heights.tolist(),
        "seen": fitted.seen,
        "pictures": fitted.pictures,
    }
    store.write_notes(_KIND, {_KIND: note | {"fingerprint": encoder.fingerprint}})
    return True


def fit(store: Store, texts: Vectors, *, seed: int = 0) -> RelevanceCalibration:
    """The calibration of a store, from the vectors of stock phrases: (p, dim).

    The axes are the first of the phrases' covariance, scaled so that a picture's variance is the sum of its squared
    products with them, plus the rest.
    """
    mean, dim = texts.mean(axis=0), texts.shape[1]
    spread = (texts - mean) / np.sqrt(len(texts) - 1)
    values, directions = np.linalg.eigh(spread.T @ spread)  # (dim, p) @ (p, dim) -> (dim, dim)
    count = max(1, min(_MOST_AXES, _NOTE_BYTES // (2 * dim) - 1, dim - 1))
    rest = float(np.maximum(values[:-count], 0).sum() / max(1, dim - count))
    axes = (directions[:, -count:] * np.sqrt(np.maximum(values[-count:] - rest, 0))).T
    own = RelevanceCalibration(
        mean, np.asarray(axes, np.float32), rest, None, np.empty(0, np.float32), 0, store.count()
    )
    some = np.stack([record.vector for record in islice(store.scan(), _AT_ONCE)])
    means, deviations = own.stats(some)
    fitted = replace(own, usual=(float(means.mean()), float(deviations.mean())))
    random = np.random.default_rng(seed).standard_normal((_DRAWS, len(texts))).astype(np.float32)
    meaningless = mean + random @ spread  # (d, p) @ (p, dim) -> (d, dim)
    meaningless /= np.linalg.norm(meaningless, axis=1, keepdims=True)
    best, seen = np.empty((_DRAWS, 0), np.float32), 0
    pictures = (record.vector for record in islice(store.scan(), _PICTURES))  # in order of id, a hash: at random
    for few in chunks(pictures, _AT_ONCE):
        vectors = np.stack(few)
        means, deviations = fitted.stats(vectors)
        above = (meaningless @ vectors.T - means) / deviations  # (d, dim) @ (dim, n) -> (d, n)
        best = -np.sort(-np.concatenate([best, above], axis=1), axis=1)[:, :_KEPT]
        seen += len(vectors)
    ranked = -np.sort(-best, axis=None)  # (d, kept) -> (d * kept,)
    kept = ranked[[min(int(_DRAWS * expected), len(ranked) - 1) for expected in _EXPECTED]]
    return replace(fitted, heights=np.asarray(kept, np.float32), seen=seen)
