"""Read many items ahead at once where reading waits for a network."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

from sightline.sources.files import refuse
from sightline.types import Item

READERS = 64
"""Downloads at the same time."""

READ_AHEAD = 128
"""Pictures that are being downloaded or wait to be encoded."""


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, those that wait on a network read many at once, in the order in which they come.

    At most `READ_AHEAD` of them are held, so memory does not grow. The threads are daemons: an interrupt need not
    wait for a server that does not answer.
    """
    asked: SimpleQueue[Item | None] = SimpleQueue()
    come: SimpleQueue[Item] = SimpleQueue()
    waiting = threads = 0
    try:
        for item in items:
            if not item.is_slow:
                yield item
                continue
            asked.put(item)
            waiting += 1
            if threads < min(waiting, READERS):
                threads += 1
                Thread(target=_read_all, args=(asked, come), daemon=True, name="sightline-read").start()
            while waiting >= READ_AHEAD or (waiting and not come.empty()):
                yield come.get()
                waiting -= 1
        for _ in range(waiting):
            yield come.get()
    finally:
        with suppress(Empty):
            while True:
                asked.get_nowait()
        for _ in range(threads):
            asked.put(None)


def forget_frames(error: BaseException | None) -> None:
    """A trace holds the batch with all its pictures, and the batch the error: 10 MB a thousand URLs, collected late."""
    while error is not None:
        error.__traceback__, error = None, error.__cause__ or error.__context__


def _read_all(asked: "SimpleQueue[Item | None]", come: "SimpleQueue[Item]") -> None:
    while item := asked.get():
        try:
            come.put(replace(item, read=partial(bytes, item.read())))
        except Exception as error:  # handed to whoever reads the item
            come.put(replace(item, read=partial(refuse, error)))
