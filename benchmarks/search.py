"""The local store's search beside the time that reading its bytes takes, NumPy and a graph index, as a table and JSON.

python benchmarks/search.py [--rows 100000] [--dim 512] [--index FOLDER] [--json FILE] [--hnsw]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.clip_like import ClipLike, unit

from sightline.stores.local.store import LocalStore
from sightline.types import Record, Value, Vectors, Where, record_id

K, QUERIES = 10, 200
FILTERS: dict[str, Where] = {"filter 1 %": {"bucket": 7}, "filter 10 %": {"bucket": {"$lt": 10}}}
BUFFER_BYTES = 2**29  # far more than any cache, so that no cache holds what is read next


def main() -> None:
    options = parse()
    scratch = Path(tempfile.mkdtemp(prefix="sightline-bench-"))
    try:
        folder = options.index or scratch / "bench.index"
        result = measure(folder, options.rows, options.dim, options.hnsw)
    finally:
        shutil.rmtree(scratch)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2), "utf-8")
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--index", type=Path, help="keep the index here and use it again")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--hnsw", action="store_true", help="also build a graph with hnswlib (minutes)")
    return parser.parse_args()


def measure(folder: Path, rows: int, dim: int, with_graph: bool) -> dict[str, Any]:
    data = ClipLike(rows, dim)
    result: dict[str, Any] = {"rows": rows, "dim": dim, "upsert_rows_per_s": build(folder, data)}
    result |= in_fresh_process(folder)
    store = LocalStore(folder)
    file = next(folder.glob("vectors-*.float32"))
    matrix = np.memmap(file, np.float32, "r", shape=(rows, dim))  # in the order they were written
    result["kinds"] = {
        kind: compare(store, matrix, queries, rows * dim)
        for kind, queries in (("image", data.image_queries(QUERIES)), ("text", data.text_queries(QUERIES)))
    }
    batch = data.text_queries(64)
    result["batch_of_64_ms_per_query"] = (
        p50_p99([took(lambda: store.search(batch, K)) for _ in range(4)])["p50_ms"] / 64
    )
    if with_graph:
        add_graph(result, matrix, data)
    store.close()
    return result


def compare(store: LocalStore, matrix: Vectors, queries: Vectors, code_bytes: int) -> dict[str, Any]:
    """Each way to search in turn for each query, so that a busy machine is equally unfair to all."""
    ways: dict[str, Callable[[Vectors], Any]] = {
        "int8 scan": lambda query: store.search(query[None], K),
        **{name: partial(filtered, store, where) for name, where in FILTERS.items()},
        "numpy float32": lambda query: numpy_search(matrix, query),
    }
    read = Reader(code_bytes)
    times: dict[str, list[float]] = {name: [] for name in ("read int8 bytes", *ways)}
    best, found = list[list[int]](), list[list[int]]()
    for query in (queries[0], *queries):
        times["read int8 bytes"].append(took(read))
        for name, search in ways.items():
            if name != "numpy float32" or len(times[name]) < 30:
                times[name].append(took(partial(search, query)))
        best.append(numpy_search(matrix, query).tolist())
        found.append([int(hit.uri) for hit in store.search(query[None], K)[0]])
    measured = {name: p50_p99(some[1:]) for name, some in times.items()}  # the first one warms up
    measured["int8 scan"]["recall@10"] = recall(found, best)
    measured["int8 scan"]["times_read"] = measured["int8 scan"]["p50_ms"] / measured["read int8 bytes"]["p50_ms"]
    return measured


class Reader:
    """Reads so many bytes as the codes have, from memory and not from a cache, with as many threads as cores."""

    def __init__(self, size_bytes: int) -> None:
        self._buffer = np.ones(max(BUFFER_BYTES, size_bytes) // 8, np.int64)
        self._threads = min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._threads)
        self._count, self._at = size_bytes // 8, 0

    def __call__(self) -> None:
        if self._at + self._count > len(self._buffer):
            self._at = 0
        parts = np.array_split(self._buffer[self._at : self._at + self._count], self._threads)
        self._at += self._count
        others = [self._pool.submit(part.max) for part in parts[1:]]
        parts[0].max()
        for other in others:
            other.result()


def filtered(store: LocalStore, where: Where, query: Vectors) -> object:
    return store.search(query[None], K, where)


def took(action: Callable[[], object]) -> float:
    """In milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def p50_p99(times: list[float]) -> dict[str, float]:
    return {"p50_ms": float(np.percentile(times, 50)), "p99_ms": float(np.percentile(times, 99))}


