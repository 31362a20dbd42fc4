"""Words that are written: which texts of a payload are searched, and how well the words of a question match them."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import NamedTuple, Protocol, runtime_checkable
from urllib.parse import unquote

from sightline.filters.documents import spans_of, words_of
from sightline.types import Hit, Payload, Record, Vector, Where

COMMON = 2000
"""Records with a word; one that more have finds none beside a search by meaning, and only ranks: it tells little."""

MOST_FUSED = 1_000
"""Of the nearest hits, so many are looked at for the words of a question."""

_WORDS_COUNT = 2.0  # beside a rank of 1 by meaning
_RANK = 60  # as in the paper
_IN_FULL = 1 - 1e-6
_SILENT = frozenset({"stamp", "sha256", "format"})  # text, but nothing that people write
_FUNCTION_WORDS = frozenset("a an and are at by for from in is of on or the to with".split())
_MOST_WORDS = 64  # of a question
_MOST_VARIANTS = 50
_LEAST_PREFIX, _LEAST_TYPO = 3, 5  # letters of a word that may be the beginning of another, or mistyped
_AS_PREFIX, _AS_TYPO = 0.7, 0.7  # what such a match is worth beside the word itself
_SUFFIX = re.compile(r"\.\w{2,5}$")
_QUOTED = re.compile(r'"([^"]*)"')
_LAST = "\U0010ffff"  # behind every word


class Phrase(NamedTuple):
    """One word of a question, or several that have to stand side by side; one that is exact has no variants."""

    words: tuple[str, ...]
    is_exact: bool


@dataclass(frozen=True, slots=True)
class Known:
    """A phrase as a store knows it: the words that stand for it, each with its worth, and how many records have one."""

    words: tuple[str, ...]
    variants: Mapping[str, float]
    count: int


@dataclass(frozen=True)
class Matcher:
    """Tells how well a payload's words are those of a question, among `total` records."""

    phrases: tuple[Known, ...]
    total: int

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """What each phrase tells: the inverse document frequency of BM25, as Lucene has it; their sum is 1."""
        every = [math.log(1 + (self.total - one.count + 0.5) / (one.count + 0.5)) for one in self.phrases]
        return tuple(weight / sum(every) for weight in every)

    def score(self, payload: Payload) -> float:
        """How much of the question is written there: 0 to 1, and 1 if every word is, as it was typed."""
        fields = fields_of(payload)
        every = {word for words in fields for word in words}
        score = 0.0
        for phrase, weight in zip(self.phrases, self.weights, strict=True):
            if len(phrase.words) > 1:
                score += weight * any(_places(phrase.words, words) for words in fields)
            elif phrase.variants:
                score += weight * max((worth for word, worth in phrase.variants.items() if word in every), default=0)
        return score

    def level(self, fields: Sequence[Sequence[str]], counts: Sequence[bool]) -> float:
        """How much of the phrases that count is among the words of some fields, whatever stands for them."""
        every = {word for words in fields for word in words}
        found = (
            weight
            for phrase, weight, is_counted in zip(self.phrases, self.weights, counts, strict=True)
            if is_counted
            and (every.issuperset(phrase.words) if len(phrase.words) > 1 else every & phrase.variants.keys())
        )
        return round(sum(found), 9)

    def evidence(self, payload: Payload) -> dict[str, tuple[tuple[int, int], ...]]:
        """The fields in which words of the question stand, and where: (start, end) in the text of `texts_of`."""
        alone = {word for phrase in self.phrases for word in phrase.variants}
        found = dict[str, tuple[tuple[int, int], ...]]()
        for field, text in texts_of(payload):
            spans = [(start, end, word) for start, end in spans_of(text) for word in words_of(text[start:end])]
            words = [word for *_, word in spans]
            marked = {at for at, word in enumerate(words) if word in alone}
            for phrase in self.phrases:
                if len(phrase.words) > 1:
                    marked |= {at + place for at in _places(phrase.words, words) for place in range(len(phrase.words))}
            if marked:
                found[field] = tuple(spans[at][:2] for at in sorted(marked))
        return found


@dataclass(frozen=True, slots=True)
class Written:
    """What a store finds for the words of a question: records with the most of them first, and what to rank them by."""

    matcher: Matcher
    records: Sequence[Record]
    count: int
    """How many records have any of them, as far as phrases that are common were looked for."""

    def ranked(self) -> list[Hit]:
        """The records as hits, whose scores are how much of the question is written there, best first."""
        hits = [Hit(one.id, one.uri, self.matcher.score(one.payload), one.payload) for one in self.records]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))


@runtime_checkable
class TextStore(Protocol):
    """A store that searches what is written in payloads."""

    def search_text(
        self, phrases: Sequence[Phrase], limit: int, where: Where | None = None, *, common: int | None = None
    ) -> Written:
        """The records with the most of what the phrases tell; those equal in it are all among `limit`, or none.

        Phrases that more than `common` records have find nothing. None: all count, and records equal in what they
        have are cut at the limit, by id.
        """


