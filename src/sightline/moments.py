"""Moments as cameras and programs write them into pictures; what is not certain is not read."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

_FIRST_YEAR = 1826  # the oldest photograph that is kept; before it, a clock was not set
_WRITTEN = re.compile(
    r"(?P<year>\d{4}) ?([-:/.]) ?(?P<month>\d{1,2}) ?\2 ?(?P<day>\d{1,2})"
    r"(?:(?:[T ] ?|: ?)(?P<hour>\d{1,2}) ?: ?(?P<minute>\d{1,2})(?: ?: ?(?P<second>\d{1,2})(?:[.,]\d{1,9})?)?"
    r"(?: ?(?P<half>[ap])\.? ?m\.?)? ?(?P<offset>(?:UTC|GMT|Z)?[+-]?[\d:]*)?)?",
    re.IGNORECASE,
)
_OFFSET = re.compile(
    r"(?:UTC|GMT)?(?P<sign>[+-])(?P<hours>\d{1,2}?)(?::?(?P<minutes>[0-5]\d))?|UTC|GMT|Z", re.IGNORECASE
)


def moment(text: str, offset: str = "") -> datetime | None:
    """The moment that a text names, year first: `2021:07:05 14:03:22`, `2021/7/5 2:03 PM`, `2021-07-05T14:03Z`.

    Also RFC 5322 (`Mon, 5 Jul 2021 14:03:22 +0200`). The time zone is the text's, else that of `offset`, else UTC.
    A day without a time begins it; None for what is impossible, incomplete, or ambiguous (`05/07/2021`).
    """
    text = " ".join(text.replace("\0", " ").split())
    match = _WRITTEN.fullmatch(text)
    if not match:
        with suppress(ValueError, TypeError, IndexError, OverflowError):
            if re.match(r"(?:[A-Za-z]{3}, ?)?\d{1,2} [A-Za-z]{3} \d{4} ", text):
                named = parsedate_to_datetime(text)
                return named if named.tzinfo else named.replace(tzinfo=UTC)
        return None
    hour, half = int(match["hour"] or 0), (match["half"] or "").lower()
    if half == "a" and hour > 12:
        return None
    if half and hour <= 12:
        hour = hour % 12 + (12 if half == "p" else 0)
    written = _zone(match["offset"]) if match["offset"] else _zone(offset) or UTC
    year, month, day, minute, second = (int(match[n] or 0) for n in ("year", "month", "day", "minute", "second"))
    with suppress(ValueError):  # 0000:00:00 is what a camera writes whose clock was never set
        found = datetime(year, month, day, hour, minute, second)
        return found.replace(tzinfo=written) if written and found.year >= _FIRST_YEAR else None
    return None


def _zone(text: str) -> timezone | None:
    """A time zone by `+02:00`, `+0200`, `+2`, `UTC-5`, `Z`; None for anything else, and beyond 14 hours."""
    match = _OFFSET.fullmatch("".join(text.replace("\0", " ").split()))
    if not match:
        return None
    east = timedelta(hours=int(match["hours"] or 0), minutes=int(match["minutes"] or 0))
    return timezone(-east if match["sign"] == "-" else east) if east <= timedelta(hours=14) else None
