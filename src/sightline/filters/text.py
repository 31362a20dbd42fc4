"""Filters as people type them: `width>=800`, `taken>=2024-05`, or JSON."""

import json
import re
from difflib import get_close_matches
from typing import Any

from sightline.errors import WhereError
from sightline.types import Where

_OPERATORS = {">=": "$gte", "<=": "$lte", "!=": "$ne", ">": "$gt", "<": "$lt", "=": "$eq"}
_CONDITION = re.compile(r"\s*([\w.-]+(?: +[\w.-]+)*)\s*([<>=!~]+)\s*(.*?)\s*", re.DOTALL)
_ANOTHER = re.compile(r"\s(?:and|or|&&?|\|\|?)\s+[\w.-]+\s*[<>=!]=?", re.IGNORECASE)
_SAMPLES = "width>=800, color=red, taken>=2024-05"


class Unquoted(str):
    """A value as it was typed: a number, a date, true or false, or text, whichever its field holds."""

    __slots__ = ()


def read_filter(text: str) -> Where:
    """The mapping that a typed filter stands for, its values as they were typed; quotes make a value text.

    `WhereError` for what is neither JSON nor FIELD OPERATOR VALUE.
    """
    if text.lstrip().startswith("{"):
        return _read_json(text)
    match = _CONDITION.fullmatch(text)
    if not match:
        raise WhereError(f"{text!r} is not a valid filter, expected FIELD, OPERATOR, VALUE: {_SAMPLES}, or JSON")
    field, operator, value = match.groups()
    if operator not in _OPERATORS:
        nearest = {"=>": ">=", "=<": "<=", "==": "=", "=!": "!=", "<>": "!="}.get(operator)
        nearest = nearest or (get_close_matches(operator, _OPERATORS, 1, 0) or ["="])[0]
        raise WhereError(
            f"{operator!r} in {text!r} is not an operator, expected one of {' '.join(_OPERATORS)}: "
            f"did you mean {field}{nearest}{value}?"
        )
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return {field: {_OPERATORS[operator]: value[1:-1]}}
    if not value:
        raise WhereError(f"{text!r} has no value, expected one behind {operator}")
    if _ANOTHER.search(value):
        raise WhereError(
            f"{text!r} holds several conditions, expected one: give each as a filter of its own, or write JSON with "
            "$and, or put the value in quotes"
        )
    return {field: {_OPERATORS[operator]: Unquoted(value)}}


def natural(text: str) -> int | float | bool | str:
    """A number, or true or false, where the text is written like one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text) if "_" not in text else text
        except ValueError:
            continue
    return text


def _read_json(text: str) -> dict[str, Any]:
    try:
        where = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WhereError(
            f'where is not JSON ({error}): {text[:200]!r}, expected something like {{"width": {{"$gte": 800}}}}'
        ) from error
    return dict(where)
