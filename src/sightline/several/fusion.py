"""Search several indexes of the same pictures together: one ranking by the weighted mean of their scores."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightline import query
from sightline.errors import TextNotSupported, UsageError
from sightline.filters.where import matches
from sightline.query import Term
from sightline.results import Hits, Took
from sightline.types import Hit, Record, Vector, Where

if TYPE_CHECKING:
    from sightline.index import Index

_FIRST_WIDTH = 64  # candidates asked of each index at first; each further round asks for four times as many
_GROWTH = 4
_WIDEST = 10_000  # what the most limited of the engines gives at once


@dataclass(frozen=True, slots=True)
class Part:
    """One index and how much its score counts; the weights are scaled to a sum of 1."""

    index: Index
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A part that can answer, with its share of the score and its vector of the query."""

    index: Index
    share: float
    vector: Vector


def search(
    parts: Sequence[Part],
    terms: Sequence[Term],
    *,
    k: int = 10,
    where: Where | None = None,
    min_score: float | None = None,
    offset: int = 0,
) -> Hits:
    """The pictures with the largest weighted mean of their cosines in every index, best first: late fusion.

    Pictures are the same where their ids are, which come from their URIs; one that an index lacks is not found. An
    index whose model knows no words takes part by the pictures of the query, and not at all where there are none.
    Payload and `where` are those of the first index that takes part.

    Candidates come from the top of each index. A picture below all of them scores at most the weighted mean of the
    lowest candidates: the search widens until the last hit is better than that, so the ranking is exact where the
    stores are (the threshold algorithm of Fagin, Lotem and Naor 2001, doi:10.1145/375551.375567), up to 10,000
    candidates of each.
    """
    if k < 1 or offset < 0:
        raise UsageError(f"k is {k} and offset is {offset}, expected k of at least 1 and offset of at least 0")
    began = time.perf_counter()
    asked = _asked(parts, terms)
    encoded = time.perf_counter()
    ranked = _ranked(asked, offset + k, where)
    if not ranked and where is None and all(one.index.count() for one in asked):
        raise UsageError(
            f"{' and '.join(one.index.url for one in asked)} have no picture in common, expected indexes of the same "
            "files, each by another model: index the same folder into both"
        )
    found = ranked[offset : offset + k]
    hits = tuple(hit for hit in found if min_score is None or hit.score >= min_score)
    took = Took(encode=(encoded - began) * 1e3, search=(time.perf_counter() - encoded) * 1e3)
    models = " + ".join(f"{one.share:.2g} {one.index.encoder.name}" for one in asked)
    return Hits(query.describe(terms), models, took, hits)


def _asked(parts: Sequence[Part], terms: Sequence[Term]) -> list[_Asked]:
    """The parts that can answer, their shares adding up to 1."""
    for part in parts:
        if not (math.isfinite(part.weight) and part.weight > 0):
            raise UsageError(f"the weight of {part.index.url} is {part.weight:g}, expected a number above 0")
    vectors = [(part, _embed(part.index, terms)) for part in parts]
    total = sum(part.weight for part, vector in vectors if vector is not None)
    asked = [_Asked(part.index, part.weight / total, vector) for part, vector in vectors if vector is not None]
    if not asked:
        raise TextNotSupported(
            f"no model of {', '.join(part.index.url for part in parts)} knows words, expected a picture in the query: "
            "add --image, or an index with a two-tower model"
        )
    return asked


def _embed(index: Index, terms: Sequence[Term]) -> Vector | None:
    """The vector of the query, of its pictures alone where the model knows no words; None where nothing is left."""

    def vector_of(picture: str) -> Vector:
        return index.record(picture).vector

    try:
        return query.embed(terms, index.encoder, vector_of)
    except TextNotSupported:
        pictures = [term for term in terms if term.kind != "text"]
        return query.embed(pictures, index.encoder, vector_of) if pictures else None


def _ranked(asked: Sequence[_Asked], count: int, where: Where | None) -> list[Hit]:
    """At least the best `count`, best first."""
    fused: dict[str, Hit | None] = {}
    width = min(max(_FIRST_WIDTH, 2 * count), _WIDEST)
    while True:
        lists = [_top(one, width, where if one is asked[0] else None) for one in asked]
        fresh = sorted({hit.id for hits in lists for hit in hits} - fused.keys())
        fused |= _fuse(fresh, asked, where)
        best = sorted((hit for hit in fused.values() if hit), key=lambda hit: (-hit.score, hit.id))
        if width >= _WIDEST or any(len(hits) < width for hits in lists):  # the second: every common picture was seen
            return best
        unseen = sum(one.share * hits[-1].score for one, hits in zip(asked, lists, strict=True))
        if len(best) >= count and best[count - 1].score > unseen:
            return best
        width = min(_GROWTH * width, _WIDEST)


def _top(one: _Asked, width: int, where: Where | None) -> list[Hit]:
    return one.index.store.search(one.vector[None], width, where)[0]


def _fuse(ids: Sequence[str], asked: Sequence[_Asked], where: Where | None) -> dict[str, Hit | None]:
    """The fused hit of each id; None for a picture that an index lacks, or that does not pass the filter."""
    found = [_records(one.index, ids) for one in asked]
    return {name: _fused(name, found, asked, where) for name in ids}


def _records(index: Index, ids: Sequence[str]) -> Mapping[str, Record]:
    return {record.id: record for record in index.store.fetch(ids)} if ids else {}


def _fused(
    name: str, found: Sequence[Mapping[str, Record]], asked: Sequence[_Asked], where: Where | None
) -> Hit | None:
    if any(name not in records for records in found):
        return None
    first = found[0][name]
    if where and not matches(first.payload, where):
        return None
    pairs = zip(asked, found, strict=True)
    score = sum(one.share * float(one.vector @ records[name].vector) for one, records in pairs)
    return Hit(name, first.uri, max(-1.0, min(1.0, score)), first.payload)
