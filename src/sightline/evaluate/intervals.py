"""Values per query turned into a mean with an interval that says how far to trust it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.evaluate.metrics import Values

_ROUNDS = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero: for a difference, whether the claim "better" or "worse" holds."""
        return self.low > 0 or self.high < 0


def bootstrap(values: Values, groups: NDArray[np.int64] | None = None, *, seed: int = 0) -> Estimate:
    """The percentile bootstrap interval of the mean (Efron & Tibshirani 1993): values (q,), groups (q,).

    Queries that share something, such as the five captions of one picture, are not independent: with `groups` whole
    groups are drawn, not single queries.
    """
    if not len(values):
        return Estimate(0.0, 0.0, 0.0)
    group = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(group, weights=values), np.bincount(group)
    rng = np.random.default_rng(seed)
    means = np.empty(_ROUNDS)
    for drawn in range(_ROUNDS):
        chosen = rng.integers(0, len(sums), len(sums))
        means[drawn] = sums[chosen].sum() / sizes[chosen].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def paired_difference(better: Values, worse: Values, groups: NDArray[np.int64] | None = None) -> Estimate:
    """By how much the first beats the second on the same queries, with its interval."""
    return bootstrap(better - worse, groups)
