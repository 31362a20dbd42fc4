"""Group near-duplicate pictures: among the hits of a search, or in a whole index."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.errors import UsageError
from sightline.sources.base import file_of
from sightline.stores.base import Store
from sightline.types import Hit, Note, Payload, Record, Vectors, Where, chunks

SURE = 0.5
"""From here on two pictures count as one; `docs/benchmarks.md` tells how often that is wrong, and what it misses."""

CANDIDATES = 0.1
"""How much less than duplicates pictures may score to be compared by their pixels: a crop moves a vector."""

SAME = 0.93
"""Cosine from which two pictures count as copies of one another.

Measured with mini on 200 photographs: a copy at JPEG quality 60 scores 0.949 or more in 99 of 100 cases, the nearest
other photograph at most 0.877.
"""

_KIND = "duplicates"  # the kind of note, and its key, that keeps the threshold measured for an index
_AT_ONCE = 128  # pictures searched for in one call
_NEIGHBOURS = 16  # asked for at first; four times as many while the last one is still alike
_MOST_NEIGHBOURS = 4096


@dataclass(frozen=True, slots=True)
class Copy:
    """A picture beside the one that its group keeps. `kind` is bytes for the same file, else alike.

    `sure` is how surely it shows the very same, 0 to 1, as far as that was looked at; the score is that of the model.
    """

    hit: Hit
    kind: str
    sure: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that are alike: the largest one, and its copies, the most alike first."""

    kept: Hit
    copies: tuple[Copy, ...]


def fold(vectors: Vectors, *, same: float = SAME) -> list[list[int]]:
    """(n, dim) -> positions in groups: each picture joins the first earlier group whose first picture is like it.

    In order of first members, which is the order of the hits that the vectors belong to.
    """
    if not len(vectors):
        return []
    alike = vectors @ vectors.T >= same  # (n, dim) @ (dim, n) -> (n, n)
    leaders = list[int]()
    groups: dict[int, list[int]] = {}
    for position in range(len(vectors)):
        leader = next((earlier for earlier in leaders if alike[position, earlier]), position)
        if leader == position:
            leaders.append(position)
        groups.setdefault(leader, []).append(position)
    return [groups[leader] for leader in leaders]


def fold_hits(store: Store, hits: Sequence[Hit], same: float | None = None) -> list[list[int]]:
    """The positions of hits in groups of near-duplicates, by the index's own threshold if none is given.

    Hits that were removed meanwhile are left out.
    """
    vectors = {record.id: record.vector for record in store.fetch([hit.id for hit in hits])}
    there = [position for position, hit in enumerate(hits) if hit.id in vectors]
    found = np.array([vectors[hits[position].id] for position in there])  # n of (dim,) -> (n, dim)
    return [[there[position] for position in group] for group in fold(found, same=same or threshold_of(store) or SAME)]


def groups(
    store: Store,
    *,
    same: float = SAME,
    where: Where | None = None,
    compare: Callable[[Hit, Hit], float] | None = None,
    margin: float = 0.0,
) -> list[Group]:
    """The groups of alike pictures of a store, those with most copies first; exact where the store is.

    The largest picture, in pixels and then in bytes, takes what scores `same` or more with it, then the next largest of
    those left: every copy is like the picture that is kept, and no chain of small steps joins two different ones. Costs
    a search for every picture; keeps a few numbers for each pair that is alike, and no vectors. Files that do not exist
    any more, or whose disk is not mounted, are left out: neither kept nor offered. With `compare` (a
    `copied.Comparison`) only copies are grouped that it is sure of, by the pixels; `margin` is how much below `same`
    they may score.
    """
    if not 0 < same <= 1:
        raise UsageError(f"the threshold is {same}, expected a cosine above 0 and at most 1")
    near = dict[str, list[Hit]]()
    size = dict[str, tuple[int, int]]()
    own = dict[str, Hit]()
    for records in chunks(store.scan(where), _AT_ONCE):
        for record, hits in zip(records, _alike(store, records, same, where, margin), strict=True):
            others = [hit for hit in hits if hit.id != record.id]
            if others and _exists(record.uri):
                near[record.id], size[record.id] = others, _size(record.payload)
                own[record.id] = Hit(record.id, record.uri, 1.0, record.payload)
    found, taken = list[Group](), set[str]()
    for identity in sorted(near, key=lambda identity: (*(-part for part in size[identity]), own[identity].uri)):
        if identity in taken:
            continue
        kept, copies = own[identity], list[Copy]()
        for hit in near[identity]:
            if hit.id in own and hit.id not in taken:
                sure = compare(kept, hit) if compare else None
                if sure is None or sure >= SURE:
                    copies.append(Copy(hit, _kind(kept.payload, hit.payload), sure))
        taken.add(identity)
        if copies:
            found.append(Group(kept, tuple(copies)))
            taken.update(copy.hit.id for copy in copies)
    return sorted(found, key=lambda group: -len(group.copies))


def threshold_of(store: Store) -> float | None:
    """The threshold that was measured for this index, if one was."""
    note = store.notes(_KIND).get(_KIND)
    return float(note["threshold"]) if note else None


def keep_threshold(store: Store, threshold: float, measured: Note) -> None:
    """Note the threshold for this index, with what was measured."""
    store.write_notes(_KIND, {_KIND: {**measured, "threshold": threshold}})


def _alike(
    store: Store, records: Sequence[Record], same: float, where: Where | None, margin: float
) -> Iterator[list[Hit]]:
    """For each record all hits that score `same` or more, itself included, and the nearest within the margin below."""
    vectors = np.stack([record.vector for record in records])
    for vector, found in zip(vectors, store.search(vectors, _NEIGHBOURS, where), strict=True):
        hits, k = found, _NEIGHBOURS
        while len(hits) == k and hits[-1].score >= same and k < _MOST_NEIGHBOURS:
            k *= 4
            hits = store.search(vector[None], k, where)[0]
        yield [hit for hit in hits if hit.score >= same - margin]


def _exists(uri: str) -> bool:
    """Whether the file that holds a picture is there; of what lies elsewhere that is not asked."""
    file = file_of(uri)
    return file is None or file.exists()


def _size(payload: Payload) -> tuple[int, int]:
    width, height, size_bytes = (payload.get(name, 0) for name in ("width", "height", "size_bytes"))
    pixels = width * height if isinstance(width, int) and isinstance(height, int) else 0
    return pixels, size_bytes if isinstance(size_bytes, int) else 0


def _kind(kept: Payload, other: Payload) -> str:
    return "bytes" if "sha256" in kept and kept["sha256"] == other.get("sha256") else "alike"
