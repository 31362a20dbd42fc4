"""A filter turned into an expression of Milvus, exactly; and a payload into the fields that expressions look into."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sightline.filters import where
from sightline.filters.documents import payload_words
from sightline.filters.where import Node, Scalar
from sightline.types import Payload

TYPED = ("folders",)
"""Fields of text that the product itself filters by: each is an array of its own, which the server indexes."""

KEYED = "sha256"
"""The field that the product looks records up by: a text of its own, which every server and Lite find at once."""

EVERY_ROW, NO_ROW = 'id != ""', 'id == ""'

_PREFIXES = {"text": "t_", "number": "n_", "truth": "b_", "time": "m_"}
_LIST, _EMPTY_LIST, _LOWEST, _HIGHEST = "l_", "z_", "lo_", "hi_"
_SEVERAL = "[]"  # stands for a list of keys, or one that is too long
_LONGEST_KEY = 65_535  # bytes
_UNSAFE = re.compile(r"[^\w ]")  # a path in JSON is split at brackets and slashes, even within quotes


def filter_row(payload: Payload) -> dict[str, Any]:
    """The columns that expressions look into.

    `fields` holds each value under a name that tells its kind, so that kinds are never compared; numbers are floats
    and times microseconds since 1970 in UTC, each one kind to the engine, too. `names` lists those names.
    """
    fields: dict[str, Any] = {}
    names: list[str] = []
    for name, value in payload.items():
        key = _escaped(name)
        if isinstance(value, list):
            names.append((_LIST if value else _EMPTY_LIST) + key)
            if value:  # a list passes `> bound` when its largest element does
                fields |= {_LIST + key: value, _LOWEST + key: min(value), _HIGHEST + key: max(value)}
        else:
            names.append(_PREFIXES[where.kind_of(value)] + key)
            fields[names[-1]] = where.plain(value)
    keyed = payload.get(KEYED, "")
    is_key = isinstance(keyed, str) and len(keyed.encode()) <= _LONGEST_KEY
    return {
        "fields": fields,
        "names": names,
        "words": sorted(payload_words(payload)),
        **{name: _texts(payload.get(name)) for name in TYPED},
        KEYED: keyed if is_key else _SEVERAL if isinstance(keyed, str | list) else "",
    }


def quoted(text: str) -> str:
    """A text as a literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'


def listed(texts: Sequence[str]) -> str:
    """Texts as a literal list."""
    return f"[{', '.join(map(quoted, texts))}]"


@dataclass(frozen=True, slots=True)
class Translator:
    """Writes expressions. `has_json_in` is false for an engine that knows `in` for typed fields alone: Milvus Lite.

    `partition_key` is the payload's field that decides the partition, if one does.
    """

    has_json_in: bool
    partition_key: str = ""

    def expression(self, node: Node) -> str:
        """What holds for exactly the records that match."""
        written = self._written(node)
        values = _demanded(node, self.partition_key) if self.partition_key else None
        # Lists and missing values lie in the partition of the empty text.
        return written if values is None else f"partition in {listed([*values, ''])} and {written}"

    def lookup(self, node: Node) -> str:
        """What holds for all records that match, and few others, and is quick; else as `expression`."""
        values = _demanded(node, KEYED) if isinstance(node, where.In) else None
        return self.expression(node) if values is None else f"{KEYED} in {listed([*values, _SEVERAL])}"

    def _written(self, node: Node) -> str:
        match node:
            case where.And(parts):
                return joined([self._written(part) for part in parts], "and") if parts else EVERY_ROW
            case where.Or(parts):
                return joined([self._written(part) for part in parts], "or")
            case where.Not(part):
                return f"not ({self._written(part)})"
            case where.In(field, values):
                return self._in(field, values)
            case where.Compare(field, operator, bound):
                return self._compare(field, operator, bound)
            case where.Exists(field):
                prefixes = (*_PREFIXES.values(), _LIST, _EMPTY_LIST)
                return f"array_contains_any(names, {listed([prefix + _escaped(field) for prefix in prefixes])})"
            case where.Match(words):
                return f"array_contains_all(words, {listed(words)})"

    def _in(self, field: str, values: Sequence[Scalar]) -> str:
        kinds, name = where.by_kind(values), _escaped(field)
        texts = kinds.get("text", [])
        found = [self._one_of(_PREFIXES[kind] + name, some) for kind, some in kinds.items() if kind != "text"]
        if texts and field in TYPED:
            found.append(f"array_contains_any({field}, {listed(texts)})")
        elif texts:
            key = _LIST + name
            found.append(self._one_of(_PREFIXES["text"] + name, texts))
            found.append(_known(key, f"json_contains_any({_path(key)}, {listed(texts)})"))
        return joined(found, "or") if found else NO_ROW

    def _compare(self, field: str, operator: str, bound: Scalar) -> str:
        test = f"{where.SYMBOLS[operator]} {_literal(bound)}"
        name = _escaped(field)
        key = _PREFIXES[where.kind_of(bound)] + name
        found = [_known(key, f"{_path(key)} {test}")]
        if isinstance(bound, str):
            end = _path((_HIGHEST if operator in ("$gt", "$gte") else _LOWEST) + name)
            found.append(_known(_LIST + name, f"{end} {test}"))
        return joined(found, "or")

    def _one_of(self, key: str, values: Sequence[Scalar]) -> str:
        literals, path = list(dict.fromkeys(map(_literal, values))), _path(key)
        if len(literals) == 1 or not self.has_json_in:
            return _known(key, joined([f"{path} == {literal}" for literal in literals], "or"))
        return _known(key, f"{path} in [{', '.join(literals)}]")


def joined(parts: Sequence[str], operator: str) -> str:
    """Expressions joined as a tree of small depth: engines limit how deep one may be."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({joined(parts[:middle], operator)} {operator} {joined(parts[middle:], operator)})"


def _known(key: str, test: str) -> str:
    """A test of a value that is there.

    What is missing fails it, below a `not`, too: engines differ in whether `not` of an unknown is true.
    """
    return f"(array_contains(names, {quoted(key)}) and {test})"


def _demanded(node: Node, field: str) -> list[str] | None:
    """The texts of which a record that matches must have one in the field, as a text or in a list; None if any."""
    match node:
        case where.In(name, values) if name == field and all(isinstance(value, str) for value in values):
            return [str(value) for value in values]
        case where.And(parts):
            return next((found for part in parts if (found := _demanded(part, field)) is not None), None)
    return None


def _literal(value: Scalar) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(where.plain(value))


def _texts(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _path(key: str) -> str:
    return f"fields[{quoted(key)}]"


def _escaped(name: str) -> str:
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02x}" for byte in found[0].encode()), name)
