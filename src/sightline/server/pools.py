"""Bounded work on threads: a pool for single calls, and a batcher that puts concurrent queries together."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar

from fastapi import Request

from sightline.server.answers import Problem, overloaded

Given = ParamSpec("Given")
Result = TypeVar("Result")
Job = TypeVar("Job")
Answer = TypeVar("Answer")


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


async def while_there(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of some work, which is cancelled when the client goes before it is there."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Problem(499, "the client has gone")
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Full(Exception):
    """As many jobs are accepted as may be."""


class Batcher(Generic[Job, Answer]):
    """Gives jobs to `work` in batches, on a thread; all methods belong to one event loop.

    An idle batcher starts a job at once, without waiting for company; a busy one gathers what comes. At most
    `max_accepted` jobs wait or are worked on: what comes on top is refused while it is still cheap to refuse, so that
    whoever is accepted waits no longer than those take.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Answer | Exception]],
        *,
        max_accepted: int,
        max_together: int = 32,
        threads: int = 1,
    ) -> None:
        self._work, self._max_accepted, self._max_together = work, max_accepted, max_together
        self._accepted = 0
        self._waiting: deque[tuple[Job, asyncio.Future[Answer]]] = deque()
        self._free = self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "sightline-query")
        self._running: set[asyncio.Task[None]] = set()

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the next job would be refused."""
        return self._accepted >= self._max_accepted

    async def submit(self, job: Job) -> Answer:
        """The answer to one job; raises `Full`, or what the work raised for this job."""
        if self.is_full:
            raise Full
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._accepted += 1
        self._waiting.append((job, future))
        self._start()
        try:
            return await future
        finally:
            self._accepted -= 1

    async def close(self) -> None:
        """Finish what was accepted."""
        while self._running:
            await asyncio.gather(*self._running)
        self._pool.shutdown()

    def _start(self) -> None:
        while self._free and self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._max_together, len(self._waiting)))]
            batch = [(job, future) for job, future in batch if not future.done()]  # done: its asker has gone
            if batch:
                self._free -= 1
                task = asyncio.get_running_loop().create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[tuple[Job, asyncio.Future[Answer]]]) -> None:
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._pool, self._work, [job for job, _ in batch])
        except Exception as error:
            answers = [error] * len(batch)
        finally:
            self._free += 1
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._start()