def phrases_of(texts: Sequence[tuple[str, bool]]) -> tuple[Phrase, ...]:
    """The words of texts, each with whether it is exact as a whole; what stands in double quotes is one exact phrase.

    Words that only join others do not count, unless there are no others. Han and Kana side by side are one phrase.
    """
    found = dict[Phrase, None]()
    for text, is_exact in texts:
        parts = [(text, True)] if is_exact else [(part, at % 2 == 1) for at, part in enumerate(_QUOTED.split(text))]
        for part, is_quoted in parts:
            words = words_of(part)
            if is_quoted and words:
                found[Phrase(tuple(words), is_exact=True)] = None
                continue
            for is_run, group in groupby(words, lambda word: len(word) == 1 and "\u3041" <= word <= "\ufaff"):
                some = tuple(group)
                found |= (
                    {Phrase(some, len(some) > 1): None} if is_run else {Phrase((word,), False): None for word in some}
                )
    every = list(found)[:_MOST_WORDS]
    telling = [one for one in every if one.is_exact or one.words[0] not in _FUNCTION_WORDS]
    return tuple(telling or every)


def known(phrase: Phrase, between: Callable[[str, str], Iterator[tuple[str, int]]]) -> Known:
    """What a store has for a phrase. `between(first, end)` gives its words from `first` up to before `end`, in order.

    Each comes with how many records have it. A word also stands for those that begin with it, at a lower
    worth; one that nothing begins with, for those with one letter wrong, missing, too many or swapped, though not
    the first.
    """
    if len(phrase.words) > 1:
        counts = [sum(count for _, count in between(word, word + "\0")) for word in phrase.words]
        return Known(phrase.words, {}, min(counts))
    (word,) = phrase.words
    end = word + ("\0" if phrase.is_exact or len(word) < _LEAST_PREFIX else _LAST)
    found = list(islice(between(word, end), _MOST_VARIANTS))
    variants = {other: 1.0 if other == word else _AS_PREFIX for other, _ in found}
    if not found and not phrase.is_exact and len(word) >= _LEAST_TYPO and word.isalpha():
        found = [pair for pair in between(word[0], word[0] + _LAST) if _is_mistyped(word, pair[0])][:_MOST_VARIANTS]
        variants = {other: _AS_TYPO for other, _ in found}
    return Known(phrase.words, variants, sum(count for _, count in found))


def whole_levels(levels: Sequence[float], limit: int) -> int:
    """How many of some levels, which fall, to take so that of those that are equal all are taken or none."""
    if len(levels) <= limit:
        return len(levels)
    return next((at for at in range(limit, 0, -1) if levels[at - 1] != levels[limit]), 0)


def fuse(near: Sequence[tuple[Hit, float]], written: Written, query: Vector) -> list[tuple[Hit, float]]:
    """The hits nearest to a query (dim,), each with its threshold, joined with what is written, best first.

    Weighted reciprocal rank fusion (Cormack, Clarke and Büttcher 2009, doi:10.1145/1571941.1572114): a hit counts
    1 / (60 + rank) by meaning, and by words `_WORDS_COUNT` / 61 times the share of the question that is written there,
    which unlike a rank says nothing where only a word that most have is written. Where all words are written as they
    were typed, and in few records, these come first, and their threshold is -1: they are likely.
    """
    score_of = {hit.id: written.matcher.score(hit.payload) for hit, _ in near[:MOST_FUSED]}
    ranked = [
        (score_of.get(hit.id, 0.0), 1 / (_RANK + place), hit, least) for place, (hit, least) in enumerate(near, 1)
    ]
    for record in written.records:
        if record.id not in score_of:
            cosine = max(-1.0, min(1.0, float(record.vector @ query)))
            hit = Hit(record.id, record.uri, cosine, record.payload)
            ranked.append((written.matcher.score(record.payload), 0.0, hit, 1.0))
    in_full = sum(score > _IN_FULL for score, *_ in ranked)
    is_rare = in_full <= max(1, written.matcher.total // 10) and bool(written.records)
    ordered = sorted(
        ((is_rare and score > _IN_FULL, by_rank + _WORDS_COUNT * score / (_RANK + 1), hit, least)
         for score, by_rank, hit, least in ranked),
        key=lambda one: (-one[0], -one[1], -one[2].score, one[2].id),
    )  # fmt: skip
    return [(hit, -1.0 if is_first else least) for is_first, _, hit, least in ordered]


def texts_of(payload: Payload) -> Iterator[tuple[str, str]]:
    """What people wrote: the text fields by name, the elements of a list a line each; of `name` without its suffix.

    `folder` is the names of the folders that the picture lies in, from the one that was indexed on.
    """
    for field, value in payload.items():
        lines = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        if field == "name":
            lines = [_SUFFIX.sub("", line) for line in lines]
        if field == "folders":
            field, lines = "folder", [unquote(line.rstrip("/").rpartition("/")[2]) for line in lines]
        if lines and field not in _SILENT and "://" not in (text := "\n".join(lines)):
            yield field, text


def fields_of(payload: Payload) -> list[list[str]]:
    """The words of each text of a payload, in their order."""
    return [words_of(text) for _, text in texts_of(payload)]


def _places(phrase: Sequence[str], words: Sequence[str]) -> list[int]:
    """Where a phrase begins among words."""
    size = len(phrase)
    return [at for at in range(len(words) - size + 1) if tuple(words[at : at + size]) == phrase]


def _is_mistyped(one: str, other: str) -> bool:
    """Whether one letter less, more, changed, or swapped with its neighbour makes one word the other."""
    if abs(len(one) - len(other)) > 1 or one == other:
        return False
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    rests = one[at:], other[at:]
    if len(one) != len(other):
        longer, shorter = sorted(rests, key=len, reverse=True)
        return longer[1:] == shorter
    return rests[0][1:] == rests[1][1:] or (rests[0][:2] == rests[1][1::-1] and rests[0][2:] == rests[1][2:])
