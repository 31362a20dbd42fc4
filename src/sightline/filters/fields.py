"""Filters as people write them (`width>=800`, JSON, a mapping), read by the fields and values that pictures have."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import date
from difflib import get_close_matches
from itertools import islice
from typing import Any, TypeAlias
from urllib.parse import unquote

from sightline.errors import WhereError
from sightline.filters.dates import Span, compare_times, is_date, is_local_time, read_time
from sightline.filters.documents import TIME, words_of
from sightline.filters.where import kind_of, parse_where
from sightline.types import Filter, Payload, Where

USUAL: Mapping[str, str] = {
    **dict.fromkeys(("name", "folders", "format", "camera", "caption", "title", "sha256"), "text"),
    **dict.fromkeys(("size_bytes", "width", "height", "latitude", "longitude"), "number"),
    **dict.fromkeys(("taken", "modified"), "time"),
}
"""What indexing writes: a filter on these is no mistake, even if no picture of this index happens to have one."""

_Look: TypeAlias = Callable[[str, frozenset[str]], frozenset[str]]
_HIDDEN = frozenset({"stamp"})
_ENOUGH = 20  # pictures with a field, for the kinds of its values
_LOOKED_AT = 1000  # pictures, before a filter is said to be wrong
_LISTED = 30
_DEEPEST = 20
_MANY = ("$in", "$nin")
_SINGLE = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")
_TYPED_OPERATORS = {">=": "$gte", "<=": "$lte", "!=": "$ne", ">": "$gt", "<": "$lt", "=": "$eq"}
_CONDITION = re.compile(r"\s*([\w.-]+(?: +[\w.-]+)*)\s*([<>=!~]+)\s*(.*?)\s*", re.DOTALL)
_SEVERAL = re.compile(r"\s(?:and|or|&&?|\|\|?)\s+[\w.-]+\s*[<>=!]=?", re.IGNORECASE)
_SAMPLES = "width>=800, color=red, taken>=2024-05"
_IN_QUESTION = re.compile(r'"[^"]*"|(?:^|(?<=\s))(?P<name>[^\W\d][\w.-]*):(?P<value>"[^"]+"|(?!//)[^\s"]+)')
_ALIASES = {"year": "taken", "date": "taken", "tag": "tags", "folder": "under"}
_NO_FILTERS = frozenset({"name", "caption", "title", "sha256", "stamp", "folders"})  # words are looked for there anyway
_VALUES_OF = 20_000  # pictures whose values a text in a question is compared with
_EXPECTED = {"number": "a number", "truth": "true or false", "text": "text"}


class Fields:
    """The fields of some pictures, as far as filters have named them.

    `having` gives the payloads of the pictures that have a field, or of all pictures for None, a fair sample first.
    """

    def __init__(self, having: Callable[[str | None], Iterator[Payload]]) -> None:
        self._having = having
        self._kinds: dict[str, frozenset[str]] = {}

    def read(self, where: Filter) -> Where:
        """The filter as stores take it: text parsed, each value of the kind that its field holds, dates as times.

        `WhereError` for what cannot be understood, a field that no picture has, and a value of a kind that its field
        does not hold. Pictures are asked for a field once. Where there are none, any field is taken.
        """
        return _read(where, self._look)

    def of_question(self, text: str) -> tuple[str, list[Where]]:
        """The words of a question without the filters in it, and these: `taken:2023..2024 width:>=800 under:rome`.

        A text is compared by its words, without case (`camera:canon`), a folder by the end of its path. What names no
        field that pictures have is words (`id:card`), and so is what stands in quotes. `WhereError` for a wrong value.
        """
        words, filters, start = list[str](), list[Where](), 0
        for found in _IN_QUESTION.finditer(text):
            name = _ALIASES.get(found["name"] or "", found["name"] or "")
            if not name or name in _NO_FILTERS:
                continue
            if name not in USUAL and name != "under" and next(self._having(name), None) is None:
                continue
            filters.append(self._of_part(name, found["value"].strip('"')))
            words.append(text[start : found.start()].strip())
            start = found.end()
        return " ".join(filter(None, [*words, text[start:].strip()])), filters

    def _of_part(self, name: str, value: str) -> Where:
        if name == "under":
            ends = {
                uri for payload in self._having("folders") for uri in _texts(payload["folders"]) if _ends(uri, value)
            }
            if not ends:
                raise WhereError(f"no picture lies in a folder called {value!r}: name one, or put the words in quotes")
            return {"folders": {"$in": sorted(ends)}}
        first, is_range, last = value.partition("..")
        if is_range and (first or last):
            bounds = [f"{name}{sign}{bound}" for sign, bound in ((">=", first), ("<=", last)) if bound]
            return {"$and": [self.read(bound) for bound in bounds]}
        if value.startswith((">", "<", "=", "!")):
            return self.read(name + value)
        wanted = set(words_of(value))
        values = {one for payload in islice(self._having(name), _VALUES_OF) for one in _texts(payload[name])}
        if near := sorted(one for one in values if wanted and wanted <= set(words_of(one))):
            return {name: {"$in": near}}
        if values:
            listed = ", ".join(sorted(values)[:_LISTED])
            raise WhereError(f"no picture has the {name} {value!r}, expected one of {listed}, or words in quotes")
        return self.read(f"{name}={value}")

    def read_known(self, where: Filter) -> Where | None:
        """The same without asking for pictures; None where that is needed."""
        try:
            return _read(where, self._recall)
        except LookupError:
            return None

    def _recall(self, name: str, wanted: frozenset[str]) -> frozenset[str]:
        for known in (self._kinds.get(name, frozenset()), frozenset({USUAL.get(name, "")})):
            if known & wanted:
                return known
        raise LookupError(name)

    def _look(self, name: str, wanted: frozenset[str]) -> frozenset[str]:
        """The kinds of values that a field holds, one of those that are wanted among them if there are such."""
        with suppress(LookupError):
            return self._recall(name, wanted)
        found = set[str]()
        for number, payload in enumerate(islice(self._having(name), _LOOKED_AT)):
            value = payload[name]
            found.add("text" if isinstance(value, list) else kind_of(value))
            if number >= _ENOUGH and found & wanted:
                break
        if found:
            self._kinds[name] = frozenset(found)
            return self._kinds[name]
        if name not in USUAL:
            self._refuse(name)
        return frozenset({USUAL[name]} if name in USUAL else ())

    def _refuse(self, name: str) -> None:
        payloads = list(islice(self._having(None), _LOOKED_AT))
        fields = {
            field
            for payload in payloads
            for field, value in payload.items()
            if field not in _HIDDEN and not is_local_time(field, value)
        }
        if not payloads:
            return
        near = get_close_matches(name, sorted(fields | USUAL.keys()), n=1)
        advice = f"did you mean {near[0]!r}?" if near else "name one of those"
        listed = ", ".join(sorted(fields)[:_LISTED])
        raise WhereError(f"no picture has the field {name[:60]!r}, expected one of {listed}: {advice}")


def _texts(value: object) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _ends(uri: str, folder: str) -> bool:
    """Whether the path of a folder ends so, whatever the case."""
    return f"/{unquote(uri).strip('/')}".casefold().endswith(f"/{folder.strip('/')}".casefold())


def _read(where: Filter, look: _Look) -> Where:
    read: Where = _read_part(where, 0, look)
    parse_where(read)
    return read


def _read_part(where: Any, depth: int, look: _Look) -> Any:
    if depth > _DEEPEST:
        raise WhereError(f"the filter is nested more than {_DEEPEST} levels deep, expected fewer: flatten it")
    where = _read_typed(where) if isinstance(where, str) else where
    if not isinstance(where, Mapping):
        return where
    plain, parts = dict[Any, Any](), list[Where]()
    for name, operand in where.items():
        if name in ("$and", "$or") and isinstance(operand, list | tuple):
            plain[name] = [_read_part(part, depth + 1, look) for part in operand]
        elif name == "$not":
            plain[name] = _read_part(operand, depth + 1, look)
        elif not isinstance(name, str) or name.startswith("$") or not name:
            plain[name] = operand
        else:
            conditions, more = _read_field(name, operand, depth, look)
            plain |= {name: conditions} if conditions != {} or not more else {}
            parts += more
    return {"$and": [*([plain] if plain else []), *parts]} if parts else plain


def _read_field(name: str, operand: Any, depth: int, look: _Look) -> tuple[Any, list[Where]]:
    """The conditions on a field that stay as they are, and what stands for those on times."""
    if not name.isprintable() or '"' in name or "\\" in name:
        raise WhereError(
            f"a field of the filter is {name!r}, expected a name without quotes, backslashes and control "
            "characters: no picture has such a field"
        )
    if not isinstance(operand, Mapping) or operand.keys() == {TIME}:
        value, instead = _read_condition(name, "$eq", operand, look)
        return ({}, [instead]) if instead is not None else (value, [])
    conditions, parts = dict[Any, Any](), list[Where]()
    for operator, operand_of in operand.items():
        if operator == "$not" and isinstance(operand_of, Mapping):
            parts.append({"$not": _read_part({name: operand_of}, depth + 1, look)})
            continue
        value, instead = _read_condition(name, operator, operand_of, look)
        if instead is not None:
            parts.append(instead)
        else:
            conditions[operator] = value
    return conditions, parts


def _read_condition(name: str, operator: Any, operand: Any, look: _Look) -> tuple[Any, Where | None]:
    """The operand as the field's kind has it, or the filter that stands for a condition on times."""
    is_list = isinstance(operand, list | tuple | set | frozenset)
    if operator not in (_MANY if is_list else _SINGLE):
        return operand, None
    values = list(operand) if is_list else [operand]
    readings = [_kinds_of(value) for value in values]
    if not values or not all(readings):  # what no payload holds is refused where all values are checked
        return operand, None
    held = look(name, frozenset().union(*readings))
    if held and not any(kinds & held for kinds in readings):
        shown = repr(str(values[0])) if isinstance(values[0], str | date) else repr(values[0])
        if "time" in held:
            raise WhereError(f"{shown} is not a valid date, expected YYYY, YYYY-MM or YYYY-MM-DD for {name!r}")
        expected = " or ".join(_EXPECTED[kind] for kind in sorted(held))
        advice = ": put it in quotes" if held == {"text"} else ""
        raise WhereError(f"{shown} is not {expected}, which {name!r} holds{advice}")
    read = [_as_kind(name, value, kinds, held) for value, kinds in zip(values, readings, strict=True)]
    if not any(isinstance(value, Span) for value in read):
        return (read if is_list else read[0]), None
    base = {"$ne": "$eq", "$in": "$eq", "$nin": "$eq"}.get(operator, operator)
    parts = [compare_times(name, base, value) if isinstance(value, Span) else {name: {base: value}} for value in read]
    whole = parts[0] if len(parts) == 1 else {"$or": parts}
    return None, {"$not": whole} if operator in ("$ne", "$nin") else whole


