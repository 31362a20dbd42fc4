"""A filter turned into Qdrant's own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from qdrant_client import models

from sightline.filters.where import And, Compare, Exists, In, Match, Node, Not, Or, Scalar, kind_of, matches

NAMES, TEXTS, WORDS = "has", "texts", "words"
"""Fields of a point: the names of its payload's fields, of those that hold text, and its words."""
PREFIXES = {"text": "s", "number": "n", "truth": "b", "time": "t"}
"""For each kind of value the object of a point that holds it, so that kinds are never compared with each other."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_BOUNDS = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the engine filters by. Unless `is_exact` it lets too many through."""

    filter: models.Filter
    node: Node
    is_exact: bool


def push(node: Node) -> Pushed:
    """A filter for the engine, which has no order of texts: there it tells only whether the field holds text."""
    return Pushed(_filter(node, is_wide=True), node, _is_exact(node))


def path(field: str, kind: str) -> str:
    """Where a point keeps the values of that kind of a field of the payload."""
    return f"{PREFIXES[kind]}.{field}" if _PLAIN.fullmatch(field) else f'{PREFIXES[kind]}."{field}"'


def moment(value: datetime) -> datetime:
    """A time in UTC; what lies outside the years 1 to 9999 there is moved to their ends."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        return _FIRST if value.year < 5000 else _LAST


def looked_into(node: Node) -> set[tuple[str, str]]:
    """The fields of payloads that a filter compares, each with the kind of its values."""
    match node:
        case And(parts) | Or(parts):
            return {pair for part in parts for pair in looked_into(part)}
        case Not(part):
            return looked_into(part)
        case In(field, values):
            return {(field, kind_of(value)) for value in values}
        case Compare(field, _, bound):
            return {(field, kind_of(bound))}
    return set()


def has_value(key: str, value: str | bool) -> models.FieldCondition:
    """The condition that a field of a point is, or holds, a value."""
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _filter(node: Node, *, is_wide: bool) -> models.Filter:
    """A filter that lets all through that match, or with `is_wide` false none that do not."""
    match node:
        case And(parts):
            return models.Filter(must=[_filter(part, is_wide=is_wide) for part in parts])
        case Or(parts):
            return models.Filter(should=[_filter(part, is_wide=is_wide) for part in parts])
        case Not(part):
            return models.Filter(must_not=[_filter(part, is_wide=not is_wide)])
        case In(field, values):
            return _any_of(_in(field, values if is_wide else [value for value in values if not _is_moved(value)]))
        case Compare(field, operator, bound):
            return _compare(field, operator, bound, is_wide=is_wide)
        case Exists(field):
            return models.Filter(must=[has_value(NAMES, field)])
        case Match(words):
            return models.Filter(must=[has_value(WORDS, word) for word in words])


def _any_of(conditions: Sequence[models.Condition]) -> models.Filter:
    if not conditions:  # an empty `should` lets everything through
        return models.Filter(must=[models.HasIdCondition(has_id=[])])
    return models.Filter(should=list(conditions))


def _in(field: str, values: Sequence[Scalar]) -> list[models.Condition]:
    conditions = list[models.Condition]()
    if texts := [value for value in values if isinstance(value, str)]:
        conditions.append(models.FieldCondition(key=path(field, "text"), match=models.MatchAny(any=texts)))
    for value in values:
        if isinstance(value, bool):
            conditions.append(has_value(path(field, "truth"), value))
        elif not isinstance(value, str):  # Match knows no fractions
            conditions.append(_range(field, value, "gte", "lte"))
    return conditions


def _compare(field: str, operator: str, bound: Scalar, *, is_wide: bool) -> models.Filter:
    if not _has_order(bound):
        return models.Filter(must=[_holds(field, bound)]) if is_wide else _any_of([])
    if isinstance(bound, bool):
        held = [value for value in (False, True) if matches({field: value}, Compare(field, operator, bound))]
        return _any_of([has_value(path(field, "truth"), value) for value in held])
    return models.Filter(must=[_range(field, bound, _BOUNDS[operator])])


def _has_order(bound: Scalar) -> bool:
    """Whether the engine orders such values as we do."""
    return not isinstance(bound, str) and not _is_moved(bound)


def _is_moved(value: Scalar) -> bool:
    """Whether it is a time at the ends of the calendar, where points keep the nearest one that UTC can tell."""
    return isinstance(value, datetime) and moment(value) in (_FIRST, _LAST)


def _holds(field: str, bound: Scalar) -> models.Condition:
    return has_value(TEXTS if isinstance(bound, str) else NAMES, field)


def _range(field: str, value: Scalar, *bounds: str) -> models.FieldCondition:
    key = path(field, kind_of(value))
    if isinstance(value, datetime):
        return models.FieldCondition(key=key, range=models.DatetimeRange(**dict.fromkeys(bounds, moment(value))))
    number = float(value) + 0.0  # -0.0 is 0.0
    return models.FieldCondition(key=key, range=models.Range(**dict.fromkeys(bounds, number)))


def _is_exact(node: Node) -> bool:
    match node:
        case And(parts) | Or(parts):
            return all(_is_exact(part) for part in parts)
        case Not(part):
            return _is_exact(part)
        case Compare(_, _, bound):
            return _has_order(bound)
        case In(_, values):
            return not any(_is_moved(value) for value in values)
    return True
