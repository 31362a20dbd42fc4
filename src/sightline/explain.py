"""Tell how a question is understood: its parts, its filter, and what of it could be made a filter."""

import json
import re
from collections.abc import Sequence
from typing import Any

from sightline.filters.documents import words_of
from sightline.index import Index
from sightline.query import Term
from sightline.stores.written import TextStore, phrases_of, texts_of
from sightline.text import count
from sightline.types import Where

_YEAR = re.compile(r"(?<!\S)(?:19|20)\d\d(?:-(?:0[1-9]|1[0-2]))?(?!\S)")
_MONTH = re.compile(r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\s+((?:19|20)\d\d)\b", re.IGNORECASE)
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_LOOKED_AT = 64  # pictures in which the words are written


def explain(index: Index, terms: Sequence[Term], where: Where | None) -> tuple[dict[str, Any], str]:
    """The parts of a question as plain values and as text.

    `offered` are filters that words of it could be: a year, a month, a camera or a folder that pictures of the index
    have, with how many have it. None of them is applied.
    """
    texts = [(str(term.value), term.is_exact) for term in terms if term.kind == "text" and term.weight > 0]
    wanted = [f"taken:{year}" for text, _ in texts for year in _YEAR.findall(text)]
    for text, _ in texts:
        wanted += [f"taken:{year}-{1 + _MONTHS.index(month.lower()):02}" for month, year in _MONTH.findall(text)]
    if isinstance(index.store, TextStore) and (phrases := phrases_of(texts)):
        words = {word for phrase in phrases for word in phrase.words}
        for record in index.store.search_text(phrases, _LOOKED_AT).records:
            written = dict(texts_of(record.payload))
            named = [("camera", written.get("camera", ""))]
            named += [("under", folder) for folder in written.get("folder", "").splitlines()]
            wanted += [f'{field}:"{value}"' for field, value in named if words.intersection(words_of(value))]
    offered = list[dict[str, Any]]()
    for one in dict.fromkeys(wanted):
        _, filters = index.fields.of_question(one)
        if pictures := index.store.count({"$and": filters}):
            offered.append({"filter": one, "pictures": pictures})
    parts = [{"kind": one.kind, "value": str(one.value), "weight": one.weight} for one in terms]
    lines = [f"{one.weight:+g}  {part['kind']:6}  {part['value']}" for one, part in zip(terms, parts, strict=True)]
    lines += [f"filter      {json.dumps(where, default=str)}"] if where else []
    lines += [f"offered     {one['filter']}   ({count(one['pictures'], 'picture')})" for one in offered]
    return {"terms": parts, "where": where, "offered": offered}, "\n".join(lines)