def _kinds_of(value: Any) -> frozenset[str]:
    """The kinds that a value of a filter can be read as."""
    if isinstance(value, Mapping):
        return frozenset({"time"} if value.keys() == {TIME} else ())
    if isinstance(value, date):
        return frozenset({"time"})
    kinds = {kind_of(value)} - {""}
    if isinstance(value, _Unquoted):
        kinds.add(kind_of(_natural(value)))
    if isinstance(value, str | int) and not isinstance(value, bool) and is_date(value):
        kinds.add("time")
    return frozenset(kinds)


def _as_kind(name: str, value: Any, kinds: frozenset[str], held: frozenset[str]) -> Any:
    """The value as one of the kinds that its field holds, or as it would be read without knowing the field."""
    if isinstance(value, str) and "\0" in value:
        raise WhereError(f"a value of {name!r} is {value!r}, expected text without NUL: no picture has it")
    own = kind_of(_natural(value) if isinstance(value, _Unquoted) else value)
    possible = (kinds & held) or kinds
    if (own not in possible and "time" in possible) or own in ("", "time"):
        return read_time(value)
    if isinstance(value, _Unquoted):
        return _natural(value) if own in possible else str(value)
    return value


class _Unquoted(str):
    """A value as it was typed: a number, a date, true or false, or text, whichever its field holds."""

    __slots__ = ()


