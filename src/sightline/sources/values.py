"""Convert cells of tables and side files to values of a payload."""

import json
import math
from datetime import UTC, datetime
from typing import Any

from sightline.types import Value

_OURS = ("folders", "stamp", "sha256", "width", "height", "size_bytes", "modified", "taken", "camera", "name")
_LARGEST_INTEGER = 2**53 - 1


def field_of(column: str) -> str:
    """A column's name as a payload's field: without what filters cannot name, and apart from what pictures tell."""
    name = "".join(c for c in column if c.isprintable() and c not in '"\\').lstrip("$").strip() or "column"
    return f"{name}_given" if name in _OURS else name


def value_of(cell: Any) -> Value | None:
    """A cell as a payload's value; None for what says nothing. Text that is written like a number becomes one."""
    match cell:
        case None | "" | [] | {}:
            return None
        case bool() | datetime():
            return cell if isinstance(cell, bool) or cell.tzinfo else cell.replace(tzinfo=UTC)
        case int():
            return cell if abs(cell) <= _LARGEST_INTEGER else str(cell)
        case float():
            return cell if math.isfinite(cell) else None
        case list() | tuple():
            return [text_of(element) for element in cell]
        case str():
            return _read(cell.strip())
    return text_of(cell)


def _read(text: str) -> Value | None:
    """`007` and `1e5` stay text: what does not print as it was read is a code, not a number."""
    if not text:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if str(number) == text and abs(number) <= _LARGEST_INTEGER:
            return number
    return text_of(text)


def text_of(value: object) -> str:
    """Valid text: a string as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
