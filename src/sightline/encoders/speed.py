"""How fast an encoder is on this machine, measured once and kept for later."""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from sightline.encoders.base import Encoder
from sightline.encoders.hub import Hub
from sightline.encoders.sessions import all_threads
from sightline.errors import TextNotSupported
from sightline.files import write_atomically
from sightline.types import now

_FILE = "speeds.json"
_LEAST_S = 1.0  # of measuring each, after one call that loads the model
_WORDS = "a dog that runs along the beach"
_MATRIX = 1024


@dataclass(frozen=True, slots=True)
class Speed:
    """Pictures per second on all cores, from upright pixels to vectors; milliseconds for one text, None without words.

    `when` is ISO 8601 in UTC.
    """

    pictures_per_s: float
    text_ms: float | None
    when: str


def measure(encoder: Encoder, *, least_s: float = _LEAST_S) -> Speed:
    """Times pictures as indexing runs them, a worker for each core, and one text after the other."""
    workers = all_threads()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    batch = np.stack([encoder.preprocess(picture)] * encoder.batch_size)
    encoder.encode_images(batch)
    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        rounds = 0
        while not rounds or time.perf_counter() - began < least_s:
            list(pool.map(encoder.encode_images, [batch] * workers))
            rounds += 1
        taken_s = time.perf_counter() - began
    return Speed(rounds * workers * len(batch) / taken_s, _text_ms(encoder, least_s / 2), now())


def speeds(hub: Hub) -> Mapping[str, Speed]:
    """What was measured on this machine, by the model's name."""
    try:
        document = json.loads((hub.cache / _FILE).read_text("utf-8"))
        return {name: Speed(**values) for name, values in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # nothing yet, or written by another version
        return {}


def keep(name: str, speed: Speed, hub: Hub) -> None:
    """Remember a measurement beside the models; a disk that cannot be written loses it."""
    known = {other: asdict(value) for other, value in speeds(hub).items()} | {name: asdict(speed)}
    with suppress(OSError):
        write_atomically(hub.cache / _FILE, json.dumps(known, indent=1))


def machine_gflops(*, least_s: float = 0.5) -> float:
    """What this machine can do in a second, by a float32 product of matrices on all cores."""
    one = np.ones((_MATRIX, _MATRIX), np.float32)
    one @ one
    began = time.perf_counter()
    rounds = 0
    while not rounds or time.perf_counter() - began < least_s:
        one @ one
        rounds += 1
    return rounds * 2 * _MATRIX**3 / (time.perf_counter() - began) / 1e9


def _text_ms(encoder: Encoder, least_s: float) -> float | None:
    try:
        encoder.encode_texts([_WORDS])
    except TextNotSupported:
        return None
    began = time.perf_counter()
    rounds = 0
    while not rounds or time.perf_counter() - began < least_s:
        encoder.encode_texts([_WORDS])
        rounds += 1
    return (time.perf_counter() - began) / rounds * 1e3
