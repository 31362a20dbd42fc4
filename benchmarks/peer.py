"""Beside the method of rclip, with the same model on the same pictures: indexing and searching, in turn.

rclip itself brings its own model from a hub, so its method is written out here: one pool of threads decodes batches for
one consumer that encodes them, each vector is a row of SQLite, and a search reads all rows and multiplies.

python -m benchmarks peer [--count N] [--rows N] [--model NAME]
"""

import argparse
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from benchmarks.cold import record
from benchmarks.indexing import generate
from PIL import Image
from tests.clip_like import ClipLike

from sightline.encoders.base import Encoder, load_encoder
from sightline.index import Index
from sightline.stores.local.store import LocalStore
from sightline.types import Pixels


def main() -> None:
    """Print pictures/s and milliseconds per query of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", default="mini")
    options = parser.parse_args()
    encoder = load_encoder(options.model)
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        files = generate(here / "web", (500, 375), options.count)
        rates: dict[str, list[float]] = {"sightline": [], "rclip's method": []}
        for run in range(3):
            began = time.perf_counter()
            Index(str(here / f"{run}.index"), model=encoder).add(here / "web")
            rates["sightline"].append(len(files) / (time.perf_counter() - began))
            began = time.perf_counter()
            index_like_rclip(files, encoder, here / f"{run}.sqlite")
            rates["rclip's method"].append(len(files) / (time.perf_counter() - began))
        found = {f"{name}: pictures/s": float(np.median(rate)) for name, rate in rates.items()}
        found |= search_both(here, options.rows, encoder.dim)
    for name, value in found.items():
        print(f"{name:36} {value:10.2f}")
    print(json.dumps({"model": encoder.name, "rows": options.rows, **found}))


def index_like_rclip(files: Sequence[Path], encoder: Encoder, path: Path) -> None:
    """Decode in a pool of threads, encode in one, insert."""
    database = open_database(path)

    def pixels(file: Path) -> Pixels:
        return encoder.preprocess(Image.open(file).convert("RGB"))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        batches = [files[start : start + 8] for start in range(0, len(files), 8)]
        waiting = [[pool.submit(pixels, file) for file in batch] for batch in batches]
        for batch, futures in zip(batches, waiting, strict=True):
            vectors = encoder.encode_images(np.stack([future.result() for future in futures]))
            rows = [(str(file), vector.tobytes()) for file, vector in zip(batch, vectors, strict=True)]
            database.executemany("INSERT INTO images VALUES (?, ?)", rows)
            database.commit()
    database.close()


def search_both(here: Path, rows: int, dim: int) -> dict[str, float]:
    """Milliseconds of one query, in turn."""
    data, number = ClipLike(rows, dim), 0
    store, database = LocalStore(here / "search.index", dim), open_database(here / "search.sqlite")
    for vectors in data.chunks():
        store.upsert([record(number + row, vector) for row, vector in enumerate(vectors)])
        named = ((f"/pictures/{number + row}.jpg", vector.tobytes()) for row, vector in enumerate(vectors))
        database.executemany("INSERT INTO images VALUES (?, ?)", named)
        number += len(vectors)
    database.commit()

    def like_rclip(query: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> list[tuple[float, str]]:
        found = database.execute("SELECT path, vector FROM images").fetchall()
        vectors = np.stack([np.frombuffer(vector, np.float32) for _, vector in found])
        scores = vectors @ query  # (n, dim) @ (dim,) -> (n,)
        return sorted(zip(scores.tolist(), (path for path, _ in found), strict=True), reverse=True)[:10]

    ways: dict[str, Callable[..., object]] = {
        "sightline: ms per query": lambda query: store.search(query[None], 10),
        "rclip's method: ms per query": like_rclip,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for query in data.text_queries(12):
        for name, way in ways.items():
            began = time.perf_counter()
            way(query)
            times[name].append((time.perf_counter() - began) * 1e3)
    store.close()
    database.close()
    return {name: float(np.median(spent)) for name, spent in times.items()}


def open_database(path: Path) -> sqlite3.Connection:
    """One table, a row a picture."""
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE images (path TEXT PRIMARY KEY, vector BLOB)")
    return database


if __name__ == "__main__":
    main()
