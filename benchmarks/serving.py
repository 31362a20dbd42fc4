"""The server under load, beside what the model and the scan alone do in the same run on the same cores.

python -m benchmarks serving [--rows 100000] [--seconds 60] [--thumbnails 1000] [--model NAME] [--json FILE]
python -m benchmarks serving --minutes 10        only the server's memory under 32 clients, from end to end
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks._searches import K, client, percentile, texts
from PIL import Image
from tests.clip_like import ClipLike
from tests.pictures import encoded, scene
from tests.serving import Server, serving

from sightline.index import Index
from sightline.types import Record, Value, record_id

CORES = os.cpu_count() or 1
CLIENTS = 32
ROUNDS = 5  # directly and over HTTP in turn, so that both see the same machine
BARS: dict[str, tuple[str, float, str]] = {
    "p50_ratio": ("<=", 1.5, "one client: p50 over HTTP beside model and scan called directly"),
    "throughput_share": (">=", 0.8, "32 clients: queries/s beside model and scan alone, one query at a time"),
    "p99_over_p50": ("<", 10.0, "32 clients: p99 / p50"),
    "errors": ("<=", 0, "errors of any client, refusals while 32 ask"),
    "flood_p50_ratio": ("<=", 1.25, "four times the load: p50 of the accepted beside that of 32 clients"),
    "flood_share": (">=", 0.8, "four times the load: answered per s beside what 32 clients got"),
    "recovery_s": ("<=", 1.0, "seconds from the flood's end to the next answer"),
    "rss_growth": ("<=", 1.05, "memory under load, last beside first"),
}


def main() -> None:
    """Measure each promise and print it beside its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--thumbnails", type=int, default=1000)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        build(place / "large.index", options.rows, options.model)
        if options.minutes:
            with serving(place / "large.index", cache=place) as server:
                result = memory(server, options.minutes * 60)
        else:
            result = alone(place / "large.index", min(options.seconds, 10.0))
            with serving(place / "large.index", cache=place) as server:
                result |= one_client(server, place / "large.index", min(options.seconds, 15.0))
                result |= under_load(server, result, options.seconds)
            result |= thumbnails(place, options.thumbnails)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2), "utf-8")


def build(path: Path, rows: int, model: str) -> None:
    """An index of synthetic vectors with payloads of the usual size."""
    with Index(str(path), model=model) as index:
        index.add([])
        row = 0
        for vectors in ClipLike(rows, index.store.dim).chunks():
            records = []
            for vector in vectors:
                uri = f"https://example.org/pictures/{row}.jpg"
                payload: dict[str, Value] = {"name": f"{row}.jpg", "width": 640 + row % 100, "height": 480}
                records.append(Record(record_id(uri), uri, vector, payload))
                row += 1
            index.store.upsert(records)


def alone(path: Path, seconds: float) -> dict[str, Any]:
    """The model and the scan in this process: one query at a time, and as many as they can, by ones and in batches."""
    with Index(str(path)) as index:
        encoder, store, words = index.encoder, index.store, texts()

        def one(_: int) -> None:
            store.search(encoder.encode_texts([next(words)]), K)

        def batch(_: int) -> None:
            store.search(encoder.encode_texts([next(words) for _ in range(CLIENTS)]), K)

        one(0)
        singles = rate(one, seconds)
        batches = rate(batch, seconds) * CLIENTS
    return {"alone_per_s": singles, "alone_in_batches_per_s": batches}


