"""The filter of a request turned into one that stores understand: times are text in JSON."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sightline.errors import WhereError
from sightline.types import Where

TIME = "$datetime"
_TIMES = ("taken", "modified", "indexed")
_DEEPEST = 20
_LARGEST = 1000  # values and conditions


def to_where(given: Mapping[str, Any] | None) -> Where | None:
    """The filter with its times as datetimes: {"$datetime": ...} anywhere, ISO 8601 text below a field of times.

    `WhereError` for what no payload can have, and for filters too deep or large to be a person's.
    """
    if not given:
        return None
    if (size := _size(given, 0)) > _LARGEST:
        raise WhereError(f"the filter has {size:,} parts, expected at most {_LARGEST:,}: search more coarsely")
    return {name: _converted(_checked(name), operand) for name, operand in given.items()}


def _size(part: Any, depth: int) -> int:
    if depth > _DEEPEST:
        raise WhereError(f"the filter is nested more than {_DEEPEST} levels deep, expected fewer: flatten it")
    if isinstance(part, Mapping):
        return 1 + sum(_size(inner, depth + 1) for inner in part.values())
    return 1 + sum(_size(inner, depth + 1) for inner in part) if isinstance(part, list) else 1


def _checked(name: str) -> str:
    if not name.isprintable() or '"' in name or "\\" in name or not name:
        raise WhereError(
            f"a field of the filter is {name!r}, expected a name without quotes, backslashes and control characters: "
            "no picture has such a field"
        )
    return name


def _converted(name: str, operand: Any) -> Any:
    if name in ("$and", "$or") and isinstance(operand, list):
        return [_converted_all(part) for part in operand]
    if name == "$not" and isinstance(operand, Mapping):
        return _converted_all(operand)
    if isinstance(operand, Mapping):
        if operand.keys() == {TIME}:
            return _moment(operand[TIME])
        return {operator: _converted_operand(name, operator, value) for operator, value in operand.items()}
    return _value(name, operand)


def _converted_all(part: Any) -> Any:
    return {n: _converted(_checked(n), o) for n, o in part.items()} if isinstance(part, Mapping) else part


def _converted_operand(name: str, operator: str, value: Any) -> Any:
    if operator == "$not":
        return _converted(name, value)
    return [_value(name, one) for one in value] if isinstance(value, list) else _value(name, value)


def _value(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and value.keys() == {TIME}:
        return _moment(value[TIME])
    if isinstance(value, str) and name in _TIMES:
        return _moment(value)
    if isinstance(value, str) and "\0" in value:
        raise WhereError(f"a value of {name!r} is {value!r}, expected text without NUL: no picture has it")
    return value


def _moment(text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        moment.astimezone(UTC)  # the first and last days of all time overflow
    except (TypeError, ValueError, OverflowError) as error:
        raise WhereError(f"a time is {text!r}, expected ISO 8601: write it like 2024-05-01T12:00:00Z") from error
    return moment
