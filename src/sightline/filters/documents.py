"""Payloads and notes as JSON text that SQLite can look into, and the words in them that full text search compares."""

import json
import re
import unicodedata
from datetime import datetime
from typing import Any

from sightline.types import Note, Payload, Value

TIME = "$datetime"
"""Marks a datetime: {"$datetime": ISO 8601}. No field is named so, because names have no leading $."""

FIELDS = ("caption", "title", "name")
"""The fields of a payload that `$match` looks into."""

# A run of letters and digits; Han and Kana are written without spaces, so there each character is a word.
_WORD = re.compile(
    r"[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
)


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


def words_of(text: str) -> list[str]:
    """The words of a text in their order, without case and diacritics: "Café-Bar" -> cafe, bar."""
    if text.isascii():
        return _WORD.findall(text.lower())
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return _WORD.findall("".join(char for char in decomposed if not unicodedata.combining(char)))


def spans_of(text: str) -> list[tuple[int, int]]:
    """Where the words of a text stand in it, as it is written: (start, end)."""
    return [found.span() for found in _WORD.finditer(text)]


def payload_words(payload: Payload) -> set[str]:
    """The words of a payload's caption, title and name together; only text counts, and lists of text."""
    texts = [payload[field] for field in FIELDS if field in payload]
    elements = [element for value in texts for element in (value if isinstance(value, list) else [value])]
    return {word for element in elements if isinstance(element, str) for word in words_of(element)}


def _mark(value: Any) -> dict[str, str]:
    return {TIME: value.isoformat()}


def _unmark(found: dict[str, Any]) -> Any:
    return datetime.fromisoformat(found[TIME]) if found.keys() == {TIME} else found


# Made once: `json.dumps` with settings of its own makes an encoder for each call, which costs as much as the encoding.
_payloads = json.JSONEncoder(default=_mark, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
