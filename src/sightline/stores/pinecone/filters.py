"""A filter turned into one in Pinecone's language that lets through at least what passes.

Pinecone knows no $not, compares only numbers by order, takes no true or false in $in, and what $ne and $nin make of
missing fields and of lists has changed over the years (https://docs.pinecone.io/guides/search/filter-by-metadata,
haystack-core-integrations issue 590). So each field stands under its kind (see `schema.fields`), negations are pushed
down to the fields, a missing field is asked for with $exists, and what may let too much through is marked.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.filters.where import And, Compare, Exists, In, Match, Node, Not, Or, Scalar, kind_of
from sightline.stores.pinecone.schema import microseconds

_KINDS = ("text", "number", "truth", "time", "none")
_OPPOSITE = {"$gt": "$lte", "$gte": "$lt", "$lt": "$gte", "$lte": "$gt"}
_INCLUSIVE = {"$gt": "$gte", "$gte": "$gte", "$lt": "$lte", "$lte": "$lte"}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_EXACT_BELOW = 2**53  # microseconds: beyond, neighbouring moments share a double
_MOST_VALUES = 10_000  # of one $in or $nin


@dataclass(frozen=True, slots=True)
class Pushed:
    """A filter for Pinecone, None for everything; unless it `is_exact` it may let more through than passes."""

    filter: dict[str, Any] | None
    is_exact: bool = True


_ALL = Pushed(None)
_PERHAPS_ALL = Pushed(None, is_exact=False)
_NONE = Pushed({"id": {"$eq": ""}})  # every entry has an id that is not empty


def push(node: Node, *, is_negated: bool = False) -> Pushed:
    """The filter for what passes the node, or for what does not."""
    match node:
        case And(parts):
            pushed = [push(part, is_negated=is_negated) for part in parts]
            return _any(pushed) if is_negated else _all(pushed)
        case Or(parts):
            pushed = [push(part, is_negated=is_negated) for part in parts]
            return _all(pushed) if is_negated else _any(pushed)
        case Not(part):
            return push(part, is_negated=not is_negated)
        case In(field, values):
            return _not_in(field, values) if is_negated else _in(field, values)
        case Compare():
            return _compared(node, is_negated=is_negated)
        case Exists(field):
            parts_of = [Pushed({f"{kind}:{field}": {"$exists": not is_negated}}) for kind in _KINDS]
            return _all(parts_of) if is_negated else _any(parts_of)
        case Match(words):
            if is_negated:
                return _any([_lacks("words", {"$nin": [word]}, is_exact=False) for word in words])
            return _all([Pushed({"words": {"$in": [word]}}) for word in words])


def _all(parts: Sequence[Pushed]) -> Pushed:
    filters = [part.filter for part in parts if part.filter is not None]
    is_exact = all(part.is_exact for part in parts)
    return Pushed({"$and": filters} if len(filters) > 1 else filters[0] if filters else None, is_exact)


def _any(parts: Sequence[Pushed]) -> Pushed:
    if not parts:
        return _NONE
    filters = [part.filter for part in parts if part.filter is not None]
    is_exact = all(part.is_exact for part in parts)
    if len(filters) < len(parts):
        return Pushed(None, is_exact)
    return Pushed({"$or": filters} if len(filters) > 1 else filters[0], is_exact)


def _in(field: str, values: Sequence[Scalar]) -> Pushed:
    if len(values) > _MOST_VALUES:
        return _PERHAPS_ALL
    parts = list[Pushed]()
    if texts := [value for value in values if isinstance(value, str)]:
        parts.append(Pushed({f"text:{field}": {"$in": texts}}))
    if numbers := _numbers(values):
        parts.append(Pushed({f"number:{field}": {"$in": numbers}}))
    parts += [Pushed({f"truth:{field}": {"$eq": truth}}) for truth in _truths(values)]
    if times := _times(values):
        is_exact = all(abs(time) < _EXACT_BELOW for time in times)
        parts.append(Pushed({f"time:{field}": {"$in": [float(time) for time in times]}}, is_exact))
    return _any(parts)


def _not_in(field: str, values: Sequence[Scalar]) -> Pushed:
    if len(values) > _MOST_VALUES:
        return _PERHAPS_ALL
    parts = list[Pushed]()
    if texts := [value for value in values if isinstance(value, str)]:
        parts.append(_lacks(f"text:{field}", {"$nin": texts}, is_exact=False))  # the field may be a list
    if numbers := _numbers(values):
        parts.append(_lacks(f"number:{field}", {"$nin": numbers}))
    truths = _truths(values)
    parts += [_lacks(f"truth:{field}", {"$eq": not truth}) for truth in truths[:1]]
    if len(truths) == 2:
        parts.append(Pushed({f"truth:{field}": {"$exists": False}}))
    times = _times(values)
    if exact := [float(time) for time in times if abs(time) < _EXACT_BELOW]:
        parts.append(_lacks(f"time:{field}", {"$nin": exact}, is_exact=len(exact) == len(times)))
    elif times:
        parts.append(_PERHAPS_ALL)
    return _all(parts)


def _compared(node: Compare, *, is_negated: bool) -> Pushed:
    match kind_of(node.bound):
        case "text":  # Pinecone does not order text
            return _PERHAPS_ALL if is_negated else Pushed({f"text:{node.field}": {"$exists": True}}, is_exact=False)
        case "truth":
            holds = _COMPARISONS[node.operator]
            values = tuple(truth for truth in (False, True) if holds(truth, node.bound))
            return push(In(node.field, values), is_negated=is_negated)
        case "number":
            name, bound, is_exact = f"number:{node.field}", float(node.bound), True  # type: ignore[arg-type]
        case _:
            time = microseconds(node.bound)  # type: ignore[arg-type]
            name, bound, is_exact = f"time:{node.field}", float(time), abs(time) < _EXACT_BELOW
    symbol = _OPPOSITE[node.operator] if is_negated else node.operator
    condition = {symbol if is_exact else _INCLUSIVE[symbol]: bound}
    return _lacks(name, condition, is_exact=is_exact) if is_negated else Pushed({name: condition}, is_exact)


def _lacks(name: str, condition: dict[str, Any], *, is_exact: bool = True) -> Pushed:
    """The field is missing, or this holds for it."""
    return Pushed({"$or": [{name: {"$exists": False}}, {name: condition}]}, is_exact)


def _numbers(values: Sequence[Scalar]) -> list[float]:
    return [float(value) + 0.0 for value in values if isinstance(value, int | float) and not isinstance(value, bool)]


def _truths(values: Sequence[Scalar]) -> list[bool]:
    return sorted({value for value in values if isinstance(value, bool)})


def _times(values: Sequence[Scalar]) -> list[int]:
    return [microseconds(value) for value in values if kind_of(value) == "time"]  # type: ignore[arg-type]
