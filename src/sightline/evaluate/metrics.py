"""Compute the standard metrics of retrieval and classification, and how far their means can be trusted.

Every metric gives one value per query, shape (q,), in 0 to 1, so that means, intervals and paired differences follow.
A query without any relevant result scores 0. Definitions as in trec_eval; recall as in the retrieval tables of the CLIP
papers is `hit_rate`.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sightline.types import Vectors

Values: TypeAlias = NDArray[np.float64]
"""One value per query: shape (q,)."""

_BOOTSTRAP_ROUNDS = 2000
_QUERIES_AT_ONCE = 256  # 256 x 100,000 scores are 100 MB


@dataclass(frozen=True, slots=True)
class Rankings:
    """For each pair of a query and a result relevant to it: which query, at which rank (from 1), how relevant.

    The three arrays have shape (pairs,) and are sorted by query, then rank; grades are above 0.
    """

    queries: int
    query: NDArray[np.int64]
    rank: NDArray[np.int64]
    grade: NDArray[np.float64]

    @property
    def relevant(self) -> Values:
        """How many results are relevant to each query."""
        return _sum(self, np.ones(len(self.query)))


def rankings(queries: Vectors, gallery: Vectors, pairs: NDArray[np.int64], grades: NDArray[np.float64]) -> Rankings:
    """Rank the gallery for each query by cosine and look the relevant pairs up; ties go to the smaller position.

    queries: (q, dim), gallery: (n, dim), pairs: (p, 2) of query and gallery positions, grades: (p,).
    """
    order = np.argsort(pairs[:, 0], kind="stable")
    pairs, grades = pairs[order], grades[order]
    ranks = np.empty(len(pairs), np.int64)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        few = slice(*np.searchsorted(pairs[:, 0], [start, start + _QUERIES_AT_ONCE]))
        scores = queries[start : start + _QUERIES_AT_ONCE] @ gallery.T  # (few, dim) @ (dim, n) -> (few, n)
        ranks[few] = _ranks(scores, pairs[few, 0] - start, pairs[few, 1])
    order = np.lexsort((ranks, pairs[:, 0]))
    return Rankings(len(queries), pairs[order, 0], ranks[order], grades[order])


def recall(rankings: Rankings, k: int) -> Values:
    """The share of a query's relevant results among the first k."""
    return _ratio(_sum(rankings, rankings.rank <= k), rankings.relevant)


def precision(rankings: Rankings, k: int) -> Values:
    """The share of relevant results among the first k."""
    return _sum(rankings, rankings.rank <= k) / k


def hit_rate(rankings: Rankings, k: int) -> Values:
    """1 if any relevant result is among the first k: recall@k of Karpathy & Fei-Fei 2015 and the CLIP papers."""
    return np.minimum(_sum(rankings, rankings.rank <= k), 1)


def reciprocal_rank(rankings: Rankings) -> Values:
    """1 / the rank of the first relevant result; its mean is the MRR (Voorhees 1999)."""
    best = np.full(rankings.queries, np.inf)
    np.minimum.at(best, rankings.query, rankings.rank)
    return 1 / best


def average_precision(rankings: Rankings) -> Values:
    """The mean of the precision at the rank of each relevant result; its mean is the mAP (Buckley & Voorhees 2000)."""
    first = np.searchsorted(rankings.query, rankings.query)  # where each pair's query begins
    found = np.arange(len(rankings.query)) - first + 1  # relevant results down to this one
    return _ratio(_sum(rankings, found / rankings.rank), rankings.relevant)


def ndcg(rankings: Rankings, k: int) -> Values:
    """Discounted cumulative gain at k over that of the best order (Järvelin & Kekäläinen 2002).

    The gain of a result is its grade, the discount log2(rank + 1).
    """
    gained = _sum(rankings, np.where(rankings.rank <= k, rankings.grade / np.log2(rankings.rank + 1), 0))
    order = np.lexsort((-rankings.grade, rankings.query))
    best = rankings.grade[order]
    position = np.arange(len(best)) - np.searchsorted(rankings.query, rankings.query) + 1
    return _ratio(gained, _sum(rankings, np.where(position <= k, best / np.log2(position + 1), 0)))


def top_accuracy(scores: Vectors, labels: NDArray[np.int64], k: int) -> Values:
    """1 where the true class is among the k best: scores (n, classes), labels (n,)."""
    return (_ranks(scores, np.arange(len(labels)), labels) <= k).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero: for a difference, whether the claim "better" or "worse" holds."""
        return self.low > 0 or self.high < 0


def bootstrap(values: Values, groups: NDArray[np.int64] | None = None, *, seed: int = 0) -> Interval:
    """The percentile bootstrap interval of the mean (Efron & Tibshirani 1993): values (q,), groups (q,).

    Queries that share something, such as the five captions of one picture, are not independent: with `groups` whole
    groups are drawn, not single queries.
    """
    if not len(values):
        return Interval(0.0, 0.0, 0.0)
    group = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(group, weights=values), np.bincount(group)
    rng = np.random.default_rng(seed)
    means = np.empty(_BOOTSTRAP_ROUNDS)
    for drawn in range(_BOOTSTRAP_ROUNDS):
        chosen = rng.integers(0, len(sums), len(sums))
        means[drawn] = sums[chosen].sum() / sizes[chosen].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(better: Values, worse: Values, groups: NDArray[np.int64] | None = None) -> Interval:
    """By how much the first beats the second on the same queries, with its interval."""
    return bootstrap(better - worse, groups)


def _ranks(scores: Vectors, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rank, from 1, of each (row, column) within its row: shape (pairs,)."""
    ranks = np.empty(len(rows), np.int64)
    for row in np.unique(rows):
        of_row = rows == row
        own = scores[row, columns[of_row], None]  # (pairs of the row, 1)
        above = (scores[row] > own).sum(axis=1)  # (n,) > (pairs, 1) -> (pairs, n) -> (pairs,)
        ties = ((scores[row] == own) & (np.arange(scores.shape[1]) < columns[of_row, None])).sum(axis=1)
        ranks[of_row] = 1 + above + ties
    return ranks


def _sum(rankings: Rankings, values: NDArray[np.generic]) -> Values:
    """Sum a value of each pair by query: (pairs,) -> (q,)."""
    return np.asarray(np.bincount(rankings.query, values.astype(np.float64), rankings.queries), np.float64)


def _ratio(part: Values, whole: Values) -> Values:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
