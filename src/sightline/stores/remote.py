"""The store on a server: everything that is the same for all engines, driven over one small `Engine` for each."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from sightline import errors
from sightline.filters.where import And, Node, matches, parse_where
from sightline.stores.base import Store, check_dim, check_records, check_search
from sightline.types import Hit, Note, Record, Vector, Vectors, Where

EVERYTHING = And(())
"""The filter that every record passes."""
TIMEOUT_S = 30
"""How long calls are made again while a server is away, unless the option `patience_s` of the URL says otherwise."""

_WIDTH = "width"  # the kind of note, its key and its field
_EQUAL = 1e-6  # engines add up in another order: scores this near are the same score
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_SPARE_HITS = 1000

T = TypeVar("T")
V = TypeVar("V")
_log = logging.getLogger(__name__)


class Calls:
    """Calls to one server: made again while it is away, refused after `close`, with the client's errors as ours.

    `what` names the server in messages. `is_transient` tells an error that may pass, so that the call, which must be
    safe to repeat, is made again for up to `timeout_s`; `translate` gives our error for any other one of the client,
    and `words` what an error says in one line.
    """

    def __init__(
        self,
        what: str,
        timeout_s: float,
        *,
        is_transient: Callable[[Exception], bool],
        translate: Callable[[Exception], errors.StoreError | None],
        words: Callable[[Exception], str] = errors.summary,
    ) -> None:
        self.what, self.timeout_s, self.is_closed = what, timeout_s, False
        self._is_transient, self._translate, self._words = is_transient, translate, words

    def make(self, call: Callable[[], T], *, timeout_s: float | None = None) -> T:
        """What the call gives. Raises `StoreUnreachable` in the end, and what `translate` makes of other errors."""
        self.check_open()
        patience_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            return retry(call, is_transient=self._is_transient, what=self.what, timeout_s=patience_s, words=self._words)
        except errors.SightlineError:
            raise
        except Exception as error:
            self.check_open()  # another thread may have closed the store meanwhile
            ours = self._translate(error)
            if ours is None:
                raise
            raise ours from error

    def check_open(self) -> None:
        """Raise `StoreError` after `close`."""
        if self.is_closed:
            raise errors.StoreError(f"{self.what} was closed: open it again")

    def close(self) -> None:
        """Refuse further calls."""
        self.is_closed = True


class Workers:
    """A few threads for an engine whose calls are many and small."""

    def __init__(self, calls: Calls, count: int, name: str) -> None:
        self._calls, self._name = calls, f"sightline-{name}"
        self._pool = ThreadPoolExecutor(count, self._name)

    def map(self, function: Callable[[V], T], values: Iterable[V]) -> list[T]:
        """The function's results for all values, in order; after an error those that did not begin never do."""
        self._calls.check_open()
        few = list(values)
        is_inner = threading.current_thread().name.startswith(self._name)  # one that waits for others locks them out
        if len(few) < 2 or is_inner:
            return [function(value) for value in few]
        try:
            futures = [self._pool.submit(function, value) for value in few]
            _, waiting = wait(futures, return_when=FIRST_EXCEPTION)
            for future in waiting:
                future.cancel()
            wait(waiting)
            return [future.result() for future in futures]
        except (RuntimeError, CancelledError):
            self._calls.check_open()  # closed meanwhile by another thread
            raise

    def close(self) -> None:
        """End the threads, when they have done what is under way."""
        self._pool.shutdown(cancel_futures=True)


