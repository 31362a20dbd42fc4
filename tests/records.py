"""Records, payloads and filters made on the spot, the same ones for the same seed."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
from tests.clip_like import unit

from sightline.types import Record, Value, Vector, record_id

WORDS = ["red", "Käse", "snow", "dog", "Straße", "雪山", "CAFÉ", "42", "été", "naïve"]
COLOURS = ["red", "green", "blue", "", "Zürich", "z", "🙂"]


def random_vector(dim: int, seed: int) -> Vector:
    """A unit vector."""
    return unit(np.random.default_rng(seed).standard_normal(dim))


def lattice_vector(dim: int, source: random.Random) -> Vector:
    """One of a few unit vectors whose products are exact in every order of summing, so that ties are true ties.

    `dim` is a power of four.
    """
    signs = [source.choice((-1.0, 1.0)) for _ in range(4)] * (dim // 4)
    return np.array(signs, np.float32) / np.float32(dim**0.5)


def plain_record(number: int, dim: int, **payload: Value) -> Record:
    """A record with a vector of its own."""
    uri = f"file:///pictures/{number}.jpg"
    return Record(record_id(uri), uri, random_vector(dim, number), {"number": number, **payload})


def random_payload(source: random.Random) -> dict[str, Value]:
    """Every type of value, and fields that are missing or of another type now and then."""
    moment = datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=source.randint(-11, 12)))) + timedelta(
        days=source.randint(-9, 9), microseconds=source.randint(0, 3)
    )
    every: dict[str, Value] = {
        "color": source.choice(COLOURS),
        "width": source.randint(-3, 9),
        "ratio": source.choice([0.0, -0.0, 0.5, 1.5, 1e300, 2.0]),
        "flag": source.random() < 0.5,
        "tags": source.sample(COLOURS, source.randint(0, 3)),
        "taken": moment,
        "caption": " ".join(source.sample(WORDS, source.randint(1, 4))),
        "name": f"IMG_{source.randint(0, 9)}-{source.choice(WORDS)}.jpg",
        "sha256": source.choice(["aa", "bb", "cc"]),
        "größe in px": source.randint(0, 3),
    }
    payload = {name: value for name, value in every.items() if source.random() < 0.8}
    payload["mixed"] = source.choice(list(every.values()))
    if source.random() < 0.1:
        payload["sha256"] = ["aa", "dd"]
    return payload


def random_where(source: random.Random, depth: int = 3) -> dict[str, Any]:
    """A valid filter, nested at most so deep."""
    if depth and source.random() < 0.4:
        operator = source.choice(["$and", "$or", "$not"])
        if operator == "$not":
            return {"$not": random_where(source, depth - 1)}
        return {operator: [random_where(source, depth - 1) for _ in range(source.randint(1, 3))]}
    if source.random() < 0.15:
        return {"$match": " ".join(source.sample(WORDS, source.randint(1, 2)))}
    fields = ["color", "width", "ratio", "flag", "tags", "taken", "sha256", "mixed", "größe in px", "missing"]
    return {source.choice(fields): _condition(source) for _ in range(source.randint(1, 2))}


def _condition(source: random.Random) -> Any:
    value = _operand(source)
    operator = source.choice(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not", "plain"])
    match operator:
        case "plain":
            return value
        case "$in" | "$nin":
            return {operator: [_operand(source) for _ in range(source.choice([0, 1, 2, 12]))]}
        case "$exists":
            return {operator: source.random() < 0.5}
        case "$not":
            return {operator: {"$gt": value}}
    if source.random() < 0.2:
        return {operator: value, "$lt": _operand(source)}
    return {operator: value}


def _operand(source: random.Random) -> Any:
    values = list(random_payload(source).items())
    fields: Mapping[str, Value] = {name: value for name, value in values if not isinstance(value, list)}
    return source.choice([*fields.values(), True, 1, 1.0, datetime(2024, 1, 1, tzinfo=UTC), "aa"])
