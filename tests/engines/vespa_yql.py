"""YQL, as much of Vespa's grammar as Sightline sends, turned into a test of documents; anything else is refused.

Written after docs.vespa.ai, "YQL Query Language Reference", and the grammar yqlplus.g4 that it is parsed by.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Fields = Mapping[str, Any]
Test = Callable[[Fields], bool]

UNDEFINED = -(2**63)
"""A long attribute without a value; it matches nothing."""

_TOKENS = re.compile(
    r"""\s*(?:(?P<long>-?\d+[lL])|(?P<float>-?\d+\.\d*(?:[eE][+-]?\d+)?)|(?P<int>-?\d+)|(?P<text>"(?:\\.|[^"\\])*")
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign><=|>=|[<>=!(){}:,*@.]))""",
    re.VERBOSE,
)
_ANNOTATIONS = {"targetHits": int, "hnsw.exploreAdditionalHits": int, "approximate": bool}
_ORDER_ANNOTATIONS = {"function": ("raw", "uca", "lowercase")}
_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "=": lambda value, bound: value == bound,
    "<": lambda value, bound: value < bound,
    ">": lambda value, bound: value > bound,
    "<=": lambda value, bound: value <= bound,
    ">=": lambda value, bound: value >= bound,
}


class BadQuery(Exception):
    """What Vespa answers with 400."""


@dataclass
class Nearest:
    """A nearestNeighbor operator."""

    field: str
    tensor: str
    annotations: Mapping[str, Any]


@dataclass
class Query:
    """A parsed statement. `nearest` stands beside `test` in an "and", as the only place that is understood here."""

    test: Test = lambda fields: True
    nearest: Nearest | None = None
    order: list[tuple[str, bool]] = field(default_factory=list)
    limit: int = 10


def parse(yql: str, attributes: Mapping[str, str]) -> Query:
    """A statement; `attributes` are the searchable fields of the schema with their types, `which.amount` as a.b."""
    return _Parser(yql, attributes).statement()


class _Parser:
    def __init__(self, yql: str, attributes: Mapping[str, str]) -> None:
        self._tokens, self._at, self._attributes = _lex(yql), 0, attributes
        self._nearest: Nearest | None = None

    def statement(self) -> Query:
        for word in ("select", "*", "from", "sources", "*", "where"):
            self._expect(word)
        test = self._or(is_top=True)
        query = Query(test, self._nearest)
        if self._next_is("order"):
            self._expect("order")
            self._expect("by")
            query.order.append(self._order())
            while self._next_is(","):
                self._expect(",")
                query.order.append(self._order())
        if self._next_is("limit"):
            self._expect("limit")
            query.limit = self._integer("int")
        if self._at != len(self._tokens):
            raise BadQuery(f"unexpected {self._tokens[self._at][1]!r}")
        return query

    def _or(self, *, is_top: bool = False) -> Test:
        parts = [self._and(is_top=is_top)]
        while self._next_is("or"):
            self._expect("or")
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else lambda fields: any(part(fields) for part in parts)

    def _and(self, *, is_top: bool = False) -> Test:
        parts, has_positive = list[Test](), False
        while True:
            if self._next_is("!"):
                self._expect("!")
                self._expect("(")
                part = self._or()
                self._expect(")")
                parts.append(lambda fields, part=part: not part(fields))  # type: ignore[misc]
            else:
                parts.append(self._primary(is_top=is_top))
                has_positive = True
            if not self._next_is("and"):
                break
            self._expect("and")
        if not has_positive:
            raise BadQuery("a query with nothing but negations")
        return parts[0] if len(parts) == 1 else lambda fields: all(part(fields) for part in parts)

    def _primary(self, *, is_top: bool) -> Test:
        if self._next_is("("):
            self._expect("(")
            test = self._annotated() if self._next_is("{") and is_top else self._or(is_top=is_top)
            self._expect(")")
            return test
        name = self._name()
        if name in ("true", "false"):
            return lambda fields: name == "true"
        if name == "range":
            return self._range()
        if self._next_is("in"):
            return self._in(name)
        if self._next_is("contains"):
            return self._same_element(name)
        return self._comparison(self._attribute(name, "long"))

    def _annotated(self) -> Test:
        annotations = self._annotations(_ANNOTATIONS)
        self._expect("nearestNeighbor")
        self._expect("(")
        vector = self._name()
        self._expect(",")
        tensor = self._name()
        self._expect(")")
        if "targetHits" not in annotations or self._nearest is not None:
            raise BadQuery("nearestNeighbor needs targetHits, and is understood once here")
        if not self._attributes.get(vector, "").startswith("tensor"):
            raise BadQuery(f"field {vector} is no tensor attribute")
        self._nearest = Nearest(vector, tensor, annotations)
        return lambda fields: True

    def _annotations(self, known: Mapping[str, Any]) -> dict[str, Any]:
        self._expect("{")
        found = dict[str, Any]()
        while True:
            name = self._text() if self._kind() == "text" else self._name()
            self._expect(":")
            found[name] = self._constant()
            allowed = known.get(name)
            is_right = found[name] in allowed if isinstance(allowed, tuple) else type(found[name]) is allowed
            if not is_right:
                raise BadQuery(f"annotation {name} is {found[name]!r}")
            if not self._next_is(","):
                break
            self._expect(",")
        self._expect("}")
        return found

    def _range(self) -> Test:
        self._expect("(")
        name = self._attribute(self._name(), "long")
        self._expect(",")
        low = self._number()
        self._expect(",")
        high = self._number()
        self._expect(")")
        return lambda fields: any(low <= value <= high for value in _values(fields, name))

    def _in(self, name: str) -> Test:
        self._attribute(name, "long", "array<long>")
        self._expect("in")
        self._expect("(")
        wanted = {self._number()}
        while self._next_is(","):
            self._expect(",")
            wanted.add(self._number())
        self._expect(")")
        return lambda fields: not wanted.isdisjoint(_values(fields, name))

    def _same_element(self, name: str) -> Test:
        self._expect("contains")
        for word in ("sameElement", "("):
            self._expect(word)
        parts = [self._element(name)]
        while self._next_is(","):
            self._expect(",")
            parts.append(self._element(name))
        self._expect(")")
        return lambda fields: any(all(part(element) for part in parts) for element in fields.get(name, ()))

    def _element(self, name: str) -> Test:
        member = self._name()
        self._attribute(f"{name}.{member}", "long")
        return self._comparison(member)

    def _comparison(self, name: str) -> Test:
        compare = _COMPARE.get(self._sign())
        if compare is None:
            raise BadQuery(f"unknown operator after {name}")
        bound = self._number()
        return lambda fields: any(compare(value, bound) for value in _values(fields, name))

    def _order(self) -> tuple[str, bool]:
        annotations = self._annotations(_ORDER_ANNOTATIONS) if self._next_is("{") else {}
        name = self._name()
        kind = self._attribute(name, "long", "string") and self._attributes[name]
        if kind == "string" and annotations.get("function") != "raw":
            raise BadQuery(f"sorting {name} by a collation is not understood here")
        direction = self._name() if self._next_is("asc") or self._next_is("desc") else "asc"
        return name, direction == "desc"

    def _attribute(self, name: str, *kinds: str) -> str:
        if self._attributes.get(name) not in kinds:
            raise BadQuery(
                f"field {name!r} is {self._attributes.get(name)!r}, not an attribute of {' or '.join(kinds)}"
            )
        return name

    def _constant(self) -> Any:
        kind, text = self._take()
        if kind == "int":
            return int(text)
        if kind == "text":
            return _unquoted(text)
        if text in ("true", "false"):
            return text == "true"
        raise BadQuery(f"{text!r} is no constant")

    def _number(self) -> int:
        return self._integer("long", "int")

    def _integer(self, *kinds: str) -> int:
        kind, text = self._take()
        if kind not in kinds:
            raise BadQuery(f"{text!r} is no integer")
        value = int(text.rstrip("lL"))
        bits = 63 if kind == "long" else 31
        if not -(2**bits) <= value < 2**bits:
            raise BadQuery(f"{text} is beyond {bits + 1} bits: 64-bit numbers end in L")
        return value

    def _sign(self) -> str:
        return self._take()[1]

    def _name(self) -> str:
        kind, text = self._take()
        if kind != "name":
            raise BadQuery(f"{text!r} is no name")
        return text

    def _text(self) -> str:
        return _unquoted(self._take()[1])

    def _kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _next_is(self, text: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at][1] == text

    def _expect(self, text: str) -> None:
        found = self._take()[1]
        if found != text:
            raise BadQuery(f"found {found!r} where {text!r} belongs")

    def _take(self) -> tuple[str, str]:
        if self._at == len(self._tokens):
            raise BadQuery("the statement ends too soon")
        self._at += 1
        return self._tokens[self._at - 1]


def _lex(yql: str) -> list[tuple[str, str]]:
    tokens, at = list[tuple[str, str]](), 0
    while at < len(yql.rstrip()):
        match = _TOKENS.match(yql, at)
        if match is None:
            raise BadQuery(f"cannot read {yql[at : at + 20]!r}")
        tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
        at = match.end()
    return tokens


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _values(fields: Fields, name: str) -> Sequence[int]:
    value = fields.get(name, UNDEFINED)
    return [one for one in (value if isinstance(value, list) else [value]) if one != UNDEFINED]
