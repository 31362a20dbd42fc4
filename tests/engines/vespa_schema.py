"""Vespa's application packages, as much as Sightline writes, checked against what is documented; the rest is refused.

Written after docs.vespa.ai: "Schema Reference", "services.xml", "Document JSON Format", "Validation Overrides".
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_TENSOR = re.compile(r"tensor<float>\(x\[(\d+)\]\)")
_TYPE = rf"(long|string|array<(?:long|{_NAME})>|tensor<float>\(x\[\d+\]\))"
_GRAMMAR = {  # what may stand in a block, by the first word of its header
    "schema": [rf"document {_NAME} {{", rf"rank-profile {_NAME} {{", rf"document-summary {_NAME} {{"],
    "document": [rf"field {_NAME} type {_TYPE} {{", rf"struct {_NAME} {{"],
    "struct": [rf"field {_NAME} type long {{"],
    "field": [r"indexing: (attribute|index|summary)( \| (attribute|index|summary))*", "attribute {", "index {",
              "rank: filter", rf"struct-field {_NAME} {{"],
    "struct-field": ["indexing: attribute", "attribute {"],
    "attribute": ["fast-search", "distance-metric: (angular|euclidean|prenormalized-angular|dotproduct)"],
    "index": ["hnsw {"],
    "hnsw": [r"max-links-per-node: \d+", r"neighbors-to-explore-at-insert: \d+"],
    "rank-profile": ["inputs {", "first-phase {"],
    "inputs": [rf"query\({_NAME}\) {_TYPE}"],
    "first-phase": ["expression {"],
    "expression": [rf"closeness\(field, {_NAME}\)"],
    "document-summary": [rf"summary {_NAME} {{}}"],
}  # fmt: skip
_RESERVED = {"field", "rank", "document", "schema", "struct", "attribute", "index", "summary", "match", "query", "key"}


class BadPackage(Exception):
    """What the config server answers with 400, INVALID_APPLICATION_PACKAGE."""


class BadDocument(Exception):
    """What /document/v1 answers with 400."""


@dataclass
class Schema:
    """What of a schema matters to a server. `attributes` may be searched and sorted by."""

    name: str
    types: dict[str, str] = field(default_factory=dict)
    structs: dict[str, dict[str, str]] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    summaries: dict[str, list[str]] = field(default_factory=dict)
    profiles: dict[str, dict[str, str]] = field(default_factory=dict)

    def checked(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a document as they are kept."""
        return {name: self._value(name, self._type(name), value) for name, value in fields.items()}

    def _type(self, name: str) -> str:
        if name not in self.types:
            raise BadDocument(f"No field '{name}' in the structure of type '{self.name}'")
        return self.types[name]

    def _value(self, name: str, kind: str, value: Any) -> Any:
        if kind == "long" and type(value) is int and -(2**63) <= value < 2**63:
            return value
        if kind == "string" and isinstance(value, str):
            return _legal(name, value)
        if kind.startswith("tensor") and isinstance(value, dict) and value.keys() == {"values"}:
            return tensor(kind, value["values"])
        if kind.startswith("array<") and isinstance(value, list):
            inner = kind[6:-1]
            if inner == "long":
                return [self._value(name, "long", one) for one in value]
            members = self.structs[inner]
            return [{key: self._value(key, members[key], one) for key, one in each.items()} for each in value]
        raise BadDocument(f"Error in document: field '{name}' of type {kind} cannot be {str(value)[:50]}")


def tensor(kind: str, values: Any) -> list[float]:
    """The cells of a dense float tensor: numbers, or eight hexadecimal digits each."""
    match = _TENSOR.fullmatch(kind)
    size = int(match[1]) if match else 0
    if isinstance(values, str):
        if len(values) != 8 * size:
            raise BadDocument(f"Error in tensor: {len(values)} digits for {kind}")
        return list(struct.unpack(f">{size}f", bytes.fromhex(values)))
    if len(values) != size or not all(isinstance(value, int | float) for value in values):
        raise BadDocument(f"Error in tensor: {len(values)} values for {kind}")
    return list(struct.unpack(f"{size}f", struct.pack(f"{size}f", *values)))