def build(folder: Path, data: ClipLike) -> float | None:
    """Write the index unless it is there; rows per second."""
    if folder.exists():
        return None
    store, row = LocalStore(folder, data.dim), 0
    began = time.perf_counter()
    for vectors in data.chunks():
        records = []
        for vector in vectors:
            payload: dict[str, Value] = {"name": f"{row}.jpg", "bucket": row * 7919 % 100, "width": 640 + row % 100}
            records.append(Record(record_id(str(row)), str(row), vector, payload))
            row += 1
        store.upsert(records)
    store.close()
    return row / (time.perf_counter() - began)


def in_fresh_process(folder: Path) -> dict[str, float]:
    """Time to open, and memory that is not mapped files after 50 searches, where nothing else was loaded."""
    run = [sys.executable, __file__, "--fresh", str(folder)]
    return dict(json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout))


def fresh(folder: Path) -> None:
    began = time.perf_counter()
    store = LocalStore(folder)
    open_ms = (time.perf_counter() - began) * 1e3
    for query in unit(np.random.default_rng(0).standard_normal((50, store.dim))):
        store.search(query[None], K)
    without_ms = rss_anonymous_mb()
    for where in FILTERS.values():
        store.search(unit(np.ones((1, store.dim))), K, where)
    print(json.dumps({"open_ms": open_ms, "rss_mb": without_ms, "rss_with_filters_mb": rss_anonymous_mb()}))


def rss_anonymous_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def numpy_search(matrix: Vectors, query: Vectors) -> NDArray[np.int64]:
    scores = matrix @ query  # (n, dim) @ (dim,) -> (n,)
    best = np.argpartition(-scores, K)[:K]
    return best[np.argsort(-scores[best])]


def exact(matrix: Vectors, queries: Vectors) -> list[list[int]]:
    return [numpy_search(matrix, query).tolist() for query in queries]


def recall(found: list[list[int]], best: list[list[int]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, best, strict=True)]))


def add_graph(result: dict[str, Any], matrix: Vectors, data: ClipLike) -> None:
    """hnswlib at the narrowest search that finds 99 % of the true ten."""
    import hnswlib

    began = time.perf_counter()
    graph = hnswlib.Index("ip", data.dim)
    graph.init_index(len(matrix), M=16, ef_construction=200)
    graph.add_items(matrix)
    result["hnsw_build_s"] = time.perf_counter() - began
    for kind, queries in (("image", data.image_queries(QUERIES)), ("text", data.text_queries(QUERIES))):
        best = [numpy_search(matrix, query).tolist() for query in queries]
        for width in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            graph.set_ef(width)
            reached = recall([graph.knn_query(query, K)[0][0].tolist() for query in queries], best)
            if reached >= 0.99:
                break
        measured = p50_p99([took(partial(graph.knn_query, query, K)) for query in queries])
        result["kinds"][kind]["hnswlib"] = measured | {"recall@10": reached, "ef": width}


def show(result: dict[str, Any]) -> None:
    print(f"{result['rows']:,} vectors of {result['dim']} dimensions")
    print(f"opening {result['open_ms']:.1f} ms; {result['batch_of_64_ms_per_query']:.2f} ms per query in batches of 64")
    print(f"memory beside mapped files: {result['rss_mb']:.0f} MB, {result['rss_with_filters_mb']:.0f} MB with filters")
    print(f"{'':24}{'p50 ms':>9}{'p99 ms':>9}{'recall@10':>11}{'times read':>12}")
    for kind, measured in result["kinds"].items():
        for name, values in measured.items():
            recalled = f"{values['recall@10']:11.4f}" if "recall@10" in values else ""
            times = f"{values['times_read']:12.2f}" if "times_read" in values else ""
            print(f"{kind + ', ' + name:24}{values['p50_ms']:9.2f}{values['p99_ms']:9.2f}{recalled}{times}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fresh"]:
        fresh(Path(sys.argv[2]))
    else:
        main()
