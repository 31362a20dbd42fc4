"""A condition turned into all documents that meet it, in order of id, page by page.

Vespa has no cursor for queries; offsets cost more the further they go, and move with what is written meanwhile. So
each page begins after the last document of the one before, and looks into a window of the ids in which a few pages lie:
without it, each page would sort all that is left.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sightline.errors import StoreError
from sightline.stores.vespa.client import Client
from sightline.stores.vespa.filters import EVERYTHING, NOTHING, after, both
from sightline.stores.vespa.longs import PLACES, places
from sightline.stores.vespa.package import LARGEST_ANSWER
from sightline.stores.vespa.records import document_id, hit_fields

_PAGE = 500  # with 512-d vectors about 3 MB
_PAGES_IN_WINDOW = 8
_LOWEST, _HIGHEST = -(2**63) + 1, 2**63 - 1
_ORDER = ", ".join([*(f"place{at} asc" for at in range(PLACES)), '{function: "raw"}rest asc'])


def pages(
    client: Client, schema: str, condition: str, summary: str, *, page: int = _PAGE
) -> Iterator[Mapping[str, Any]]:
    """The fields of every document that meets a condition, in order of id; of `summary`, a summary class."""
    if condition == NOTHING:
        return
    low, width, last, limit = _LOWEST, _HIGHEST - _LOWEST, "", page
    while low <= _HIGHEST:
        high = min(low + width, _HIGHEST)
        window = f"range(place0, {low}L, {high}L)"
        root = client.query(_body(schema, both([window, _after(last), condition]), summary, limit))
        found = list(hit_fields(root))
        fresh = [fields for fields in found if document_id(fields) > last]
        yield from fresh
        total = int(root["fields"]["totalCount"])
        if len(found) < limit:  # the window is empty now
            low, width = high + 1, min(width * _PAGES_IN_WINDOW, _HIGHEST - _LOWEST)
        elif fresh:
            last = document_id(fresh[-1])
            low, limit = places(last)[0][0], page
            if total > 2 * _PAGES_IN_WINDOW * page:
                width = max(1, (high - low) * _PAGES_IN_WINDOW * page // total)
        else:
            limit = _more(limit, last)


def count(client: Client, schema: str, condition: str) -> int:
    """How many documents meet a condition."""
    if condition == NOTHING:
        return 0
    body = {"yql": f"select * from sources * where {condition} limit 0", **_of(schema)}
    return int(client.query(body)["fields"]["totalCount"])


def _body(schema: str, condition: str, summary: str, limit: int) -> dict[str, Any]:
    yql = f"select * from sources * where {condition} order by {_ORDER} limit {limit}"
    return {"yql": yql, "presentation.summary": summary, **_of(schema)}


def _of(schema: str) -> dict[str, Any]:
    return {"model.restrict": schema, "ranking.profile": "unranked"}


def _after(last: str) -> str:
    """Longer ids may share all their places with others: those are asked for again, and told apart here."""
    if not last:
        return EVERYTHING
    parts, rest = places(last)
    return after(parts, or_equal=bool(rest))


def _more(limit: int, last: str) -> int:
    if limit >= LARGEST_ANSWER:
        raise StoreError(
            f"more than {LARGEST_ANSWER} ids begin with the same {8 * PLACES} bytes as {last[:60]!r}, expected ids "
            "that differ before: use record_id(uri)"
        )
    return min(2 * limit, LARGEST_ANSWER)
