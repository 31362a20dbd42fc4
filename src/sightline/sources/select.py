"""The items of a source turned into some of them: those that match, a sample that stays the same, the first few."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from sightline.errors import UsageError, WhereError
from sightline.filters.where import And, Compare, Exists, In, Node, Not, Or, matches, parse_where
from sightline.text import printable
from sightline.types import Item, Where

_HIDDEN = frozenset({"folders", "stamp"})  # fields that are not for filters by hand


@dataclass(frozen=True, slots=True)
class Selected:
    """Some items of a source; it has no root to itself, for what it leaves out has not vanished.

    `where` sees what is known before a picture is read: its name, its size, the columns of its table. Then `sample`
    draws that many, always the same ones for a `seed`; then `limit` takes the first.
    """

    source: Iterable[Item]
    where: Where | None = None
    sample: int | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, number in (("sample", self.sample), ("limit", self.limit)):
            if number is not None and number < 1:
                raise UsageError(f"{name} is {number}, expected at least 1")

    @property
    def part_of(self) -> str | None:
        """The root of the whole source."""
        return getattr(self.source, "root", None)

    def __iter__(self) -> Iterator[Item]:
        """The items that are left, in the order of the source."""
        items: Iterable[Item] = self.source
        if self.where is not None:
            items = _matching(items, self.where)
        if self.sample is not None:
            items = _sample(items, self.sample, self.seed)
        yield from islice(items, self.limit)


def _matching(items: Iterable[Item], where: Where) -> Iterator[Item]:
    """Those that match; `WhereError` where none does since a field of the filter is one that no item has."""
    node, known, is_found = parse_where(where), set[str](), False
    for item in items:
        if matches(item.payload, node):
            is_found = True
            yield item
        elif not is_found:
            known.update(item.payload)
    unknown = sorted(_fields(node) - known)
    if known and unknown and not is_found:
        listed = ", ".join(map(printable, sorted(known - _HIDDEN)))
        raise WhereError(f"no picture of this source has {unknown[0]!r}, expected some of {listed}: correct --where")


def _fields(node: Node) -> set[str]:
    match node:
        case And(parts) | Or(parts):
            return set[str]().union(*map(_fields, parts))
        case Not(part):
            return _fields(part)
        case In(field) | Compare(field) | Exists(field):
            return {field}
    return set()


def _sample(items: Iterable[Item], count: int, seed: int) -> list[Item]:
    """Those with the smallest hashes of their URIs: one picture more changes one of the sample at most."""
    hashed = ((_hash(item.uri, seed), position, item) for position, item in enumerate(items))
    drawn = heapq.nsmallest(count, hashed, key=lambda entry: entry[:2])
    return [item for _, _, item in sorted(drawn, key=lambda entry: entry[1])]


def _hash(uri: str, seed: int) -> bytes:
    return blake2b(uri.encode(), digest_size=8, salt=seed.to_bytes(8, "little", signed=True)).digest()
