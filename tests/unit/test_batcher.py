"""Batches: nothing waits without need, nothing piles up, every asker gets their own answer."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from tests.waiting import BUSY_S, until_here

from sightline.server.pools import Batcher, Full


def doubled(jobs: Sequence[int]) -> list[int | Exception]:
    return [ValueError(str(job)) if job < 0 else 2 * job for job in jobs]


def test_each_asker_gets_their_own_answer_or_error() -> None:
    async def ask() -> list[int | BaseException]:
        batcher = Batcher[int, int](doubled, max_accepted=100)
        answers = await asyncio.gather(*(batcher.submit(job) for job in (1, -2, 3)), return_exceptions=True)
        await batcher.close()
        return answers

    one, two, three = asyncio.run(ask())
    assert (one, three) == (2, 6)
    assert isinstance(two, ValueError)


def test_what_comes_while_a_batch_runs_is_the_next_batch() -> None:
    batches, gate = list[list[int]](), threading.Event()

    def work(jobs: Sequence[int]) -> list[int | Exception]:
        batches.append(list(jobs))
        gate.wait(BUSY_S)
        return list(jobs)

    async def ask() -> None:
        batcher = Batcher[int, int](work, max_accepted=100, max_together=8)
        first = asyncio.create_task(batcher.submit(0))
        await until_here(lambda: batches == [[0]])
        rest = [asyncio.create_task(batcher.submit(job)) for job in range(1, 12)]
        await until_here(lambda: batcher.depth == 11)
        gate.set()
        assert await asyncio.gather(first, *rest) == list(range(12))
        await batcher.close()

    asyncio.run(ask())
    assert batches == [[0], list(range(1, 9)), [9, 10, 11]]


def test_a_full_batcher_refuses_and_recovers() -> None:
    gate = threading.Event()

    def work(jobs: Sequence[int]) -> list[int | Exception]:
        gate.wait(BUSY_S)
        return list(jobs)

    async def ask() -> None:
        batcher = Batcher[int, int](work, max_accepted=3)
        accepted = [asyncio.create_task(batcher.submit(job)) for job in range(3)]
        await until_here(lambda: batcher.is_full)
        with pytest.raises(Full):
            await batcher.submit(4)
        gate.set()
        assert await asyncio.gather(*accepted) == [0, 1, 2]
        assert await batcher.submit(5) == 5
        await batcher.close()

    asyncio.run(ask())


def test_who_has_gone_is_not_worked_for() -> None:
    seen, gate = list[int](), threading.Event()

    def work(jobs: Sequence[int]) -> list[int | Exception]:
        seen.extend(jobs)
        gate.wait(BUSY_S)
        return list(jobs)

    async def ask() -> None:
        batcher = Batcher[int, int](work, max_accepted=10)
        first = asyncio.create_task(batcher.submit(0))
        await until_here(lambda: seen == [0])
        gone = asyncio.create_task(batcher.submit(1))
        await until_here(lambda: batcher.depth == 1)
        gone.cancel()
        await asyncio.wait([gone])
        gate.set()
        await first
        assert await batcher.submit(2) == 2
        await batcher.close()

    asyncio.run(ask())
    assert seen == [0, 2]


def test_work_that_breaks_answers_all_and_goes_on() -> None:
    def work(jobs: Sequence[int]) -> list[int | Exception]:
        if jobs[0] == 0:
            raise RuntimeError("broken")
        return list(jobs)

    async def ask() -> None:
        batcher = Batcher[int, int](work, max_accepted=10)
        with pytest.raises(RuntimeError, match="broken"):
            await batcher.submit(0)
        assert await batcher.submit(1) == 1
        await batcher.close()

    asyncio.run(ask())
