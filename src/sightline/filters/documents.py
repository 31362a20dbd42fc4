"""Payloads and notes turned into JSON text that SQLite can look into, and back."""

import json
from datetime import datetime
from typing import Any

from sightline.types import Note, Payload, Value

TIME = "$datetime"
"""Marks a datetime: {"$datetime": ISO 8601}. No field is named so, because names have no leading $."""


def dump_payload(payload: Payload) -> str:
    """A checked payload as JSON; datetimes are marked, so that they come back as datetimes."""
    return _payloads.encode(dict(payload))


def load_payload(text: str) -> dict[str, Value]:
    """The payload that `dump_payload` wrote."""
    payload: dict[str, Value] = json.loads(text, object_hook=_unmark if TIME in text else None)
    return payload


def dump_note(note: Note) -> str:
    """A note as JSON."""
    return json.dumps(note, ensure_ascii=True)


def load_note(text: str) -> Note:
    """The note that `dump_note` wrote."""
    note: Note = json.loads(text)
    return note


def _mark(value: Any) -> dict[str, str]:
    return {TIME: value.isoformat()}


def _unmark(found: dict[str, Any]) -> Any:
    return datetime.fromisoformat(found[TIME]) if found.keys() == {TIME} else found


# Made once: `json.dumps` with settings of its own makes an encoder for each call, which costs as much as the encoding.
_payloads = json.JSONEncoder(default=_mark, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
