"""The server under load, beside what the model and the scan alone do in the same run on the same cores.

python -m benchmarks serving [--rows 100000] [--seconds 60] [--thumbnails 1000] [--model NAME] [--json FILE]
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.clip_like import ClipLike
from tests.pictures import encoded, scene
from tests.serving import Server, serving

from sightline.index import Index
from sightline.types import Record, Value, record_id

CORES = os.cpu_count() or 1
CLIENTS, K = 32, 10
WORDS = "red blue old small wooden bright dog cat car house tree river snow child boat street night market bird".split()
LIMITS = {"p50_ratio": 1.5, "throughput_share": 0.8, "p99_over_p50": 10.0}


def main() -> None:
    """Measure each promise and print it beside its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--thumbnails", type=int, default=1000)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        build(place / "large.index", options.rows, options.model)
        result = alone(place / "large.index", min(options.seconds, 10.0))
        with serving(place / "large.index", cache=place) as server:
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


def texts() -> Iterator[str]:
    """Words that nobody asked for before."""
    chance = random.Random(1)
    for number in range(10**9):
        yield f"a {' '.join(chance.sample(WORDS, 4))} {number}"


def alone(path: Path, seconds: float) -> dict[str, Any]:
    """The model and the scan in this process: one query at a time, and as many as they can, by ones and in batches."""
    with Index(str(path)) as index:
        encoder, store, words = index.encoder, index.store, texts()

        def one(_: int) -> None:
            store.search(encoder.encode_texts([next(words)]), K)

        def batch(_: int) -> None:
            store.search(encoder.encode_texts([next(words) for _ in range(CLIENTS)]), K)

        one(0)
        direct = [timed(lambda: one(0)) for _ in range(300)]
        singles = rate(one, seconds)
        batches = rate(batch, seconds) * CLIENTS
    return {"direct_p50_ms": percentile(direct, 50), "alone_per_s": singles, "alone_in_batches_per_s": batches}


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
    """One client, 32 clients, four times what it can carry, and one client again."""
    port = server.url.rsplit(":", 1)[1]
    single = client(port, clients=1, seconds=min(seconds, 10.0))
    client(port, clients=CLIENTS, seconds=min(seconds, 5.0))  # so that every thread has its memory
    first_rss = rss_mb(server.process.pid)
    many = client(port, clients=CLIENTS, seconds=seconds)
    last_rss = rss_mb(server.process.pid)
    capacity = many["per_s"]
    flood = client(port, per_s=4 * capacity, seconds=min(seconds, 15.0))
    after = client(port, clients=1, seconds=1.0)
    best = max(before["alone_per_s"], before["alone_in_batches_per_s"])
    return {
        "one": single,
        "many": many,
        "flood": flood,
        "after_flood": after,
        "p50_ratio": single["p50_ms"] / before["direct_p50_ms"],
        "throughput_share": capacity / before["alone_per_s"],
        "throughput_share_of_batches": capacity / best,
        "p99_over_p50": many["p99_ms"] / many["p50_ms"],
        "rss_mb": [first_rss, last_rss, rss_mb(server.process.pid)],
    }


def client(port: str, **how: float) -> dict[str, Any]:
    """A process of its own that asks."""
    run = [sys.executable, "-m", "benchmarks.serving", "--client", port, json.dumps(how)]
    return dict(json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout))


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    ok_ms: list[float] = field(default_factory=list)
    refused: int = 0
    errors: int = 0


async def ask_for(port: int, how: dict[str, float]) -> Seen:
    """Closed loop with a number of clients, or open loop with a number of requests per second."""
    seen, words = Seen(), texts()
    end = time.perf_counter() + how["seconds"]
    if "clients" in how:

        async def loop() -> None:
            connection = Connection(port)
            while time.perf_counter() < end:
                await connection.ask(next(words), seen)

        await asyncio.gather(*(loop() for _ in range(int(how["clients"]))))
        return seen
    idle = [Connection(port) for _ in range(400)]
    tasks, sent, began = set[asyncio.Task[None]](), 0, time.perf_counter()

    async def once(connection: Connection, text: str) -> None:
        await connection.ask(text, seen)
        idle.append(connection)

    while time.perf_counter() < end:
        while sent < (time.perf_counter() - began) * how["per_s"] and idle:
            task = asyncio.create_task(once(idle.pop(), next(words)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    return seen


class Connection:
    """HTTP with as little work as can be: the cores are the server's."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, text: str, seen: Seen) -> None:
        """One search."""
        began = time.perf_counter()
        body = json.dumps({"text": text, "k": K}).encode()
        head = "POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        try:
            self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            seen.errors, self._streams = seen.errors + 1, None
            return
        status = int(answer[9:12])
        if status == 200:
            seen.ok_ms.append((time.perf_counter() - began) * 1e3)
        elif status == 503:
            seen.refused += 1
        else:
            seen.errors += 1


def summary(seen: Seen, seconds: float) -> dict[str, Any]:
    """Rates and percentiles."""
    counts = {"per_s": len(seen.ok_ms) / seconds, "refused_per_s": seen.refused / seconds, "errors": seen.errors}
    return counts | {f"p{rank}_ms": percentile(seen.ok_ms, rank) for rank in (50, 95, 99)}


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


def percentile(values: Sequence[float], rank: float) -> float:
    return float(np.percentile(values, rank)) if values else float("nan")


def rss_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1e3
    return float("nan")


def show(result: dict[str, Any]) -> None:
    print(f"one query, directly: {result['direct_p50_ms']:.2f} ms; ", end="")
    print(f"alone {result['alone_per_s']:.0f}/s, in batches {result['alone_in_batches_per_s']:.0f}/s")
    print(f"{'':22}{'per s':>8}{'refused':>9}{'errors':>8}{'p50 ms':>9}{'p95':>9}{'p99':>9}")
    for name in ("one", "many", "flood", "after_flood"):
        it = result[name]
        print(f"{name:22}{it['per_s']:8.0f}{it['refused_per_s']:9.0f}{it['errors']:8}", end="")
        print(f"{it['p50_ms']:9.1f}{it['p95_ms']:9.1f}{it['p99_ms']:9.1f}")
    for name, limit in LIMITS.items():
        holds = result[name] >= limit if name == "throughput_share" else result[name] <= limit
        print(f"{name:22}{result[name]:8.2f}   limit {limit}   {'holds' if holds else 'DOES NOT HOLD'}")
    print(f"share of the batches' rate {result['throughput_share_of_batches']:.2f}")
    print(
        "RSS MB without mapped files, at the first end, at the last, after the flood: "
        + ", ".join(f"{value:.0f}" for value in result["rss_mb"])
    )
    print("thumbnails per s: " + ", ".join(f"{name} {value:.0f}" for name, value in result["thumbnails_per_s"].items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        given = json.loads(sys.argv[3])
        print(json.dumps(summary(asyncio.run(ask_for(int(sys.argv[2]), given)), given["seconds"])))
    else:
        main()
