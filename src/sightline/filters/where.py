"""A filter turned into a tree, and the tree matched against payloads: what every store means by a filter."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, TypeAlias

from sightline.errors import WhereError
from sightline.filters.documents import payload_words, words_of
from sightline.types import Payload, Where

Scalar: TypeAlias = str | int | float | bool | datetime

LARGEST_INTEGER = 2**53 - 1
"""Integers up to here are exact in every engine and in JSON."""

_FIELD_OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not")
_TOP_OPERATORS = ("$and", "$or", "$not", "$match")
ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda value, bound: bool(value > bound),
    "$gte": lambda value, bound: bool(value >= bound),
    "$lt": lambda value, bound: bool(value < bound),
    "$lte": lambda value, bound: bool(value <= bound),
}
"""Whether a value stands so to a bound of its kind."""
SYMBOLS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
"""The same as most query languages write it."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class And:
    """Matches when every part does; without parts it matches everything."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Matches when some part does."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Matches when the part does not."""

    part: "Node"


@dataclass(frozen=True, slots=True)
class In:
    """Matches when the field, or an element of it, equals one of the values."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """Matches when the field, or an element of it, stands so to the bound, no bool: $gt, $gte, $lt or $lte."""

    field: str
    operator: str
    bound: Scalar


@dataclass(frozen=True, slots=True)
class Exists:
    """Matches when the payload has the field."""

    field: str


@dataclass(frozen=True, slots=True)
class Match:
    """Matches when all the words occur in the payload's caption, title and name together."""

    words: tuple[str, ...]


Node: TypeAlias = And | Or | Not | In | Compare | Exists | Match


def check_where(where: Where) -> None:
    """Raise `WhereError` for a filter that cannot be understood."""
    parse_where(where)


def parse_where(where: Where) -> Node:
    """A filter as a tree of seven kinds of nodes, which is what a store translates; `WhereError` if it is none.

    A condition on a list holds if it holds for one of its elements. `$ne`, `$nin` and `$exists: false` are the plain
    negations of `$eq`, `$in` and `$exists`, so a missing field matches them. Values of different kinds (text, number,
    true or false, time) are never equal and never ordered.
    """
    if not isinstance(where, Mapping):
        raise WhereError(f'the filter is {where!r}, expected a mapping: write it like {{"color": "red"}}')
    parts = [_top(name, operand) for name, operand in where.items()]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def matches(payload: Payload, where: Where | Node) -> bool:
    """Whether a payload passes a filter; `WhereError` for a filter that cannot be understood."""
    match parse_where(where) if isinstance(where, Mapping) else where:
        case And(parts):
            return all(matches(payload, part) for part in parts)
        case Or(parts):
            return any(matches(payload, part) for part in parts)
        case Not(part):
            return not matches(payload, part)
        case In(field, values):
            found = _elements(payload, field)
            return any(kind_of(one) == kind_of(value) and one == value for one in found for value in values)
        case Compare(field, operator, bound):
            ordering, kind = ORDERINGS[operator], kind_of(bound)
            return any(kind_of(value) == kind and ordering(value, bound) for value in _elements(payload, field))
        case Exists(field):
            return field in payload
        case Match(words):
            return set(words) <= payload_words(payload)


def fields_of(node: Node) -> set[str]:
    """The fields that a filter names."""
    match node:
        case And(parts) | Or(parts):
            return set[str]().union(*map(fields_of, parts))
        case Not(part):
            return fields_of(part)
        case In(field) | Compare(field) | Exists(field):
            return {field}
    return set()


def kind_of(value: object) -> str:
    """`text`, `number`, `truth` or `time` for a value that filters compare, else an empty text."""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "time" if isinstance(value, datetime) else ""


def by_kind(values: Sequence[Scalar]) -> dict[str, list[Any]]:
    """The values of each kind, as `kind_of` calls it: engines compare one kind at a time."""
    found: dict[str, list[Any]] = {}
    for value in values:
        found.setdefault(kind_of(value), []).append(value)
    return found


def plain(value: Scalar) -> str | int | float | bool:
    """A value as engines compare it within its kind: a time in microseconds, a number as a float that is never -0.0."""
    if isinstance(value, str | bool):
        return value
    return microseconds(value) if isinstance(value, datetime) else float(value) + 0.0


