"""What dates in filters mean: days, months and years by the clock of the camera that took the picture."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from sightline.errors import WhereError
from sightline.filters.documents import TIME
from sightline.types import Payload, Value, Where

_LOCAL = "_local"
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?")
_LAST = datetime.max.replace(tzinfo=UTC)


class Span(NamedTuple):
    """From `start` until before `end`, as clocks on walls show it: both are written as UTC.

    Of a single moment, both are the same.
    """

    start: datetime
    end: datetime


def is_date(value: object) -> bool:
    """Whether a value of a filter can be read as a date, a month, a year or a moment."""
    try:
        read_time(value)
    except WhereError:
        return False
    return True


def read_time(value: Any) -> Span | datetime:
    """A value of a filter as a span on the wall clock, or as a moment where it tells its offset from UTC.

    YYYY, YYYY-MM and YYYY-MM-DD, a `date` and a number (a year) are spans; ISO 8601 with a time is one moment.
    """
    if isinstance(value, Mapping):
        value = value.get(TIME)
    if isinstance(value, datetime):
        return value  # without a time zone it is refused where all values are checked
    if isinstance(value, date):
        value = value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:04}"
    try:
        if match := _DATE.fullmatch(value):
            return _span(*match.groups())
        if value[10:11] not in ("T", " "):  # ISO 8601 also knows 20240501 and 2024-W18: numbers and codes here
            raise ValueError(value)
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            return Span(moment.replace(tzinfo=UTC), moment.replace(tzinfo=UTC))
        moment.astimezone(UTC)  # the first and last days of all time overflow
    except (TypeError, ValueError, OverflowError) as error:
        raise WhereError(f"{value!r} is not a valid date, expected YYYY, YYYY-MM or YYYY-MM-DD") from error
    return moment


def compare_times(field: str, operator: str, bound: Span) -> Where:
    """The condition ($eq, $gt, $gte, $lt or $lte) on a field of times, by the wall clock: `>` of a day starts after it.

    `with_local_times` keeps the wall clock beside each time that is off UTC. What was written without it falls back on
    UTC.
    """
    start, end = bound
    match operator:
        case "$gte" | "$lt":
            conditions: dict[str, datetime] = {operator: start}
        case "$gt" | "$lte" if start == end:
            conditions = {operator: start}
        case "$gt":
            conditions = {"$gte": end}
        case "$lte":
            conditions = {"$lt": end}
        case _:
            conditions = {"$eq": start} if start == end else {"$gte": start, "$lt": end}
    local = field + _LOCAL
    return {"$or": [{local: conditions}, {"$and": [{local: {"$exists": False}}, {field: conditions}]}]}


def with_local_times(payload: Payload) -> dict[str, Value]:
    """The payload, and for each time that is off UTC what the clock showed there, written as UTC: `taken_local`."""
    local = {
        name + _LOCAL: value.replace(tzinfo=UTC)
        for name, value in payload.items()
        if isinstance(value, datetime) and value.utcoffset()
    }
    return {**payload, **{name: value for name, value in local.items() if name not in payload}}


def is_local_time(name: str, value: object) -> bool:
    """Whether a field is the wall clock beside another one, which is for filters and not for people."""
    return name.endswith(_LOCAL) and isinstance(value, datetime)


def _span(year: str, month: str | None, day: str | None) -> Span:
    start = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
    try:
        if day:
            return Span(start, start + timedelta(days=1))
        if month and month != "12":
            return Span(start, start.replace(month=start.month + 1))
        return Span(start, datetime(start.year + 1, 1, 1, tzinfo=UTC))
    except (OverflowError, ValueError):  # the last year there is
        return Span(start, _LAST)
