"""A filter as YQL, exact or a little too wide where texts are ordered beyond their first eight bytes; and its integers.

Vespa finds and compares 64-bit integers exactly. Its strings fold case and may not hold every character; its schemas
are fixed and payloads are not. So what is compared for equality becomes a hash (of 63 bits: one wrong match in 10^10
filters over 10^9 values), and what is ordered becomes an integer of the same order.
"""

import struct
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b

from sightline.filters import where
from sightline.filters.documents import payload_words
from sightline.filters.where import Node, Scalar
from sightline.types import Payload

ALL, NONE = "true", "false"
"""The conditions that everything and nothing meets."""
PLACES = 5
"""An id's place among all ids is so many integers of eight bytes each, and text for what is longer."""

_BYTES = 8
_LOWEST = 2**63 - 1  # Vespa keeps -2**63 for "no value"; UTF-8 has no byte 0xff, so nothing overflows at the other end


def condition(node: Node) -> str:
    """The YQL that finds all that a filter matches; where `is_exact` says no, some more."""
    return _condition(node, is_wide=True)


def is_exact(node: Node) -> bool:
    """Whether the YQL of a filter finds nothing else."""
    return _condition(node, is_wide=True) == _condition(node, is_wide=False)


def one_of(field: str, values: Sequence[int]) -> str:
    """That a field, or an element of it, is one of some integers."""
    return f"{field} in ({', '.join(f'{value}L' for value in values)})" if values else NONE


def both(parts: Sequence[str]) -> str:
    """That all parts hold."""
    if NONE in parts:
        return NONE
    return _joined(" and ", [part for part in parts if part != ALL], ALL)


def after(parts: Sequence[int], *, or_equal: bool) -> str:
    """That a record's places come after some others, compared from the first on."""
    text = ALL if or_equal else NONE
    for at, value in reversed(list(enumerate(parts))):
        text = _either([f"place{at} > {value}L", both([f"place{at} = {value}L", text])])
    return text


@lru_cache(4096)
def long_of(*parts: str) -> int:
    """What stands for something that is looked up: an id, a kind of note, a word, a field that is there."""
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest()) >> 1


def value_long(field: str, value: Scalar) -> int:
    """What stands for a field's value, the same for 1 and 1.0 but another for "1" and True."""
    match value:
        case str() | bool():
            text = str(value)
        case datetime():
            text = str(where.microseconds(value))
        case _:
            text = repr(value + 0.0)
    return long_of(where.kind_of(value), field, text)


def payload_longs(payload: Payload) -> list[int]:
    """Everything that a payload can be found by, but for order."""
    found = {long_of("exists", field, "") for field in payload}
    found |= {long_of("word", "", word) for word in payload_words(payload)}
    return sorted(found | {value_long(field, value) for field, value in _scalars(payload)})


def payload_ranks(payload: Payload) -> list[tuple[int, int]]:
    """For each value of a payload its field, and its rank among the values of that field and kind."""
    return sorted({(long_of("order", field, where.kind_of(value)), rank(value)) for field, value in _scalars(payload)})


def rank(value: Scalar) -> int:
    """An integer in the order of the values of a kind; texts that begin with the same eight bytes share theirs."""
    match value:
        case str():
            return _text_rank(value.encode())
        case bool():
            return int(value)
        case datetime():
            return where.microseconds(value)
    (bits,) = struct.unpack(">q", struct.pack(">d", value + 0.0))  # -0.0 + 0.0 is 0.0
    return int(bits if bits >= 0 else bits ^ 0x7FFF_FFFF_FFFF_FFFF)


def places(name: str) -> tuple[list[int], str]:
    """An id as integers and the rest as hexadecimal text: in this order, ids are in the order of their characters."""
    data = name.encode()
    parts = [_text_rank(data[at * _BYTES : (at + 1) * _BYTES]) for at in range(PLACES)]
    return parts, data[PLACES * _BYTES :].hex()


def _condition(node: Node, *, is_wide: bool) -> str:
    """Too wide or too narrow where exact is impossible: below a "not", what is too narrow makes it too wide."""
    match node:
        case where.And(parts):
            return both([_condition(part, is_wide=is_wide) for part in parts])
        case where.Or(parts):
            return _either([_condition(part, is_wide=is_wide) for part in parts])
        case where.Not(part):  # Vespa takes away from something, so from everything
            inner = _condition(part, is_wide=not is_wide)
            return {ALL: NONE, NONE: ALL}.get(inner) or f"({ALL} and !({inner}))"
        case where.In(field, values):
            return one_of("tokens", [value_long(field, value) for value in values])
        case where.Exists(field):
            return one_of("tokens", [long_of("exists", field, "")])
        case where.Match(words):
            return both([one_of("tokens", [long_of("word", "", word)]) for word in words])
        case where.Compare(field, operator, bound):
            sign = where.SYMBOLS[operator]
            if isinstance(bound, str) and len(bound.encode()) >= _BYTES:  # without NUL, shorter ones share no rank
                sign = sign[0] + "=" if is_wide else sign[0]
            field_long = long_of("order", field, where.kind_of(bound))
            return f"ordered contains sameElement(which = {field_long}L, amount {sign} {rank(bound)}L)"


def _either(parts: Sequence[str]) -> str:
    if ALL in parts:
        return ALL
    return _joined(" or ", [part for part in parts if part != NONE], NONE)


def _joined(word: str, parts: Sequence[str], none: str) -> str:
    if len(parts) < 2:
        return parts[0] if parts else none
    return f"({word.join(parts)})"


def _scalars(payload: Payload) -> list[tuple[str, Scalar]]:
    lists = ((field, value if isinstance(value, list) else [value]) for field, value in payload.items())
    return [(field, element) for field, elements in lists for element in elements]


def _text_rank(data: bytes) -> int:
    return int.from_bytes(data[:_BYTES].ljust(_BYTES, b"\0")) - _LOWEST
