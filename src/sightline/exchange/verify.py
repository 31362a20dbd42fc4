"""Verify that two stores hold the same records and give the same answers to real queries."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from sightline.calibration.phrases import sample_pictures, sample_queries
from sightline.calibration.tuning import SAME, exact_scores, recall
from sightline.errors import EncoderError
from sightline.exchange.copy import is_same
from sightline.index import Index
from sightline.stores.base import Store
from sightline.types import Hit, Record, Vectors

_K = 10
_NAMED = 10  # URIs that are named of each fault


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one kind of query, each 0 to 1: recall of the exact best 10 in both stores, and what they share.

    `overlap` counts a hit of the second store as shared if the first gave it or an equal score; `same_order` is the
    part of the queries that both answer with the same scores in the same order.
    """

    queries: int
    source_recall: float
    target_recall: float
    overlap: float
    same_order: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How two stores differ: counts, the number and some URIs of records that are missing, extra or different."""

    source_count: int
    target_count: int
    missing: int
    extra: int
    different: int
    named: Mapping[str, list[str]]
    answers: Mapping[str, Answers]

    @property
    def is_same(self) -> bool:
        """Whether both hold the same records."""
        return not (self.missing or self.extra or self.different)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "same": self.is_same}


def verify_index(source: Index, target: Index, *, sample: int = 200) -> Verdict:
    """Compare all records of two indexes, and their answers to `sample` text and picture queries.

    Without the model on this machine the text queries are left out.
    """
    return verify(source.store, target.store, _queries(source, sample))


def verify(source: Store, target: Store, queries: Mapping[str, Vectors]) -> Verdict:
    """Compare every record, and the answers to `queries`: unit vectors (q, dim) by kind. Memory stays constant."""
    counts = {"missing": 0, "extra": 0, "different": 0}
    named: dict[str, list[str]] = {fault: [] for fault in counts}
    for fault, uri in _faults(source.scan(), target.scan()):
        counts[fault] += 1
        if len(named[fault]) < _NAMED:
            named[fault].append(uri)
    answers = {kind: _compare(source, target, vectors) for kind, vectors in queries.items() if len(vectors)}
    return Verdict(source.count(), target.count(), **counts, named=named, answers=answers)


def _queries(index: Index, sample: int) -> dict[str, Vectors]:
    try:
        return sample_queries(index.store, index.encoder, sample)
    except EncoderError:
        pictures = sample_pictures(index.store, sample)
        return {"image": pictures} if len(pictures) else {}


def _faults(ours: Iterator[Record], theirs: Iterator[Record]) -> Iterator[tuple[str, str]]:
    """What differs, from two walks in order of id."""
    one, other = next(ours, None), next(theirs, None)
    while one and other:
        if one.id < other.id:
            yield "missing", one.uri
            one = next(ours, None)
        elif other.id < one.id:
            yield "extra", other.uri
            other = next(theirs, None)
        else:
            if not is_same(one, other):
                yield "different", one.uri
            one, other = next(ours, None), next(theirs, None)
    yield from (("missing", record.uri) for record in chain([one] if one else [], ours))
    yield from (("extra", record.uri) for record in chain([other] if other else [], theirs))


def _compare(source: Store, target: Store, queries: Vectors) -> Answers:
    truth = exact_scores(source, queries, _K)
    ours, theirs = source.search(queries, _K), target.search(queries, _K)
    pairs = list(zip(ours, theirs, strict=True))
    return Answers(
        queries=len(queries),
        source_recall=recall(ours, truth),
        target_recall=recall(theirs, truth),
        overlap=float(np.mean([_shared(one, other) for one, other in pairs])),
        same_order=float(np.mean([_is_same_order(one, other) for one, other in pairs])),
    )


def _shared(ours: list[Hit], theirs: list[Hit]) -> float:
    if not ours:
        return 1.0
    ids, least = {hit.id for hit in ours}, ours[-1].score
    return min(len(ours), sum(hit.id in ids or hit.score >= least - SAME for hit in theirs)) / len(ours)


def _is_same_order(ours: list[Hit], theirs: list[Hit]) -> bool:
    return len(ours) == len(theirs) and all(
        one.id == other.id or abs(one.score - other.score) <= SAME for one, other in zip(ours, theirs, strict=True)
    )
