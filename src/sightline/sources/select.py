"""Some items of a source: those that match, a sample that stays the same, the first few."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from sightline.errors import ImageError, SourceError, UsageError
from sightline.filters.dates import with_local_times
from sightline.filters.fields import Fields
from sightline.filters.where import Node, fields_of, matches, parse_where
from sightline.types import Filter, Item, Payload

_INSIDE = frozenset({"width", "height", "format", "taken", "camera", "latitude", "longitude"})
"""What only the bytes of a picture tell."""


@dataclass(frozen=True, slots=True)
class Selected:
    """Some items of a source; it has no root to itself, for what it leaves out has not vanished.

    `where` sees what the source knows: a picture's name, its size, the columns of its table. Where it asks for what
    only the picture tells (width, taken), `look` reads that from the bytes; what cannot be read is not left out, so
    that it fails where it is seen. Then `sample` draws that many, always the same ones for a `seed`; then `limit` takes
    the first.
    """

    source: Iterable[Item]
    where: Filter | None = None
    sample: int | None = None
    limit: int | None = None
    seed: int = 0
    look: Callable[[bytes], Payload] | None = None

    def __post_init__(self) -> None:
        for name, number in (("sample", self.sample), ("limit", self.limit)):
            if number is not None and number < 1:
                raise UsageError(f"{name} is {number}, expected at least 1")

    @property
    def part_of(self) -> str | None:
        """The root of the whole source."""
        return getattr(self.source, "root", None)

    def __iter__(self) -> Iterator[Item]:
        """The items that are left, in the order of the source; `WhereError` for a filter that does not fit them."""
        items: Iterable[Item] = self.source
        if self.where is not None:
            items = self._matching(self.where)
        if self.sample is not None:
            items = _sample(items, self.sample, self.seed)
        yield from islice(items, self.limit)

    def _matching(self, where: Filter) -> Iterator[Item]:
        items = list(self.source) if iter(self.source) is self.source else self.source  # gone through more than once
        fields = Fields(lambda name: (item.payload for item in items if name is None or name in item.payload))
        node = parse_where(fields.read(where))
        if inside := fields_of(node) & _INSIDE:
            if self.look is None:
                raise UsageError(f"{min(inside)!r} is known only inside of a picture, expected `look` to read it there")
            yield from self._looked_at(items, self.look, node)
        else:
            yield from (item for item in items if matches(with_local_times(item.payload), node))

    def _looked_at(self, items: Iterable[Item], look: Callable[[bytes], Payload], node: Node) -> Iterator[Item]:
        for item in items:
            try:
                payload = {**item.fallback, **look(item.read()), **item.payload}
            except (SourceError, ImageError, OSError):
                yield item
                continue
            if matches(with_local_times(payload), node):
                yield item


def _sample(items: Iterable[Item], count: int, seed: int) -> list[Item]:
    """Those with the smallest hashes of their URIs: one picture more changes one of the sample at most."""
    hashed = ((_hash(item.uri, seed), position, item) for position, item in enumerate(items))
    drawn = heapq.nsmallest(count, hashed, key=lambda entry: entry[:2])
    return [item for _, _, item in sorted(drawn, key=lambda entry: entry[1])]


def _hash(uri: str, seed: int) -> bytes:
    return blake2b(uri.encode(), digest_size=8, salt=seed.to_bytes(8, "little", signed=True)).digest()
