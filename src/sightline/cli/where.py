"""`width>=800` and JSON turned into a filter."""

import json
import re
from datetime import UTC, datetime
from typing import Any

from sightline.errors import WhereError

_OPERATORS = {">=": "$gte", "<=": "$lte", "!=": "$ne", ">": "$gt", "<": "$lt", "=": "$eq"}
_CONDITION = re.compile(r"\s*([\w.-]+)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*", re.DOTALL)
_DAY = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?")
_YEAR = re.compile(r"\d{4}")
_DATES = ("taken", "modified")


def parse_where(text: str) -> dict[str, Any]:
    """Read `color=red`, `width>=800`, `taken>=2024-05` or a JSON object as a filter; `WhereError` if it is neither.

    A value is a number, true or false, a date (YYYY-MM, YYYY-MM-DD or ISO 8601), else text; quotes make it text.
    """
    if text.lstrip().startswith("{"):
        return _json(text)
    match = _CONDITION.fullmatch(text)
    if not match:
        raise WhereError(
            f"--where {text!r} is no filter, expected FIELD, one of {' '.join(_OPERATORS)}, VALUE: try width>=800"
        )
    field, operator, value = match.groups()
    return {field: {_OPERATORS[operator]: _value(field, value)}}


def _json(text: str) -> dict[str, Any]:
    try:
        where = json.loads(text)
    except json.JSONDecodeError as error:
        raise WhereError(
            f'--where {text!r} is not JSON ({error}), expected something like {{"width": {{"$gte": 800}}}}'
        ) from error
    return dict(where)


def _value(field: str, text: str) -> Any:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    if field in _DATES and _YEAR.fullmatch(text):
        return datetime(int(text), 1, 1, tzinfo=UTC)
    for read in (int, float, _date):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _date(text: str) -> datetime:
    if match := _DAY.fullmatch(text):
        year, month, day = match.groups(default="1")
        return datetime(int(year), int(month), int(day), tzinfo=UTC)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
