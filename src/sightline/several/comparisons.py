"""Search several indexes for the same queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from sightline.errors import TextNotSupported, UsageError
from sightline.index import Index
from sightline.query import Picture, Term
from sightline.results import Hits, Took


def searched(indexes: Mapping[str, Index | str], queries: Sequence[Picture], *, k: int) -> dict[str, list[Hits]]:
    """What each index finds for each query, best first."""
    if not indexes or not queries:
        raise UsageError("there is nothing to compare, expected one index and one query at least: name them")
    with ExitStack() as stack:
        opened = {name: _opened(index, stack) for name, index in indexes.items()}
        return {name: [_hits(index, query, k) for query in queries] for name, index in opened.items()}


def _opened(index: Index | str, stack: ExitStack) -> Index:
    return stack.enter_context(Index(index)) if isinstance(index, str) else index


def _hits(index: Index, query: Picture, k: int) -> Hits:
    term = Term("text" if isinstance(query, str) else "image", query)
    try:
        return index.search(terms=[term], k=k)
    except TextNotSupported:
        return Hits(str(query), f"{index.encoder.name} (knows no words)", Took(0, 0), ())
