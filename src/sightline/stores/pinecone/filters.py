"""A filter turned into one in Pinecone's language that lets through at least what passes.

Pinecone knows no $not, compares only numbers by order, takes no true or false in $in, and what $ne and $nin make of
missing fields and of lists has changed over the years (https://docs.pinecone.io/guides/search/filter-by-metadata,
haystack-core-integrations issue 590). So each field stands under its kind (see `schema.fields`), negations are pushed
down to the fields, a missing field is asked for with $exists, and what may let too much through is marked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sightline.filters import where
from sightline.filters.where import Node, Scalar

_KINDS = ("text", "number", "truth", "time", "none")
_OPPOSITE = {"$gt": "$lte", "$gte": "$lt", "$lt": "$gte", "$lte": "$gt"}
_INCLUSIVE = {"$gt": "$gte", "$gte": "$gte", "$lt": "$lte", "$lte": "$lte"}
_EXACT_BELOW = 2**53  # microseconds, before 1684 and after 2255: beyond, neighbouring moments share a double
_MOST_VALUES = 10_000  # of one $in or $nin


@dataclass(frozen=True, slots=True)
class Pushed:
    """A filter for Pinecone, None for everything; unless it `is_exact` it may let more through than passes."""

    filter: dict[str, Any] | None
    is_exact: bool = True


_PERHAPS_ALL = Pushed(None, is_exact=False)


def push(node: Node, *, is_negated: bool = False) -> Pushed:
    """The filter for what passes the node, or for what does not."""
    match node:
        case where.And(parts):
            pushed = [push(part, is_negated=is_negated) for part in parts]
            return _any(pushed) if is_negated else _all(pushed)
        case where.Or(parts):
            pushed = [push(part, is_negated=is_negated) for part in parts]
            return _all(pushed) if is_negated else _any(pushed)
        case where.Not(part):
            return push(part, is_negated=not is_negated)
        case where.In(field, values):
            if len(values) > _MOST_VALUES:
                return _PERHAPS_ALL
            kinds = where.by_kind(values)
            pushed = [_in(f"{kind}:{field}", some, is_negated=is_negated) for kind, some in kinds.items()]
            return _all(pushed) if is_negated else _any(pushed)
        case where.Compare(field, _, str()):  # Pinecone does not order text
            return _PERHAPS_ALL if is_negated else Pushed({f"text:{field}": {"$exists": True}}, is_exact=False)
        case where.Compare(field, operator, bound):
            name, symbol = f"{where.kind_of(bound)}:{field}", _OPPOSITE[operator] if is_negated else operator
            is_exact = _is_exact(bound)
            condition = {symbol if is_exact else _INCLUSIVE[symbol]: where.plain(bound)}
            return _lacks(name, condition, is_exact=is_exact) if is_negated else Pushed({name: condition}, is_exact)
        case where.Exists(field):
            pushed = [Pushed({f"{kind}:{field}": {"$exists": not is_negated}}) for kind in _KINDS]
            return _all(pushed) if is_negated else _any(pushed)
        case where.Match(words):
            if is_negated:
                return _any([_lacks("words", {"$nin": [word]}, is_exact=False) for word in words])
            return _all([Pushed({"words": {"$in": [word]}}) for word in words])


def _all(parts: Sequence[Pushed]) -> Pushed:
    filters = [part.filter for part in parts if part.filter is not None]
    is_exact = all(part.is_exact for part in parts)
    return Pushed({"$and": filters} if len(filters) > 1 else filters[0] if filters else None, is_exact)


def _any(parts: Sequence[Pushed]) -> Pushed:
    if not parts:
        return Pushed({"id": {"$eq": ""}})  # nothing: every entry has an id that is not empty
    filters = [part.filter for part in parts if part.filter is not None]
    is_exact = all(part.is_exact for part in parts)
    if len(filters) < len(parts):
        return Pushed(None, is_exact)
    return Pushed({"$or": filters} if len(filters) > 1 else filters[0], is_exact)


def _in(name: str, values: Sequence[Scalar], *, is_negated: bool) -> Pushed:
    """That a field of one kind is, or is not, one of some values of that kind."""
    if isinstance(values[0], bool):
        equal = [Pushed({name: {"$eq": truth}}) for truth in (False, True) if (truth in values) != is_negated]
        return _any([*equal, Pushed({name: {"$exists": False}})] if is_negated else equal)
    is_exact = all(map(_is_exact, values))
    if not is_negated:
        return Pushed({name: {"$in": [where.plain(value) for value in values]}}, is_exact)
    sure = [where.plain(value) for value in values if _is_exact(value)]
    may_be_list = isinstance(values[0], str)
    return _lacks(name, {"$nin": sure}, is_exact=is_exact and not may_be_list) if sure else _PERHAPS_ALL


def _is_exact(value: Scalar) -> bool:
    return not isinstance(value, datetime) or abs(where.microseconds(value)) < _EXACT_BELOW


def _lacks(name: str, condition: dict[str, Any], *, is_exact: bool) -> Pushed:
    """The field is missing, or this holds for it."""
    return Pushed({"$or": [{name: {"$exists": False}}, {name: condition}]}, is_exact)
