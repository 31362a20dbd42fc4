"""The actor in the cluster that feeds chunks from the driver to Ray Data's workers and adds up their answers.

Ray Data cannot run through a client's connection (its tasks stream), so it runs here.
"""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.data

from sightline.distribute.worker import Chunk, Plan, Worker, singles
from sightline.errors import SightlineError
from sightline.ingest import Summary
from sightline.types import Item

_WAITING = 4  # chunks for each worker that wait here; what is under way is bounded by Ray Data
_PATIENCE_S = 1.0  # a call waits no longer than this, so that whoever calls stays awake
_AHEAD = 2  # chunks sent to a worker: the next one is there when it has done one
_AHEAD_BYTES = 32 << 20  # of chunks for each worker, on the way and waiting: those of 40,000 pictures in files
_TRIES = 3  # of a chunk whose workers die, before its pictures are tried one by one


@dataclass(frozen=True, slots=True)
class ClusterOutcome:
    """How a run ended: with the first error that a worker met, or with the pictures that ended each of theirs."""

    done: Summary
    deadly: tuple[Item, ...] = ()
    error: SightlineError | None = None


class Coordinator:
    """Holds each chunk until its answer has come, so that nothing is lost with a task or a node."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._changed = threading.Condition()
        self._waiting: deque[int] = deque()
        self._unanswered: dict[int, bytes] = {}
        self._is_closed = False
        self._done = Summary()
        self._error: SightlineError | None = None

    def offer(self, number: int, chunk: bytes) -> tuple[bool, Summary]:
        """Whether there was room for one more chunk, and what is done so far."""
        with self._changed:
            room = self._changed.wait_for(lambda: len(self._waiting) < _WAITING * self._plan.workers, _PATIENCE_S)
            if room:
                self._unanswered[number] = chunk
                self._waiting.append(number)
                self._changed.notify_all()
            return room, self._done

    def close(self) -> None:
        """No chunk will follow."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def done(self) -> Summary:
        """What is done so far."""
        return self._done

    def take(self) -> list[bytes] | None:
        """The next chunk, none if there is none yet, None when none will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed, _PATIENCE_S)
            if self._error is not None:
                return None
            if self._waiting:
                number = self._waiting.popleft()
                self._changed.notify_all()
                return [self._unanswered[number]]
            return None if self._is_closed else []

    def run(self) -> ClusterOutcome:
        """Work until the driver has closed and all is answered.

        What had no answer, because a node or its workers died with it, is tried again picture by picture.
        """
        self._pass(_AHEAD)
        if self._unanswered and self._error is None:
            lost = [single for chunk in self._unanswered.values() for single in singles(pickle.loads(chunk))]
            self._unanswered = {single.number: pickle.dumps(single) for single in lost}
            self._waiting.extend(self._unanswered)
            self._pass(1)
        chunks: list[Chunk] = [pickle.loads(chunk) for chunk in self._unanswered.values()]
        deadly = tuple(item for chunk in chunks for item in chunk.items)
        return ClusterOutcome(self._done, deadly, self._error)

    def _pass(self, ahead: int) -> None:
        for answered in _pipeline(self._plan, ahead).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for row in answered.to_pylist():
                self._take_answer(row["number"], pickle.loads(row["answer"]))
            if self._error is not None:
                return

    def _take_answer(self, number: int, answer: Summary | SightlineError) -> None:
        with self._changed:
            if isinstance(answer, SightlineError):
                self._error = self._error or answer
            elif self._unanswered.pop(number, None) is not None:
                done = self._done
                self._done = replace(
                    done,
                    # Unchanged for a worker is what one before it had committed when it died.
                    encoded=done.encoded + answer.encoded + answer.unchanged,
                    reused=done.reused + answer.reused,
                    failed=done.failed + answer.failed,
                )


def read(_: Any, coordinator: Any) -> Iterator[Any]:
    """The coordinator's chunks as tables of Arrow, one a row, as long as some come."""
    import pyarrow

    while (chunks := ray.get(coordinator.take.remote())) is not None:
        for chunk in chunks:
            yield pyarrow.table({"chunk": pyarrow.array([chunk], pyarrow.large_binary())})


def _pipeline(plan: Plan, ahead: int) -> Any:
    """Ray Data's own: a task that streams chunks, and a pool of workers that it feeds no faster than they work.

    A worker that dies takes the chunks with it that were sent `ahead`, which counts as a try of each.
    """
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # one chunk, one block: it reaches a worker as soon as it comes
    context.max_errored_blocks = -1  # a chunk that ends its workers does not end the run
    context.enable_progress_bars = False
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=_AHEAD_BYTES * (1 + plan.workers)  # else half of the cluster's, and as much in this actor
    )
    me = ray.get_runtime_context().current_actor
    one_row: Any = ray.data.from_items([{"start": 0}])  # its types know no tables of Arrow
    return one_row.map_batches(read, fn_kwargs={"coordinator": me}, batch_format="pyarrow", num_cpus=0).map_batches(
        Worker,
        fn_constructor_args=(plan,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=plan.workers, max_tasks_in_flight_per_actor=ahead),
        num_cpus=plan.cpus,
        num_gpus=plan.gpus,
        max_restarts=-1,
        max_task_retries=_TRIES - 1,
    )