class Engine(Protocol):
    """What a vector database must do to become a store; `RemoteStore` does the rest. Engines inherit from it.

    Every method may be called from many threads. Filters are given as parsed nodes, `EVERYTHING` for none. An engine
    may let too much pass a filter in `nearest` and `scan`, never too little: what does not match is taken out later.
    """

    calls: Calls
    dim: int
    most_hits: int
    """The most hits that `nearest` can give for one query."""

    def write(self, records: Sequence[Record], vectors: Vectors) -> None:
        """Write records of different ids, with their (n, dim) vectors, and return when they are durable."""

    def delete(self, ids: Sequence[str]) -> int:
        """Remove records by different ids; gives how many were there."""

    def nearest(self, queries: Vectors, limit: int, node: Node, width: int | None) -> list[list[Hit]]:
        """(q, dim) -> for each query its best `limit`, fewer only if no more pass the filter; ties in any order."""

    def fetch(self, ids: Sequence[str]) -> Iterable[Record]:
        """The records of those different ids that exist, in any order."""

    def scan(self, node: Node, *, with_vectors: bool) -> Iterator[Record]:
        """The records that pass the filter, in order of id, with constant memory."""

    def count(self, node: Node) -> int | None:
        """How many records match; None if only looking at each of them tells."""

    def notes(self, kind: str) -> Iterable[tuple[str, Note]]:
        """The notes of a kind and their keys, in any order."""

    def write_notes(self, kind: str, notes: Mapping[str, Note], removed: Sequence[str]) -> None:
        """Write some notes and remove others."""

    def size_bytes(self) -> int | None:
        """What the index takes on the server's disk; None if it does not tell, as most do not."""
        return None

    def drop(self) -> None:
        """Remove records, notes and schema from the server."""

    def close(self) -> None:
        """Give back the connections, and close `calls`."""

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Around what opens the index: an engine that cannot be opened is closed."""
        try:
            yield
        except BaseException:
            self.close()
            raise


class TunableEngine(Engine, Protocol):
    """An engine that finds the more of the true neighbours the wider it searches."""

    widths: Sequence[int]
    """The widths to choose from, smallest first."""
    untuned_width: int
    """The width until one is noted."""
    reads_width: bool = False
    """Whether `nearest` itself looks up the noted width, when it is given None."""

    def finish_indexing(self) -> None:
        """Have what was written indexed, so that a measured recall is the one that later searches have."""
        return


E = TypeVar("E", bound=Engine)
TunableE = TypeVar("TunableE", bound=TunableEngine)


class RemoteStore(Store, Generic[E]):
    """A store in an engine; `engine` gives access to what only that engine has."""

    def __init__(self, engine: E) -> None:
        self.engine, self.dim = engine, engine.dim

    def upsert(self, records: Sequence[Record]) -> None:
        self.engine.calls.check_open()
        # The last of each id wins. Sorted, so that two writers of the same records wait for each other in one order.
        last = [record for _, record in sorted({record.id: record for record in records}.items())]
        vectors = check_records(last, self.dim)
        if last:
            self.engine.write(last, vectors)

    def delete(self, ids: Sequence[str]) -> int:
        self.engine.calls.check_open()
        return self.engine.delete(list(dict.fromkeys(ids))) if ids else 0

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        return self._search(vectors, k, offset, parse_where(where or {}), None)

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        self.engine.calls.check_open()
        found = {record.id: record for record in self.engine.fetch(list(dict.fromkeys(ids)))} if ids else {}
        return [found[name] for name in ids if name in found]

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        node = parse_where(where or {})
        self.engine.calls.check_open()
        return self._scan(node, with_vectors=True)

    def count(self, where: Where | None = None) -> int:
        node = parse_where(where or {})
        self.engine.calls.check_open()
        counted = self.engine.count(node)
        return sum(1 for _ in self._scan(node, with_vectors=False)) if counted is None else counted

    def notes(self, kind: str) -> dict[str, Note]:
        self.engine.calls.check_open()
        return dict(sorted(self.engine.notes(kind)))

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        self.engine.calls.check_open()
        kept = {key: note for key, note in notes.items() if note is not None}
        removed = [key for key, note in notes.items() if note is None]
        if kept or removed:
            self.engine.write_notes(kind, kept, removed)

    def size_bytes(self) -> int | None:
        """What the index takes on the server's disk; None if the engine does not tell."""
        return self.engine.size_bytes()

    def drop(self) -> None:
        try:
            self.engine.drop()
        finally:
            self.engine.close()

    def close(self) -> None:
        if not self.engine.calls.is_closed:
            self.engine.close()

    def _scan(self, node: Node, *, with_vectors: bool) -> Iterator[Record]:
        found = self.engine.scan(node, with_vectors=with_vectors)
        return (record for record in found if node == EVERYTHING or matches(record.payload, node))

    def _search(self, vectors: Vectors, k: int, offset: int, node: Node, width: int | None) -> list[list[Hit]]:
        queries = check_search(vectors, k, offset, self.dim)
        engine = self.engine
        engine.calls.check_open()
        check_reach(offset + k, engine.most_hits, engine.calls.what)
        if not len(queries):
            return []
        first = min(offset + k + 1, engine.most_hits)

        def of_query(query: Vector, hits: list[Hit]) -> list[Hit]:
            return top_k(
                lambda limit: hits if limit == first else engine.nearest(query[None], limit, node, width)[0],
                k,
                offset,
                node=node,
                max_limit=engine.most_hits,
                compare_all=lambda limit: self._compared(query, limit, node),
            )

        answers = engine.nearest(queries, first, node, width)
        return [of_query(query, hits) for query, hits in zip(queries, answers, strict=True)]

    def _compared(self, query: Vector, limit: int, node: Node) -> list[Hit]:
        """The best by comparing the query with every record that matches: exact, slow, the last resort."""
        best = list[Hit]()
        for record in self._scan(node, with_vectors=True):
            score = float(np.clip(record.vector @ query, -1, 1))  # (dim,) @ (dim,) -> ()
            best.append(Hit(record.id, record.uri, score, record.payload))
            if len(best) > 2 * limit + _SPARE_HITS:
                best = in_order(best)[:limit]
        return in_order(best)[:limit]


