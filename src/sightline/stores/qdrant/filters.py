"""A filter turned into Qdrant's own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from qdrant_client import models

from sightline.filters.where import And, Compare, Exists, In, Match, Node, Not, Or, Scalar, kind_of

NAMES, TEXTS, WORDS = "has", "texts", "words"
"""Fields of a point: the names of its payload's fields, of those that hold text, and its words."""
PREFIXES = {"text": "s", "number": "n", "truth": "b", "time": "t"}
"""For each kind of value the object of a point that holds it, so that kinds are never compared with each other."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the engine filters by, None for everything. Unless `is_exact` it lets too many through."""

    filter: models.Filter | None
    node: Node
    is_exact: bool


def push(node: Node) -> Pushed:
    """A filter for the engine, which has no order of texts: there it tells only whether the field holds text."""
    if node == And(()):
        return Pushed(None, node, is_exact=True)
    wide, narrow = (_filter(node, is_wide=is_wide) for is_wide in (True, False))
    return Pushed(wide, node, wide == narrow)


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
            return _in(field, values if is_wide else [value for value in values if not _is_moved(value)])
        case Compare(field, operator, bound) if not isinstance(bound, str) and not _is_moved(bound):
            return models.Filter(must=[_range(field, bound, operator[1:])])
        case Compare(field, _, bound):  # the engine orders no texts, nor times at the ends of the calendar as we do
            return (
                models.Filter(must=[has_value(TEXTS if isinstance(bound, str) else NAMES, field)]) if is_wide else _NONE
            )
        case Exists(field):
            return models.Filter(must=[has_value(NAMES, field)])
        case Match(words):
            return models.Filter(must=[has_value(WORDS, word) for word in words])


def _in(field: str, values: Sequence[Scalar]) -> models.Filter:
    conditions = list[models.Condition]()
    if texts := [value for value in values if isinstance(value, str)]:
        conditions.append(models.FieldCondition(key=path(field, "text"), match=models.MatchAny(any=texts)))
    for value in values:
        if isinstance(value, bool):
            conditions.append(has_value(path(field, "truth"), value))
        elif not isinstance(value, str):  # Match knows no fractions
            conditions.append(_range(field, value, "gte", "lte"))
    return models.Filter(should=conditions) if conditions else _NONE


_NONE = models.Filter(must=[models.HasIdCondition(has_id=[])])  # an empty `should` lets everything through


def _is_moved(value: Scalar) -> bool:
    """Whether it is a time at the ends of the calendar, where points keep the nearest one that UTC can tell."""
    return isinstance(value, datetime) and moment(value) in (_FIRST, _LAST)


def _range(field: str, value: Scalar, *bounds: str) -> models.FieldCondition:
    key = path(field, kind_of(value))
    if isinstance(value, datetime):
        return models.FieldCondition(key=key, range=models.DatetimeRange(**dict.fromkeys(bounds, moment(value))))
    number = float(value) + 0.0  # -0.0 is 0.0
    return models.FieldCondition(key=key, range=models.Range(**dict.fromkeys(bounds, number)))
