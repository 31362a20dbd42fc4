"""What travels between the driver and the cluster: the plan of a run, and chunks of items."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sightline.encoders.hub import Hub
from sightline.stores.url import StoreUrl
from sightline.types import Item, Note

_FULL = 512  # the weight of a chunk
_WEIGHT = 8  # of an item that is read from a disk: a second or two of one worker's time; one from the web weighs 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What every worker is told; the store's URL holds its key, which whoever may look into the cluster can read.

    `place` is the folder of the pictures, which each node must see. Without `is_cache_chosen` each node keeps its
    models where its own user does.
    """

    url: StoreUrl
    hub: Hub = field(repr=False)
    is_cache_chosen: bool
    workers: int
    cpus: int
    gpus: int
    limit_megapixels: float | None
    place: str | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a worker takes at once: items, and the failure notes that some of them left in earlier runs."""

    number: int
    items: list[Item]
    failed_before: Mapping[str, Note]


def chunks(items: Iterable[Item], failed_before: Mapping[str, Note]) -> Iterator[Chunk]:
    """Items in chunks: 64 from a disk, 512 from the web, so that its slowest answer is waited for less often."""
    number, weight, few = 0, 0, list[Item]()
    for item in items:
        few.append(item)
        weight += 1 if item.is_slow else _WEIGHT
        if weight >= _FULL:
            yield _chunk(number, few, failed_before)
            number, weight, few = number + 1, 0, []
    if few:
        yield _chunk(number, few, failed_before)


def singles(chunk: Chunk) -> list[Chunk]:
    """A chunk taken apart, to find the picture that ends its workers; the numbers are below zero, all different."""
    first = -1 - chunk.number * _FULL
    return [_chunk(first - at, [item], chunk.failed_before) for at, item in enumerate(chunk.items)]


def _chunk(number: int, items: list[Item], failed_before: Mapping[str, Note]) -> Chunk:
    return Chunk(number, items, {item.uri: failed_before[item.uri] for item in items if item.uri in failed_before})
