"""Text turned into the words that full text search compares, the same in every store."""

import re
import unicodedata

from sightline.types import Payload

FIELDS = ("caption", "title", "name")
"""The fields of a payload that `$match` looks into."""

# A run of letters and digits; Han and Kana are written without spaces, so there each character is a word.
_WORD = re.compile(
    r"[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
)


def words_of(text: str) -> list[str]:
    """The words of a text in their order, without case and diacritics: "Café-Bar" -> cafe, bar."""
    if text.isascii():
        return _WORD.findall(text.lower())
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return _WORD.findall("".join(char for char in decomposed if not unicodedata.combining(char)))


def payload_words(payload: Payload) -> set[str]:
    """The words of a payload's caption, title and name together; only text counts, and lists of text."""
    texts = [payload[field] for field in FIELDS if field in payload]
    elements = [element for value in texts for element in (value if isinstance(value, list) else [value])]
    return {word for element in elements if isinstance(element, str) for word in words_of(element)}