class TunableStore(RemoteStore[TunableE]):
    """A store in an engine with a width, which is kept as a note for all who open the index."""

    def __init__(self, engine: TunableE) -> None:
        super().__init__(engine)
        self.widths = engine.widths
        with engine.opening():
            self._width = None if engine.reads_width else self._noted_width()

    @property
    def width(self) -> int:
        return self._noted_width() if self._width is None else self._width

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        return self._search(vectors, k, offset, parse_where(where or {}), self._width)

    def search_at(self, vectors: Vectors, k: int, width: int) -> list[list[Hit]]:
        self.engine.finish_indexing()
        return self._search(vectors, k, 0, EVERYTHING, self._checked(width))

    def set_width(self, width: int) -> None:
        self.write_notes(_WIDTH, {_WIDTH: {_WIDTH: self._checked(width)}})
        self._width = None if self.engine.reads_width else width

    def _noted_width(self) -> int:
        return int(self.notes(_WIDTH).get(_WIDTH, {}).get(_WIDTH, self.engine.untuned_width))

    def _checked(self, width: int) -> int:
        if not self.widths[0] <= width <= self.widths[-1]:
            raise errors.UsageError(
                f"the width is {width}, expected {self.widths[0]} to {self.widths[-1]}: choose one of "
                f"{', '.join(map(str, self.widths))}"
            )
        return width


def top_k(
    nearest: Callable[[int], list[Hit]],
    k: int,
    offset: int,
    *,
    node: Node,
    max_limit: int,
    compare_all: Callable[[int], list[Hit]],
) -> list[Hit]:
    """The hits from `offset` to `offset + k` of what `nearest(limit)` gives and the filter passes, ties by smaller id.

    Engines cut ties at their limit as they please. So one more than needed is asked for, and more while the last one
    ties with the last one needed; more, too, while a filter that lets too much pass leaves too few. Where even
    `max_limit` hits hold too few, `compare_all(limit)` has the last word.
    """
    needed = offset + k
    asked = limit = min(needed + 1, max_limit)
    while True:
        hits = nearest(asked)
        found = hits if node == EVERYTHING else [hit for hit in hits if matches(hit.payload, node)]
        if len(found) < limit and len(hits) >= asked:
            if asked < max_limit:
                asked = min(4 * asked, max_limit)
                continue
            found = compare_all(limit)
        best = in_order(found[:limit])
        is_cut = len(best) >= limit and limit < max_limit
        if not is_cut or best[needed - 1].score - best[-1].score > _EQUAL:
            return best[offset:needed]
        asked = limit = min(4 * limit, max_limit)


def in_order(hits: Sequence[Hit]) -> list[Hit]:
    """Hits by falling score; neighbours whose scores differ by rounding alone go by id."""
    ordered = list[Hit]()
    tied = list[Hit]()
    for hit in sorted(hits, key=lambda hit: -hit.score):
        if tied and tied[0].score - hit.score > _EQUAL:
            ordered += sorted(tied, key=lambda one: one.id)
            tied = []
        tied.append(hit)
    return ordered + sorted(tied, key=lambda one: one.id)


def retry(
    call: Callable[[], T],
    *,
    is_transient: Callable[[Exception], bool],
    what: str,
    timeout_s: float = TIMEOUT_S,
    words: Callable[[Exception], str] = errors.summary,
) -> T:
    """What the call gives; while it raises an error that `is_transient`, it is made again for up to `timeout_s`.

    Pauses double from 0.2 s to 5 s, each drawn from its upper half, so that many clients do not return at once ("full
    jitter", halved). The call must be safe to repeat. Raises `StoreUnreachable` in the end, other errors at once.
    """
    until = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise errors.StoreUnreachable(
                    f"{what} does not answer ({words(error)}) and did not for {timeout_s:.0f} s: start the "
                    "server, or check host, port and network; what was acknowledged is kept"
                ) from error
            _log.info("%s: %s; trying again", what, words(error))
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def batches(items: Iterable[T], size_of: Callable[[T], int], *, most: int, most_bytes: int) -> Iterator[list[T]]:
    """Items in lists that one request can carry: at most `most`, and `most_bytes` by `size_of`, but at least one."""
    batch, size = list[T](), 0
    for item in items:
        weight = size_of(item)
        if batch and (len(batch) == most or size + weight > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += weight
    if batch:
        yield batch


def missing_index(what: str, dim: int | None) -> int:
    """The dim of an index to be made; `StoreNotFound` if none was given and so none may be."""
    if dim is None:
        raise errors.StoreNotFound(f"there is no index at {what}: index something first, or correct the name")
    check_dim(dim)
    return dim


def check_marker(what: str, marker: Mapping[str, Any], dim: int | None, *, newest: int = 1) -> int:
    """The dim of an existing index by its marker `{"format", "dim"}`; raises for a newer format or another dim."""
    check_format(what, marker["format"], newest=newest)
    if dim not in (None, marker["dim"]):
        raise errors.DimensionMismatch(
            f"{what} holds vectors of {marker['dim']} dimensions, expected {dim}: open it with the model it was built "
            "with, or give the new index another name"
        )
    return int(marker["dim"])


def check_format(what: str, found: int, *, newest: int = 1) -> None:
    """Raise `StoreTooNew` for a format of later versions."""
    if found > newest:
        raise errors.StoreTooNew(f"{what} has the format {found}, expected at most {newest}: upgrade Sightline")


def check_reach(needed: int, most_hits: int, what: str) -> None:
    """Raise `UsageError` for more hits than an engine can give."""
    if needed > most_hits:
        raise errors.UsageError(
            f"offset + k is {needed}, expected at most {most_hits}, the most that {what} gives for one query: ask for "
            "fewer, or filter"
        )
