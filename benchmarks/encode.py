"""Milliseconds of each step of a model, and pictures per second of many workers, beside the bare graph.

python -m benchmarks encode [--model NAME ...] [--rounds N]
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tests.pictures import scene

from sightline.encoders.base import Encoder, load_encoder
from sightline.encoders.sessions import all_threads

TEXTS = {"short text": "a dog in the snow", "long text": "a man who walks along the beach with his dog " * 6}
BATCHES = 24


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="a model's name or folder; may be given several times")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name in options.model or ["mini"]:
        report(name, options.rounds)


def report(name: str, rounds: int) -> None:
    """Everything of one model; each figure is the best of the rounds."""
    print(f"\n{name}, {all_threads()} threads at hand")
    for step, seconds in loading(name).items():
        print(f"  {step:42} {seconds * 1e3:9.1f} ms")
    one, many = load_encoder(name, threads=1), load_encoder(name)
    picture = scene(1, (500, 375))
    pixels = np.stack([one.preprocess(picture)] * one.batch_size)
    steps: dict[str, Callable[[], object]] = {
        "preprocess a picture of 500 x 375": lambda: one.preprocess(picture),
        "a picture, one thread": lambda: one.encode_images(pixels[:1]),
        "a picture, all threads": lambda: many.encode_images(pixels[:1]),
    }
    for kind, text in TEXTS.items():
        steps |= {f"a {kind}, one thread": lambda text=text: one.encode_texts([text])}  # type: ignore[misc]
        steps |= {f"a {kind}, all threads": lambda text=text: many.encode_texts([text])}  # type: ignore[misc]
    for step, call in steps.items():
        print(f"  {step:42} {best(call, rounds) * 1e3:9.2f} ms")
    workers = {"one worker": 1, f"{all_threads()} workers, one session": all_threads()}
    for step, count in workers.items():
        seconds = best(lambda count=count: work(many, pixels, count), rounds, warm=False)  # type: ignore[misc]
        print(f"  {step:42} {BATCHES * len(pixels) / seconds:9.1f} pictures/s")


def loading(name: str) -> dict[str, float]:
    """The first use of each tower, in a process that has the runtime loaded and the files cached."""
    encoder = load_encoder(name)
    encoder.encode_texts(["a dog"])
    encoder.encode_images(encoder.preprocess(scene(1))[None])
    began = time.perf_counter()
    encoder = load_encoder(name)
    opened = time.perf_counter()
    encoder.encode_texts(["a dog"])
    spoke = time.perf_counter()
    encoder.encode_images(encoder.preprocess(scene(1))[None])
    saw = time.perf_counter()
    return {"open the folder": opened - began, "load the text tower, one text": spoke - opened} | {
        "load the image tower, one picture": saw - spoke
    }


def work(encoder: Encoder, pixels: np.ndarray, workers: int) -> None:
    """As many threads as workers share the batches."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda _: encoder.encode_images(pixels), range(BATCHES)))


def best(call: Callable[[], object], rounds: int, *, warm: bool = True) -> float:
    """The shortest time of one call in seconds; quick calls are repeated within a round."""
    if warm:
        call()
    shortest = float("inf")
    for _ in range(rounds):
        began, repeats = time.perf_counter(), 0
        while repeats == 0 or (warm and time.perf_counter() - began < 0.05):
            call()
            repeats += 1
        shortest = min(shortest, (time.perf_counter() - began) / repeats)
    return shortest


if __name__ == "__main__":
    main()
