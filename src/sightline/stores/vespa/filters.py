"""A filter as YQL, exact or a little too wide where texts are ordered beyond their first eight bytes; and its integers.

Vespa finds and compares 64-bit integers exactly. Its strings fold case and may not hold every character; its schemas
are fixed and payloads are not. So what is compared for equality becomes a hash (of 63 bits: one wrong match in 10^10
filters over 10^9 values), and what is ordered becomes an integer of the same order.
"""

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b

from sightline.filters.documents import payload_words
from sightline.filters.where import And, Compare, Exists, In, Match, Node, Not, Or, Scalar, kind_of
from sightline.types import Payload

ALL, NONE = "true", "false"
"""The conditions that everything and nothing meets."""
PLACES = 5
"""An id's place among all ids is so many integers of eight bytes each, and text for what is longer."""

_BYTES = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS = 1_000_000
_LOWEST = 2**63 - 1  # Vespa keeps -2**63 for "no value"; UTF-8 has no byte 0xff, so nothing overflows at the other end
_OPERATORS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def condition(node: Node) -> str:
    """The YQL that finds all that a filter matches; where `is_exact` says no, some more."""
    return _condition(node, is_wide=True)


def is_exact(node: Node) -> bool:
    """Whether the YQL of a filter finds nothing else."""
    match node:
        case And(parts) | Or(parts):
            return all(is_exact(part) for part in parts)
        case Not(part):
            return is_exact(part)
        case Compare(_, _, str() as bound):
            return is_whole(bound)
    return True


def one_of(field: str, values: Sequence[int]) -> str:
    """That a field, or an element of it, is one of some integers."""
    return f"{field} in ({', '.join(f'{value}L' for value in values)})" if values else NONE


def both(parts: Sequence[str]) -> str:
    """That all parts hold."""
    if NONE in parts:
        return NONE
    return _joined(" and ", [part for part in parts if part != ALL], ALL)


def either(parts: Sequence[str]) -> str:
    """That some part holds."""
    if ALL in parts:
        return ALL
    return _joined(" or ", [part for part in parts if part != NONE], NONE)


def negation(part: str) -> str:
    """That a part does not hold; Vespa takes away from something, so from everything."""
    opposite = {ALL: NONE, NONE: ALL}
    return opposite.get(part) or f"({ALL} and !({part}))"


def after(parts: Sequence[int], *, or_equal: bool) -> str:
    """That a record's places come after some others, compared from the first on."""
    names = [f"place{at}" for at in range(len(parts))]
    text = ALL if or_equal else NONE
    for name, value in reversed(list(zip(names, parts, strict=True))):
        text = either([f"{name} > {value}L", both([f"{name} = {value}L", text])])
    return text


def id_long(name: str) -> int:
    """What stands for an id where records are looked up."""
    return _hash("id", "", name)


def kind_long(kind: str) -> int:
    """What stands for a kind of note."""
    return _hash("kind", "", kind)


def value_long(field: str, value: Scalar) -> int:
    """What stands for a field's value, the same for 1 and 1.0 but another for "1" and True."""
    return _hash(kind_of(value), field, _canonical(value))


def exists_long(field: str) -> int:
    """What stands for a field that is there."""
    return _hash("exists", field, "")


def word_long(word: str) -> int:
    """What stands for a word of the caption, title or name."""
    return _hash("word", "", word)


@lru_cache(4096)
def order_long(field: str, kind: str) -> int:
    """What stands for a field's values of one kind where they are ordered."""
    return _hash("order", field, kind)


def payload_longs(payload: Payload) -> list[int]:
    """Everything that a payload can be found by, but for order."""
    found = {exists_long(field) for field in payload} | {word_long(word) for word in payload_words(payload)}
    found |= {value_long(field, value) for field, value in _scalars(payload)}
    return sorted(found)


def payload_ranks(payload: Payload) -> list[tuple[int, int]]:
    """For each value of a payload its field, and its rank among the values of that field and kind."""
    return sorted({(order_long(field, kind_of(value)), rank(value)) for field, value in _scalars(payload)})


def rank(value: Scalar) -> int:
    """An integer in the order of the values of a kind; texts that begin with the same eight bytes share theirs."""
    match value:
        case str():
            return _text_rank(value.encode())
        case bool():
            return int(value)
        case datetime():
            return _microseconds(value)
    (bits,) = struct.unpack(">q", struct.pack(">d", value + 0.0))  # -0.0 + 0.0 is 0.0
    return int(bits if bits >= 0 else bits ^ 0x7FFF_FFFF_FFFF_FFFF)


def is_whole(text: str) -> bool:
    """Whether no other text shares this one's rank: without NUL, shorter texts are told from longer ones."""
    return len(text.encode()) < _BYTES


def places(name: str) -> tuple[list[int], str]:
    """An id as integers and the rest as hexadecimal text: in this order, ids are in the order of their characters."""
    data = name.encode()
    parts = [_text_rank(data[at * _BYTES : (at + 1) * _BYTES]) for at in range(PLACES)]
    return parts, data[PLACES * _BYTES :].hex()


def _condition(node: Node, *, is_wide: bool) -> str:
    """Too wide or too narrow where exact is impossible: below a "not", what is too narrow makes it too wide."""
    match node:
        case And(parts):
            return both([_condition(part, is_wide=is_wide) for part in parts])
        case Or(parts):
            return either([_condition(part, is_wide=is_wide) for part in parts])
        case Not(part):
            return negation(_condition(part, is_wide=not is_wide))
        case In(field, values):
            return one_of("tokens", [value_long(field, value) for value in values])
        case Exists(field):
            return one_of("tokens", [exists_long(field)])
        case Match(words):
            return both([one_of("tokens", [word_long(word)]) for word in words])
        case Compare(field, operator, bound):
            sign = _OPERATORS[operator]
            if isinstance(bound, str) and not is_whole(bound):
                sign = sign[0] + "=" if is_wide else sign[0]
            field_long = order_long(field, kind_of(bound))
            return f"ordered contains sameElement(which = {field_long}L, amount {sign} {rank(bound)}L)"


def _joined(word: str, parts: Sequence[str], none: str) -> str:
    if len(parts) < 2:
        return parts[0] if parts else none
    return f"({word.join(parts)})"


def _scalars(payload: Payload) -> Iterator[tuple[str, Scalar]]:
    for field, value in payload.items():
        if isinstance(value, list):
            yield from ((field, element) for element in value)
        else:
            yield field, value


def _canonical(value: Scalar) -> str:
    match value:
        case str() | bool():
            return str(value)
        case datetime():
            return str(_microseconds(value))
    return repr(value + 0.0)


def _microseconds(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * _MICROSECONDS + since.microseconds


def _text_rank(data: bytes) -> int:
    return int.from_bytes(data[:_BYTES].ljust(_BYTES, b"\0")) - _LOWEST


def _hash(*parts: str) -> int:
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest()) >> 1
