"""Search several indexes: together, as one ranking by weighted scores, or each for the same queries."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from sightline.analysis.duplicates import fold_hits
from sightline.errors import SightlineError, TextNotSupported, UsageError
from sightline.filters.where import matches
from sightline.index import MOST_FOLDED, Index
from sightline.pictures import Picture
from sightline.query import SearchQuery, Term, describe, doubts, parse
from sightline.results import Hits, Took
from sightline.types import Hit, Record, Vector, Where

_FIRST_WIDTH = 64  # candidates asked of each index at first; each further round asks for four times as many
_GROWTH = 4
_WIDEST = 10_000  # what the most limited of the engines gives at once


@dataclass(frozen=True, slots=True)
class Part:
    """One index and how much its score counts; the weights are scaled to a sum of 1."""

    index: Index
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class _Member:
    """A part that can answer, with its share of the score and its vector of the query."""

    index: Index
    share: float
    vector: Vector


def search(parts: Sequence[Part], query: SearchQuery) -> Hits:
    """The pictures with the largest weighted mean of their cosines in every index, best first: late fusion.

    Pictures are the same where their ids are, which come from their URIs; one that an index lacks is not found. An
    index whose model has no text encoder takes part by the pictures of the query, and not at all where there are none.
    Payload, filter and, with `fold`, what counts as a near-duplicate are those of the first index that takes part.

    Candidates come from the top of each index. A picture below all of them scores at most the weighted mean of the
    lowest candidates: the search widens until the last hit is better than that, so the ranking is exact where the
    stores are (the threshold algorithm of Fagin, Lotem and Naor 2001, doi:10.1145/375551.375567), up to 10,000
    candidates of each.
    """
    last = query.offset + query.k
    began = time.perf_counter()
    members = _members(parts, query.terms)
    encoded = time.perf_counter()
    width = last
    while True:
        ranked = _ranked(members, width, query.where)
        kept = [hit for hit in ranked if query.min_score is None or hit.score >= query.min_score]
        if not query.fold:
            break
        few = kept[:width]
        kept = [few[group[0]] for group in fold_hits(members[0].index.store, few, query.fold_score)]
        if len(kept) >= last or len(few) < width or width >= MOST_FOLDED:
            break
        width = min(4 * width, MOST_FOLDED)
    if not ranked and query.where is None and all(member.index.count() for member in members):
        raise UsageError(
            f"{' and '.join(member.index.url for member in members)} have no picture in common, expected indexes of "
            "the same files, each by another model: index the same folder into both"
        )
    took = Took(encode=(encoded - began) * 1e3, search=(time.perf_counter() - encoded) * 1e3)
    models = " + ".join(f"{member.share:.2g} {member.index.encoder.name}" for member in members)
    note = next(filter(None, (doubts(query.terms, member.index.encoder) for member in members)), "")
    return Hits(describe(query.terms), models, took, tuple(kept[query.offset : last]), note=note)


def search_each(indexes: Mapping[str, Index | str], queries: Sequence[Picture], *, k: int) -> dict[str, list[Hits]]:
    """What each index, by its name, finds for each query, best first; words find nothing where a model takes none."""
    if not indexes or not queries:
        raise UsageError("there is nothing to compare: name at least one index and one query")
    terms = [
        tuple(parse([query], with_files=False)) if isinstance(query, str) else (Term("image", query),)
        for query in queries
    ]
    found = dict[str, list[Hits]]()
    with ExitStack() as stack:
        for name, url in indexes.items():
            index = stack.enter_context(Index(url)) if isinstance(url, str) else url
            found[name] = []
            for some, answer in zip(terms, index.try_search_many([SearchQuery(one, k) for one in terms]), strict=True):
                if isinstance(answer, TextNotSupported):
                    answer = Hits(describe(some), f"{index.encoder.name} (no text encoder)", Took(0, 0), ())
                if isinstance(answer, SightlineError):
                    raise answer
                found[name].append(answer)
    return found


def _members(parts: Sequence[Part], terms: Sequence[Term]) -> list[_Member]:
    """The parts that can answer, their shares adding up to 1.

    A model without a text encoder gets the pictures of the query alone.
    """
    vectors = list[tuple[Part, Vector]]()
    pictures = [term for term in terms if term.kind != "text"]
    for part in parts:
        if not (math.isfinite(part.weight) and part.weight > 0):
            raise UsageError(f"the weight of {part.index.url} is {part.weight:g}, expected a number above 0")
        try:
            vectors.append((part, part.index.embed([terms])[0]))
        except TextNotSupported:
            if pictures:
                vectors.append((part, part.index.embed([pictures])[0]))
    if not vectors:
        raise TextNotSupported(
            f"no model of {', '.join(part.index.url for part in parts)} has a text encoder: add --image, or an index "
            "with a two-tower model"
        )
    total = sum(part.weight for part, _ in vectors)
    return [_Member(part.index, part.weight / total, vector) for part, vector in vectors]


def _ranked(members: Sequence[_Member], count: int, where: Where | None) -> list[Hit]:
    """At least the best `count`, best first."""
    fused: dict[str, Hit | None] = {}
    width = min(max(_FIRST_WIDTH, 2 * count), _WIDEST)
    while True:
        lists = [
            member.index.store.search(member.vector[None], width, where if member is members[0] else None)[0]
            for member in members
        ]
        fused |= _fuse(sorted({hit.id for hits in lists for hit in hits} - fused.keys()), members, where)
        best = sorted((hit for hit in fused.values() if hit), key=lambda hit: (-hit.score, hit.id))
        if width >= _WIDEST or any(len(hits) < width for hits in lists):  # the second: every common picture was seen
            return best
        unseen = sum(member.share * hits[-1].score for member, hits in zip(members, lists, strict=True))
        if len(best) >= count and best[count - 1].score > unseen:
            return best
        width = min(_GROWTH * width, _WIDEST)


def _fuse(ids: Sequence[str], members: Sequence[_Member], where: Where | None) -> dict[str, Hit | None]:
    """The fused hit of each id; None for a picture that an index lacks, or that does not match the filter."""
    found: list[Mapping[str, Record]] = [
        {record.id: record for record in member.index.store.fetch(ids)} if ids else {} for member in members
    ]
    fused: dict[str, Hit | None] = dict.fromkeys(ids)
    for name in ids:
        if any(name not in records for records in found):
            continue
        first = found[0][name]
        if where and not matches(first.payload, where):
            continue
        pairs = zip(members, found, strict=True)
        score = sum(member.share * float(member.vector @ records[name].vector) for member, records in pairs)
        fused[name] = Hit(name, first.uri, max(-1.0, min(1.0, score)), first.payload)
    return fused