def _read_typed(text: str) -> Where:
    """The mapping that a typed filter stands for, its values as they were typed; quotes make a value text.

    `WhereError` for what is neither JSON nor FIELD OPERATOR VALUE.
    """
    if text.lstrip().startswith("{"):
        return _read_json(text)
    match = _CONDITION.fullmatch(text)
    if not match:
        raise WhereError(f"{text!r} is not a valid filter, expected FIELD, OPERATOR, VALUE: {_SAMPLES}, or JSON")
    field, operator, value = match.groups()
    if operator not in _TYPED_OPERATORS:
        nearest = {"=>": ">=", "=<": "<=", "==": "=", "=!": "!=", "<>": "!="}.get(operator)
        nearest = nearest or (get_close_matches(operator, _TYPED_OPERATORS, 1, 0) or ["="])[0]
        raise WhereError(
            f"{operator!r} in {text!r} is not an operator, expected one of {' '.join(_TYPED_OPERATORS)}: "
            f"did you mean {field}{nearest}{value}?"
        )
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return {field: {_TYPED_OPERATORS[operator]: value[1:-1]}}
    if not value:
        raise WhereError(f"{text!r} has no value, expected one behind {operator}")
    if _SEVERAL.search(value):
        raise WhereError(
            f"{text!r} holds several conditions, expected one: give each as a filter of its own, or write JSON with "
            "$and, or put the value in quotes"
        )
    return {field: {_TYPED_OPERATORS[operator]: _Unquoted(value)}}


def _natural(text: str) -> int | float | bool | str:
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
