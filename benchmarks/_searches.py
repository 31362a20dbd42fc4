"""Searches asked over HTTP by a process of its own, as many at once or a second as wanted, turned into what it saw."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

K = 10  # hits of each search
WORDS = "red blue old small wooden bright dog cat car house tree river snow child boat street night market bird".split()


def client(port: str, **how: float) -> dict[str, Any]:
    """A process of its own that asks."""
    run = [sys.executable, "-m", "benchmarks._searches", port, json.dumps(how)]
    return dict(json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout))


def texts(seed: int = 1) -> Iterator[str]:
    """Words that nobody asked for before."""
    chance = random.Random(seed)
    for number in range(10**9):
        yield f"a {' '.join(chance.sample(WORDS, 4))} {seed} {number}"


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    ok_ms: list[float] = field(default_factory=list)
    refused: int = 0
    errors: int = 0
    reasons: list[str] = field(default_factory=list)
    recovery_s: float = float("nan")

    def failed(self, reason: object) -> None:
        """One more error."""
        self.errors += 1
        if len(self.reasons) < 5:
            self.reasons.append(repr(reason))


async def ask_for(port: int, how: dict[str, float]) -> Seen:
    """Closed loop with a number of clients, or open loop with a number of requests per second."""
    seen, words = Seen(), texts(int(how.get("seed", 1)))
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
    stopped = time.perf_counter()
    await asyncio.gather(*tasks)
    answered = len(seen.ok_ms)
    while len(seen.ok_ms) == answered and time.perf_counter() - stopped < 30:
        await idle[-1].ask(next(words), seen)
    seen.recovery_s = time.perf_counter() - stopped
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
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.failed(error)
            self._streams = None
            return
        status = int(answer[9:12])
        if status == 200:
            seen.ok_ms.append((time.perf_counter() - began) * 1e3)
        elif status == 503:
            seen.refused += 1
        else:
            seen.failed(status)


def summary(seen: Seen, seconds: float) -> dict[str, Any]:
    """Rates and percentiles."""
    counts: dict[str, Any] = {
        "per_s": len(seen.ok_ms) / seconds,
        "refused_per_s": seen.refused / seconds,
        "errors": seen.errors,
    }
    counts |= {"reasons": seen.reasons, "recovery_s": seen.recovery_s}
    return counts | {f"p{rank}_ms": percentile(seen.ok_ms, rank) for rank in (50, 95, 99)}


def percentile(values: Sequence[float], rank: float) -> float:
    return float(np.percentile(values, rank)) if values else float("nan")


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    print(json.dumps(summary(asyncio.run(ask_for(int(sys.argv[1]), given)), given["seconds"])))