def microseconds(moment: datetime) -> int:
    """Since 1970 in UTC: the integer by which engines compare times."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def _elements(payload: Payload, field: str) -> Sequence[object]:
    value = payload.get(field, [])
    return value if isinstance(value, list) else [value]


def _top(name: object, operand: Any) -> Node:
    if not isinstance(name, str) or not name:
        raise WhereError(f'a field of the filter is {name!r}, expected text: write it like {{"color": "red"}}')
    if name in ("$and", "$or"):
        if not isinstance(operand, list | tuple) or not operand:
            raise WhereError(f"{name} is {operand!r}, expected a list of at least one filter: put them in brackets")
        parts = tuple(parse_where(where) for where in operand)
        return And(parts) if name == "$and" else Or(parts)
    if name == "$not":
        return Not(parse_where(operand))
    if name == "$match":
        words = tuple(dict.fromkeys(words_of(operand))) if isinstance(operand, str) else ()
        if not words:
            raise WhereError(f"$match is {operand!r}, expected words to look for: write at least one")
        return Match(words)
    if name.startswith("$"):
        raise _unknown(name, _TOP_OPERATORS, also=_FIELD_OPERATORS)
    if not isinstance(operand, Mapping):
        return In(name, (_scalar(name, "$eq", operand),))
    if not operand:
        raise WhereError(f"{name!r} has no condition, expected one of {' '.join(_FIELD_OPERATORS)}: name one")
    conditions = [_condition(name, operator, value) for operator, value in operand.items()]
    return conditions[0] if len(conditions) == 1 else And(tuple(conditions))


def _condition(field: str, operator: object, operand: Any) -> Node:
    match operator:
        case "$eq":
            return In(field, (_scalar(field, "$eq", operand),))
        case "$ne":
            return Not(In(field, (_scalar(field, "$ne", operand),)))
        case "$in" | "$nin":
            if not isinstance(operand, list | tuple | set | frozenset):
                raise WhereError(
                    f"{operator} of {field!r} is {operand!r}, expected a list of values: put it in brackets"
                )
            node = In(field, tuple(_scalar(field, str(operator), value) for value in operand))
            return node if operator == "$in" else Not(node)
        case "$gt" | "$gte" | "$lt" | "$lte":
            bound = _scalar(field, str(operator), operand)
            if isinstance(bound, bool):  # engines do not order these
                return In(field, tuple(value for value in (False, True) if ORDERINGS[str(operator)](value, bound)))
            return Compare(field, str(operator), bound)
        case "$exists":
            if not isinstance(operand, bool):
                raise WhereError(f"$exists of {field!r} is {operand!r}, expected true or false: write one of them")
            return Exists(field) if operand else Not(Exists(field))
        case "$not":
            if not isinstance(operand, Mapping):
                raise WhereError(f"$not of {field!r} is {operand!r}, expected conditions: use $ne for a value")
            return Not(_top(field, operand))
    raise _unknown(operator, _FIELD_OPERATORS, also=_TOP_OPERATORS)


def _scalar(field: str, operator: str, value: Any) -> Scalar:
    where = f"{operator} of {field!r} is {value!r}"
    if isinstance(value, list | tuple | set | frozenset):
        raise WhereError(f"{where}, expected one value: use $in for any of several")
    if not kind_of(value):
        raise WhereError(f"{where}, expected text, a number, true, false or a datetime: give one, or use $exists")
    if isinstance(value, datetime) and value.utcoffset() is None:
        raise WhereError(f"{where}, expected a time zone: add tzinfo=timezone.utc")
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise WhereError(f"{where}, expected an integer within 53 bits: use a smaller one")
    if isinstance(value, float) and not math.isfinite(value):
        raise WhereError(f"{where}, expected a finite number: use $exists for what is missing")
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        raise WhereError(f"{where}, expected valid Unicode: no payload holds lone surrogates, so remove them")
    return value  # type: ignore[no-any-return]


def _unknown(operator: object, known: Sequence[str], also: Sequence[str]) -> WhereError:
    if operator in also:
        place = "below a field" if operator in _FIELD_OPERATORS else "beside fields, not below one"
        return WhereError(f"{operator} stands in the wrong place, expected it {place}: move it there")
    nearest = get_close_matches(str(operator), known, n=1, cutoff=0.3)
    advice = f"did you mean {nearest[0]}?" if nearest else "use one of those"
    return WhereError(f"{operator!r} is not a valid operator, expected one of {' '.join(known)}: {advice}")