def one_client(server: Server, path: Path, seconds: float) -> dict[str, Any]:
    """One query at a time, directly and over HTTP in turn; the ratio is the median of the rounds' ratios."""
    port, words, rounds = server.url.rsplit(":", 1)[1], texts(), []
    with Index(str(path)) as index:
        encoder, store = index.encoder, index.store

        def direct() -> None:
            store.search(encoder.encode_texts([next(words)]), K)

        direct()
        for number in range(ROUNDS):
            directly = percentile([timed(direct) for _ in range(100)], 50)
            rounds.append((client(port, clients=1, seconds=seconds / ROUNDS, seed=10 + number), directly))
    ratios = [http["p50_ms"] / directly for http, directly in rounds]
    middle = int(np.argsort(ratios)[len(ratios) // 2])
    return {"one": rounds[middle][0], "direct_p50_ms": rounds[middle][1], "p50_ratio": ratios[middle], "ratios": ratios}


def rate(work: Callable[[int], None], seconds: float) -> float:
    """Calls per second with a thread for each core."""
    end = time.perf_counter() + seconds

    def run(number: int) -> int:
        count = 0
        while time.perf_counter() < end:
            work(number)
            count += 1
        return count

    with ThreadPoolExecutor(CORES) as pool:
        return sum(pool.map(run, range(CORES))) / seconds


def under_load(server: Server, before: dict[str, Any], seconds: float) -> dict[str, Any]:
    """32 clients, and four times what they got."""
    port, pid = server.url.rsplit(":", 1)[1], server.process.pid
    client(port, clients=CLIENTS, seconds=min(seconds, 5.0), seed=2)  # so that every thread has its memory
    first_rss = rss_mb(pid)
    many = client(port, clients=CLIENTS, seconds=seconds, seed=3)
    last_rss = rss_mb(pid)
    flood = client(port, per_s=4 * many["per_s"], seconds=min(seconds, 15.0), seed=4)
    best = max(before["alone_per_s"], before["alone_in_batches_per_s"])
    return {
        "many": many,
        "flood": flood,
        "throughput_share": many["per_s"] / before["alone_per_s"],
        "throughput_share_of_batches": many["per_s"] / best,
        "p99_over_p50": many["p99_ms"] / many["p50_ms"],
        "errors": sum(it["errors"] for it in (before["one"], many, flood)) + many["refused_per_s"] * seconds,
        "reasons": before["one"]["reasons"] + many["reasons"] + flood["reasons"],
        "flood_p50_ratio": flood["p50_ms"] / many["p50_ms"],
        "flood_share": flood["per_s"] / many["per_s"],
        "recovery_s": flood["recovery_s"],
        "rss_mb": [first_rss, last_rss],
        "rss_growth": last_rss / first_rss,
    }


def memory(server: Server, seconds: float) -> dict[str, Any]:
    """The server's memory every half minute while 32 clients ask; the first minute fills caches and threads."""
    port, seen, parts = server.url.rsplit(":", 1)[1], list[float](), max(3, round(seconds / 30))
    errors, reasons = 0, list[str]()
    for part in range(parts):
        found = client(port, clients=CLIENTS, seconds=seconds / parts, seed=100 + part)
        errors, reasons = errors + found["errors"], reasons + found["reasons"]
        seen.append(rss_mb(server.process.pid))
    first = seen[1]
    return {"rss_mb": seen, "rss_growth": seen[-1] / first, "errors": errors, "reasons": reasons, "many": found}


def thumbnails(place: Path, count: int) -> dict[str, Any]:
    """Thumbnails per second, cold and warm, beside plain Pillow on as many threads."""
    pictures = place / "pictures"
    pictures.mkdir()
    for number in range(count):
        (pictures / f"{number}.jpg").write_bytes(encoded(scene(number, (1600, 1200)), "JPEG", quality=88))
    with Index(str(place / "small.index"), model="pixels") as index:
        index.add(pictures)
    files = sorted(pictures.iterdir())

    def plain(path: Path) -> None:
        with Image.open(path) as image:
            image.thumbnail((320, 320))
            image.save(BytesIO(), "WEBP", quality=75, method=2)

    with serving(place / "small.index", cache=place) as server:
        hits: list[dict[str, Any]] = []
        for offset in range(0, count, 1000):
            hits += server.ask(f"/api/images?k=1000&offset={offset}").json["hits"]
        links = [hit["links"]["thumbnail"] for hit in hits]
        found = {name: each_per_s(lambda link: server.ask(link), links) for name in ("cold", "warm")}
    with_pillow = each_per_s(plain, files)
    return {"thumbnails_per_s": found | {"pillow": with_pillow}}


def each_per_s(work: Callable[[Any], Any], things: Sequence[Any]) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(CORES * 2) as pool:
        list(pool.map(work, things))
    return len(things) / (time.perf_counter() - began)


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def rss_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1e3
    return float("nan")


def show(result: dict[str, Any]) -> None:
    """Each run as a line, then each promise beside its bar."""
    if "alone_per_s" in result:
        print(f"model and scan alone: {result['direct_p50_ms']:.2f} ms for one query, ", end="")
        print(f"{result['alone_per_s']:.0f}/s by ones, {result['alone_in_batches_per_s']:.0f}/s in batches")
        print("over HTTP / directly, round by round: " + ", ".join(f"{ratio:.2f}" for ratio in result["ratios"]))
    print(f"{'':10}{'per s':>8}{'refused':>9}{'errors':>8}{'p50 ms':>9}{'p95':>9}{'p99':>9}")
    for name in ("one", "many", "flood"):
        if it := result.get(name):
            print(f"{name:10}{it['per_s']:8.0f}{it['refused_per_s']:9.0f}{it['errors']:8}", end="")
            print(f"{it['p50_ms']:9.1f}{it['p95_ms']:9.1f}{it['p99_ms']:9.1f}")
    for name, (sign, bar, what) in BARS.items():
        if name in result:
            value = result[name]
            is_met = value >= bar if sign == ">=" else value < bar if sign == "<" else value <= bar
            print(f"{'ok' if is_met else 'MISSED':8}{value:8.2f} {sign} {bar:<5g} {what}")
    if "throughput_share_of_batches" in result:
        print(f"{'':8}{result['throughput_share_of_batches']:8.2f}          32 clients: beside batches of 32 alone")
    print("errors: " + (", ".join(result["reasons"]) or "none"))
    print("memory in MB, mapped files left out: " + ", ".join(f"{value:.0f}" for value in result["rss_mb"]))
    if rates := result.get("thumbnails_per_s"):
        beside = rates["cold"] / rates["pillow"]
        print("thumbnails/s: " + ", ".join(f"{name} {value:.0f}" for name, value in rates.items()), end="")
        print(f"; cold is {beside:.2f} of plain Pillow")


if __name__ == "__main__":
    main()
