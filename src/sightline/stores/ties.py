"""An engine's nearest records turned into hits in the order that every store keeps: by score, then by id."""

from collections.abc import Callable, Sequence

from sightline.types import Hit

_EQUAL = 1e-6  # engines add up in another order: scores this near are the same score


def settle(find: Callable[[int], Sequence[Hit]], k: int, offset: int, *, most: int) -> list[Hit]:
    """The hits from `offset` to `offset + k` of what `find(limit)` gives, ties by the smaller id.

    Engines cut ties at their limit as they please. So one more than needed is asked for, and more while the last one
    ties with the last one needed, up to `most` (what the engine can give at once).
    """
    needed = offset + k
    limit = min(needed + 1, most)
    while True:
        hits = in_order(find(limit))
        is_cut = len(hits) >= limit and limit < most
        if not is_cut or hits[needed - 1].score - hits[-1].score > _EQUAL:
            return hits[offset:needed]
        limit = min(4 * limit, most)


def in_order(hits: Sequence[Hit]) -> list[Hit]:
    """Hits by falling score; neighbours whose scores differ by rounding alone go by id."""
    ranked = sorted(hits, key=lambda hit: -hit.score)
    ordered = list[Hit]()
    tied = list[Hit]()
    for hit in ranked:
        if tied and tied[0].score - hit.score > _EQUAL:
            ordered += sorted(tied, key=lambda one: one.id)
            tied = []
        tied.append(hit)
    return ordered + sorted(tied, key=lambda one: one.id)
