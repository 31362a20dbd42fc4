"""Captions -> the single words that they agree on, since people type `dog` and captions never say just that.

A model that sees sentences only puts bare words anywhere: without these, `dog` found a pizza.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

TEMPLATES = ("{}", "{}", "{}", "a {}", "a photo of a {}", "a picture of {}", "{} in a photo")
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
    """Per picture: words that at least two of its captions have, and all frequent words that any has."""

    own: Sequence[tuple[str, ...]]
    any: Sequence[frozenset[str]]


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