def read_schema(text: str) -> Schema:
    """A schema file; `BadPackage` for anything that is not in the grammar above."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    match = re.fullmatch(rf"schema ({_NAME}) {{", lines[0])
    if match is None:
        raise BadPackage(f"Invalid schema: {lines[0]}")
    schema = Schema(match[1])
    end = _read_block(schema, lines, 1, ["schema"])
    if end != len(lines):
        raise BadPackage("Invalid schema: something after its end")
    _check(schema)
    return schema


def _read_block(schema: Schema, lines: list[str], at: int, path: list[str]) -> int:
    """Read a block up to its brace; gives the line after it."""
    while lines[at] != "}":
        line = lines[at]
        allowed = _GRAMMAR.get(path[-1].split()[0], [])
        if not any(re.fullmatch(pattern, line) for pattern in allowed):
            raise BadPackage(f"Invalid schema: {line!r} in {' / '.join(path)}")
        _take(schema, line, path)
        at = _read_block(schema, lines, at + 1, [*path, line.removesuffix(" {")]) if line.endswith(" {") else at + 1
    return at + 1


def _take(schema: Schema, line: str, path: list[str]) -> None:
    words, outer = line.split(), path[-1].split()
    if words[0] in ("field", "struct") and words[1] in _RESERVED:
        raise BadPackage(f"Invalid schema: {words[1]!r} is a word of the language")
    if words[0] == "document" and words[1] != schema.name:
        raise BadPackage(f"Invalid schema: the document {words[1]} in the schema {schema.name}")
    if words[0] == "struct":
        schema.structs[words[1]] = {}
    if words[0] == "field":
        home = schema.structs[outer[1]] if outer[0] == "struct" else schema.types
        home[words[1]] = words[3]
    if words[0] == "rank-profile":
        schema.profiles[words[1]] = {}
    if words[0] == "document-summary":
        schema.summaries[words[1]] = []
    if words[0] == "summary":
        schema.summaries[outer[1]].append(words[1])
    if outer[0] == "inputs":
        schema.profiles[path[-2].split()[1]][words[0][6:-1]] = words[1]
    if words[0] == "indexing:" and "attribute" in words:
        if outer[0] == "struct-field":
            name = path[-2].split()[1]
            schema.attributes[f"{name}.{outer[1]}"] = schema.types[name]
        else:
            schema.attributes[outer[1]] = schema.types[outer[1]]


def _check(schema: Schema) -> None:
    for name in [name for name in schema.attributes if "." in name]:
        inner, member = schema.attributes[name][6:-1], name.partition(".")[2]
        if member not in schema.structs.get(inner, {}):
            raise BadPackage(f"Invalid schema: no member {member} in {inner}")
        schema.attributes[name] = schema.structs[inner][member]
    for summary, names in schema.summaries.items():
        if unknown := set(names) - schema.types.keys():
            raise BadPackage(f"Invalid schema: summary {summary} of unknown {unknown}")


def document_types(services: str) -> list[str]:
    """The document types of services.xml; `BadPackage` for elements that are not known here."""
    root = ElementTree.fromstring(services)
    known = {"services", "container", "search", "document-api", "document-processing", "component", "content",
             "redundancy", "min-redundancy", "documents", "document", "nodes", "node", "transformer-model", "prepend",
             "tokenizer-model", "max-tokens", "transformer-input-ids", "transformer-attention-mask",
             "transformer-token-type-ids", "transformer-output", "pooling-strategy", "normalize"}  # fmt: skip
    if unknown := {one.tag for one in root.iter()} - known:
        raise BadPackage(f"Invalid XML according to XML schema, error in services.xml: {unknown}")
    if root.find("content/documents/document") is None or root.find("container/document-api") is None:
        raise BadPackage("services.xml has no documents or no document-api")
    return [str(one.get("type")) for one in root.iterfind("content/documents/document")]


def allows(overrides: str, what: str) -> bool:
    """Whether validation-overrides.xml allows something today: until a day of the next 30."""
    today = datetime.now(UTC).date()
    return any(
        one.text == what and today <= date.fromisoformat(str(one.get("until"))) <= today + timedelta(days=30)
        for one in ElementTree.fromstring(overrides or "<validation-overrides/>").iterfind("allow")
    )


def _legal(name: str, text: str) -> str:
    for char in text:
        code = ord(char)
        is_control = code < 0x20 and char not in "\t\n\r"
        if is_control or 0xFDD0 <= code <= 0xFDDF or (code > 0xFFFF and code & 0xFFFE == 0xFFFE):
            raise BadDocument(f"The string field value of {name} contains illegal code point 0x{code:X}")
    return text
