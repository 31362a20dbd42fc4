"""A filter turned into SQL over the column `fields`, whole: nothing is left to check afterwards.

The leaves are jsonpath. Its lax mode looks into lists, it never takes one kind for another, it orders text by code
points, and a GIN index answers its equalities.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sightline.filters.documents import TIME, payload_words
from sightline.filters.where import And, Compare, Exists, In, Match, Node, Not, Or, Scalar
from sightline.types import Payload

_WORDS = "$words"  # no field of a payload is named so
_AT_ONCE = 100  # values of one jsonpath
_SYMBOLS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Condition(NamedTuple):
    """A piece of SQL that is true or false, never null, and its parameters."""

    sql: str
    parameters: tuple[object, ...] = ()


_TRUE, _FALSE = Condition("true"), Condition("false")


def fields_of(payload: Payload) -> str:
    """What filters see of a payload, as JSON: times as microseconds, and the words of $match."""
    fields: dict[str, object] = {
        name: {TIME: _microseconds(value)} if isinstance(value, datetime) else value for name, value in payload.items()
    }
    words = payload_words(payload)
    if words:
        fields[_WORDS] = sorted(words)
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def condition_of(node: Node) -> Condition:
    """The condition that exactly those records fulfil that match."""
    match node:
        case And(parts):
            return _joined("AND", [condition_of(part) for part in parts], empty=_TRUE)
        case Or(parts):
            return _joined("OR", [condition_of(part) for part in parts], empty=_FALSE)
        case Not(part):
            inner = condition_of(part)
            return Condition(f"({inner.sql} IS NOT TRUE)", inner.parameters)
        case In(field, values):
            return _in(field, values) if is_storable(field) else _FALSE
        case Compare(field, operator, bound):
            return _compared(field, operator, bound) if is_storable(field) else _FALSE
        case Exists(field):
            return Condition("(fields ? %s)", (field,)) if is_storable(field) else _FALSE
        case Match(words):
            return Condition("(fields @> %s::jsonb)", (json.dumps({_WORDS: words}),))


def _joined(operator: str, parts: Sequence[Condition], *, empty: Condition) -> Condition:
    if not parts:
        return empty
    sql = f" {operator} ".join(part.sql for part in parts)
    return Condition(f"({sql})", tuple(parameter for part in parts for parameter in part.parameters))


def _in(field: str, values: Sequence[Scalar]) -> Condition:
    times = [str(_microseconds(value)) for value in values if isinstance(value, datetime)]
    others = [value for value in values if not isinstance(value, datetime)]
    literals = [json.dumps(value) for value in others if not isinstance(value, str) or is_storable(value)]
    paths = [*_equal(_path(field, TIME), times), *_equal(_path(field), literals)]
    return _joined("OR", [_holds(path) for path in paths], empty=_FALSE)


def _equal(path: str, literals: Sequence[str]) -> Iterable[str]:
    for at in range(0, len(literals), _AT_ONCE):
        yield f"{path} ? ({' || '.join(f'@ == {literal}' for literal in literals[at : at + _AT_ONCE])})"


def _compared(field: str, operator: str, bound: Scalar) -> Condition:
    symbol = _SYMBOLS[operator]
    if isinstance(bound, datetime):
        return _holds(f"{_path(field, TIME)} ? (@ {symbol} {_microseconds(bound)})")
    if isinstance(bound, str) and "\0" in bound:
        # No text in the database has a NUL: what is up to the part before it comes before the bound, the rest after.
        bound, symbol = bound.partition("\0")[0], "<=" if symbol in ("<", "<=") else ">"
    return _holds(f"{_path(field)} ? (@ {symbol} {json.dumps(bound)})")


def _holds(path: str) -> Condition:
    return Condition("(fields @? %s::jsonpath)", (path,))


def _path(*names: str) -> str:
    return "".join(["$", *(f".{json.dumps(name)}" for name in names)])


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def is_storable(text: str) -> bool:
    """Whether a database holds such text at all; what it cannot hold, nothing equals."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
