"""Queries to measure an index by that has no captions: everyday phrases, and vectors near its own pictures."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import product

import numpy as np

from sightline.encoders.base import Encoder
from sightline.errors import TextNotSupported
from sightline.stores.base import Store
from sightline.types import Record, Vectors

_THINGS = (
    "dog cat horse cow sheep bird fish elephant bear rabbit duck butterfly snake frog car bus truck train bicycle "
    "motorcycle boat aeroplane tractor man woman child baby boy girl bride dancer runner cyclist surfer skier "
    "chef musician crowd family house church bridge tower street garden beach mountain forest river lake "
    "waterfall desert island field city village chair table sofa bed lamp clock book bottle cup plate knife "
    "guitar piano phone computer keyboard camera umbrella bag shoe dress shirt jacket hat watch ring ball kite "
    "balloon flower tree apple banana orange cake pizza bread soup salad sandwich coffee wine sunset storm "
    "snowman flag statue painting map sign window door stairs roof fence toy doll robot"
).split()
_LOOKS = (
    "red green blue yellow white black brown pink old new small big wooden broken colourful dirty shiny wet".split()
)
_PLACES = [
    *("in the snow", "on a beach", "at night", "in a kitchen", "on the grass", "in the water"),
    *("on a street", "in front of a mountain", "seen from above", "in black and white"),
    *("on a white background", "in the rain"),
]


def phrases(count: int, *, seed: int = 0) -> Sequence[str]:
    """Different phrases, drawn at random: `a dog`, `red chair`, `two bicycles at night`; at most about 6,000."""
    every = [
        *(f"a {thing}" for thing in _THINGS),
        *(f"{look} {thing}" for look, thing in product(_LOOKS, _THINGS)),
        *(f"a {thing} {place}" for thing, place in product(_THINGS, _PLACES)),
        *(f"two {thing}s {place}" for thing, place in product(_THINGS, _PLACES)),
    ]
    order = np.random.default_rng(seed).permutation(len(every))[:count]
    return [every[position] for position in order]


def sample_queries(store: Store, encoder: Encoder, count: int, *, seed: int = 0) -> dict[str, Vectors]:
    """Unit vectors (at most count, dim) by kind: "text" of phrases, "image" near some of the store's own pictures."""
    queries = dict[str, Vectors]()
    with suppress(TextNotSupported):
        queries["text"] = encoder.encode_texts(list(phrases(count, seed=seed)))
    pictures = sample_pictures(store, count, seed=seed)
    return queries | ({"image": pictures} if len(pictures) else {})


def sample_pictures(store: Store, count: int, *, seed: int = 0) -> Vectors:
    """Vectors of some of the pictures, a little moved, as those of new pictures would be: (at most count, dim)."""
    rng = np.random.default_rng(seed)
    kept: list[Record] = []
    for seen, record in enumerate(store.scan()):  # reservoir sampling, Vitter 1985
        if len(kept) < count:
            kept.append(record)
        elif (place := int(rng.integers(0, seen + 1))) < count:
            kept[place] = record
    if not kept:
        return np.empty((0, store.dim), np.float32)
    vectors = np.stack([record.vector for record in kept])
    moved = vectors + 0.3 / np.sqrt(vectors.shape[1]) * rng.standard_normal(vectors.shape).astype(np.float32)
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)
