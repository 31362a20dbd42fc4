"""Blocking work put on a few threads, with a bound on how much of it may wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sightline.server.problems import overloaded

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Pool:
    """A few threads, and at most `max_waiting` jobs beside those that run."""

    def __init__(self, name: str, *, threads: int, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, f"sightline-{name}")
        self._name, self._most = name, threads + max_waiting
        self.pending = 0

    async def run(self, work: Callable[Given, Result], *args: Given.args, **named: Given.kwargs) -> Result:
        """The result of the work; a `Problem` with status 503 if too much waits already."""
        if self.pending >= self._most:
            raise overloaded(f"{self.pending} jobs wait for the {self._name} threads: try again in a moment")
        self.pending += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, lambda: work(*args, **named))
        finally:
            self.pending -= 1

    def close(self) -> None:
        """Finish what runs."""
        self._pool.shutdown(cancel_futures=True)
