"""The items of a source turned into some of them: those that match, a sample that stays the same, the first few."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from sightline.errors import UsageError
from sightline.stores.where import matches, parse_where
from sightline.types import Item, Where


@dataclass(frozen=True, slots=True)
class Selected:
    """Some items of a source; it has no root, for what it leaves out has not vanished.

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

    def __iter__(self) -> Iterator[Item]:
        """The items that are left, in the order of the source."""
        items: Iterable[Item] = self.source
        if self.where is not None:
            node = parse_where(self.where)
            items = (item for item in items if matches(item.payload, node))
        if self.sample is not None:
            items = _sample(items, self.sample, self.seed)
        yield from islice(items, self.limit)


def _sample(items: Iterable[Item], count: int, seed: int) -> list[Item]:
    """Those with the smallest hashes of their URIs: one picture more changes one of the sample at most."""
    hashed = ((_hash(item.uri, seed), position, item) for position, item in enumerate(items))
    drawn = heapq.nsmallest(count, hashed, key=lambda entry: entry[:2])
    return [item for _, _, item in sorted(drawn, key=lambda entry: entry[1])]


def _hash(uri: str, seed: int) -> bytes:
    return blake2b(uri.encode(), digest_size=8, salt=seed.to_bytes(8, "little", signed=True)).digest()
