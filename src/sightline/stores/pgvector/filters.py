"""A filter turned into SQL over the column `fields`, whole: nothing is left to check afterwards.

The leaves are jsonpath. Its lax mode looks into lists, it never takes one kind for another, it orders text by code
points, and a GIN index answers its equalities.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sightline.filters.documents import TIME, payload_words
from sightline.filters.where import SYMBOLS, And, Compare, Exists, In, Match, Node, Not, Or, Scalar, microseconds
from sightline.types import Payload

_WORDS = "$words"  # no field of a payload is named so
_AT_ONCE = 100  # values of one jsonpath


class Condition(NamedTuple):
    """A piece of SQL that is true or false, never null, and its parameters."""

    sql: str
    parameters: tuple[object, ...] = ()


def fields_of(payload: Payload) -> str:
    """What filters see of a payload, as JSON: times as microseconds, and the words of $match."""
    fields: dict[str, object] = {
        name: {TIME: microseconds(value)} if isinstance(value, datetime) else value for name, value in payload.items()
    }
    words = payload_words(payload)
    if words:
        fields[_WORDS] = sorted(words)
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def condition_of(node: Node) -> Condition:
    """The condition that exactly those records fulfil that match."""
    match node:
        case And(parts):
            return _joined("AND", [condition_of(part) for part in parts], empty="true")
        case Or(parts):
            return _joined("OR", [condition_of(part) for part in parts], empty="false")
        case Not(part):
            inner = condition_of(part)
            return Condition(f"({inner.sql} IS NOT TRUE)", inner.parameters)
        case Match(words):
            return Condition("(fields @> %s::jsonb)", (json.dumps({_WORDS: words}),))
        case In(field) | Compare(field) | Exists(field) if not is_storable(field):
            return Condition("false")
        case In(field, values):
            return _in(field, values)
        case Compare(field, operator, bound):
            return _holds(_compared(field, SYMBOLS[operator], bound))
        case Exists(field):
            return Condition("(fields ? %s)", (field,))


def _joined(operator: str, parts: Sequence[Condition], *, empty: str) -> Condition:
    if not parts:
        return Condition(empty)
    sql = f" {operator} ".join(part.sql for part in parts)
    return Condition(f"({sql})", tuple(parameter for part in parts for parameter in part.parameters))


def _in(field: str, values: Sequence[Scalar]) -> Condition:
    times = [str(microseconds(value)) for value in values if isinstance(value, datetime)]
    others = [value for value in values if not isinstance(value, datetime)]
    literals = [json.dumps(value) for value in others if not isinstance(value, str) or is_storable(value)]
    found = list[Condition]()
    for path, every in ((_path(field, TIME), times), (_path(field), literals)):
        for at in range(0, len(every), _AT_ONCE):
            tests = " || ".join(f"@ == {literal}" for literal in every[at : at + _AT_ONCE])
            found.append(_holds(f"{path} ? ({tests})"))
    return _joined("OR", found, empty="false")


def _compared(field: str, symbol: str, bound: Scalar) -> str:
    if isinstance(bound, datetime):
        return f"{_path(field, TIME)} ? (@ {symbol} {microseconds(bound)})"
    if isinstance(bound, str) and "\0" in bound:
        # No text in the database has a NUL: what is up to the part before it comes before the bound, the rest after.
        bound, symbol = bound.partition("\0")[0], "<=" if symbol in ("<", "<=") else ">"
    return f"{_path(field)} ? (@ {symbol} {json.dumps(bound)})"


def _holds(path: str) -> Condition:
    return Condition("(fields @? %s::jsonpath)", (path,))


def _path(*names: str) -> str:
    return "".join(["$", *(f".{json.dumps(name)}" for name in names)])


def is_storable(text: str) -> bool:
    """Whether a database holds such text at all; what it cannot hold, nothing equals."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
