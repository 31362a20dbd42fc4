"""Time and memory at 10,000, 100,000 and 1,000,000 records: filling, opening, searching; as a picture, too.

python -m benchmarks growth [--sizes N N N] [--svg docs/growth.svg]
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.cold import record
from tests.clip_like import ClipLike

from sightline.stores.local.store import LocalStore

DIM = 512
UNITS = {"fill_s": "filling, s", "open_ms": "opening, ms", "search_ms": "one text query, ms", "peak_mb": "peak RSS, MB"}
COLOURS = {"fill_s": "#3b6fd4", "open_ms": "#1f9d55", "search_ms": "#d4523b", "peak_mb": "#8a5bd6"}


def main() -> None:
    """Each size in a process of its own, so that memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    found = []
    for rows in options.sizes:
        command = [sys.executable, "-m", "benchmarks.growth", "--one", str(rows)]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print("  ".join(f"{name} {value:,.4g}" for name, value in found[-1].items()), flush=True)
    for name in UNITS:
        first, last = found[0], found[-1]
        exponent = math.log(last[name] / first[name]) / math.log(last["rows"] / first["rows"])
        print(f"{UNITS[name]}: grows as rows to the power of {exponent:.2f} (1 is linear)")
    if options.svg:
        options.svg.write_text(plot(found), "utf-8")


def measure(rows: int) -> dict[str, float]:
    """Fill, close, open, search."""
    data = ClipLike(rows, DIM)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "growth.index"
        store, number, spent = LocalStore(path, DIM), 0, 0.0
        for vectors in data.chunks():
            records = [record(number + row, vector) for row, vector in enumerate(vectors)]
            began = time.perf_counter()
            for start in range(0, len(records), 500):  # commits of the size that indexing makes
                store.upsert(records[start : start + 500])
            spent += time.perf_counter() - began
            number += len(vectors)
        store.close()
        began = time.perf_counter()
        store = LocalStore(path)
        opened = time.perf_counter() - began
        times = []
        for query in data.text_queries(40):
            began = time.perf_counter()
            store.search(query[None], 10)
            times.append(time.perf_counter() - began)
        size_mb = store.size_bytes() / 1e6
        store.close()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"fill_s": spent, "open_ms": opened * 1e3, "search_ms": float(np.median(times[5:])) * 1e3}
    return {"rows": rows, **figures, "peak_mb": peak_mb, "disk_mb": size_mb}


def plot(found: Sequence[dict[str, float]]) -> str:
    """Both axes logarithmic: a line that rises like the dashed one is linear."""
    width, height, left, bottom = 720, 420, 70, 50
    lows, highs = math.log10(found[0]["rows"]), math.log10(found[-1]["rows"])
    values = [point[name] for point in found for name in UNITS]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def place(rows: float, value: float) -> tuple[float, float]:
        x = left + (math.log10(rows) - lows) / (highs - lows) * (width - left - 190)
        y = height - bottom - (math.log10(value) - low) / (high - low) * (height - bottom - 20)
        return round(x, 1), round(y, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
        'font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for power in range(low, high + 1):
        x, y = place(found[0]["rows"], 10**power)
        end = place(found[-1]["rows"], 1)[0]
        parts.append(f'<path d="M{x} {y}H{end}" stroke="#e6e6e3"/><text x="{x - 8}" y="{y + 4}" text-anchor="end">')
        parts.append(f"{10.0**power:,g}</text>")
    for point in found:
        x = place(point["rows"], 1)[0]
        parts.append(f'<text x="{x}" y="{height - 22}" text-anchor="middle">{point["rows"]:,}</text>')
    for name, label in UNITS.items():
        dots = [place(point["rows"], point[name]) for point in found]
        path = "L".join(f"{x} {y}" for x, y in dots)
        parts.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="4" fill="{COLOURS[name]}"/>' for x, y in dots]
        x, y = dots[-1]
        parts.append(f'<text x="{x + 12}" y="{y + 4}" fill="{COLOURS[name]}">{label}</text>')
    parts.append(
        f'<text x="{left}" y="{height - 4}" fill="#6a6e75">records (512 dimensions); both axes logarithmic</text>'
    )
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
