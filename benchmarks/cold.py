"""A cold search: process start to printed hits over 100,000 pictures, beside the imports that it cannot do without.

python -m benchmarks cold [--rows N] [--runs N]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tests.clip_like import ClipLike

from sightline.index import Index
from sightline.types import Record, Value, Vector, record_id

COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
IMPORTS = [sys.executable, "-c", "import numpy, onnxruntime, tokenizers"]


def main() -> None:
    """Time both in turn and print the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        url = str(Path(scratch) / "cold.index")
        fill(url, options.rows)
        search = [sys.executable, "-m", "sightline", "search", "a dog in the snow", "--index", url]
        spent: dict[str, list[float]] = {"imports": [], "search": []}
        for run in range(options.runs + 1):
            for name, command in (("imports", IMPORTS), ("search", search)):
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, env=COMPILED)
                if run:  # the first fills the page cache, and compiles what pip would have compiled
                    spent[name].append(time.perf_counter() - began)
    median = {name: float(np.median(times)) for name, times in spent.items()}
    ratio = float(np.median(np.array(spent["search"]) / np.array(spent["imports"])))
    print(f"imports alone {median['imports']:.3f} s, a cold search over {options.rows:,} {median['search']:.3f} s")
    print(f"{ratio:.2f} times the imports")
    print(json.dumps({"rows": options.rows, **median, "ratio": ratio}))


def fill(url: str, rows: int) -> None:
    """An index of the bundled model with made-up vectors and payloads of the usual size."""
    with Index(url, model="mini") as index:
        index.add([])
        number = 0
        for vectors in ClipLike(rows, index.encoder.dim).chunks():
            index.store.upsert([record(number + row, vector) for row, vector in enumerate(vectors)])
            number += len(vectors)
        index.draw_line()  # as indexing does: each search reads it


def record(number: int, vector: Vector) -> Record:
    """One picture as indexing would have written it."""
    uri = f"file:///home/someone/Pictures/2024/holiday%20{number // 500}/IMG_{number:06}.jpg"
    known: dict[str, Value] = {"width": 4000, "height": 3000, "format": "jpeg", "size_bytes": 4_000_000}
    own: dict[str, Value] = {"name": f"IMG_{number:06}.jpg", "stamp": f"4000000-{number}", "sha256": f"{number:064x}"}
    return Record(record_id(uri), uri, vector, known | own)


if __name__ == "__main__":
    main()
