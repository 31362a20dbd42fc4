"""Copy an index into another store, with constant memory; an interrupted copy goes on where it stopped."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from sightline.calibration.tuning import SAME
from sightline.errors import DimensionMismatch, IndexMismatch
from sightline.index import Index
from sightline.stores.base import Store, open_store
from sightline.stores.url import StoreUrl
from sightline.types import FAILURE, Record, chunks

BATCH_RECORDS = 4096  # PostgreSQL takes 1.5 times as many records a second in 5,000s as in 1,000s
_WRITERS = 2  # one batch is written while the next is prepared; more only moves the waiting into the engine
_WAITING = 2  # batches in memory besides: 16 MB each
_KINDS = (
    "index",
    "root",
    "imported",
    FAILURE,
)  # the notes that make an index; what a store measured of itself stays behind


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did, in records: `same` were there already, `removed` were no longer in the source."""

    total: int = 0
    written: int = 0
    same: int = 0
    removed: int = 0
    seconds: float = 0.0


def copy(
    source: Index, url: str | StoreUrl, *, prune: bool = False, on_progress: Callable[[Copied], None] = lambda _: None
) -> Copied:
    """Write the records and notes of an index into the store of that URL, created where it does not exist.

    Memory stays constant; an interrupted copy goes on when it is started again. With `prune` pictures that the source
    no longer has are removed. Raises `IndexMismatch` if another model's pictures are there.
    """
    url = StoreUrl(url)
    target = open_store(url, dim=source.store.dim)
    try:
        identity, there = source.store.notes("index"), target.notes("index")
        if there and _model(there) != _model(identity):
            raise IndexMismatch(
                f"{url} was built with {_model(there)[0]!r}, not {_model(identity)[0]!r}, expected the same model: "
                "copy into a new index"
            )
        target.write_notes("index", dict(identity))
        copied = copy_records(source.store, target, prune=prune, on_progress=on_progress)
        for kind in _KINDS:
            kept, old = source.store.notes(kind), target.notes(kind)
            target.write_notes(kind, {**dict.fromkeys(old), **kept})
    finally:
        target.close()
    return copied


def copy_records(
    source: Store, target: Store, *, prune: bool = False, on_progress: Callable[[Copied], None] = lambda _: None
) -> Copied:
    """Write what the target lacks or holds otherwise; what is there already is only read.

    So an interrupted copy goes on by being started again. Raises `DimensionMismatch` and what the stores raise.
    """
    if source.dim != target.dim:
        raise DimensionMismatch(
            f"the source holds vectors of {source.dim} dimensions and the target of {target.dim}, expected the same: "
            "copy into a new index"
        )
    began = time.monotonic()
    copied = Copied(total=source.count())
    is_empty = target.count() == 0
    pending: deque[Future[tuple[int, int]]] = deque()

    def take(done: Future[tuple[int, int]]) -> None:
        nonlocal copied
        written, same = done.result()
        copied = replace(copied, written=copied.written + written, same=copied.same + same, seconds=_since(began))
        on_progress(copied)

    with ThreadPoolExecutor(_WRITERS, "sightline-copy") as pool:
        for few in chunks(source.scan(), BATCH_RECORDS):
            pending.append(pool.submit(_write, few, target, is_empty=is_empty))
            if len(pending) > _WAITING:
                take(pending.popleft())
        while pending:
            take(pending.popleft())
    removed = target.delete(list(_gone(source, target))) if prune else 0
    return replace(copied, removed=removed, seconds=_since(began))


def is_same(one: Record, other: Record) -> bool:
    """Whether two records agree in URI and payload, and in their vectors as far as engines keep them."""
    near = float(np.max(np.abs(one.vector - other.vector))) <= SAME
    return near and one.uri == other.uri and dict(one.payload) == dict(other.payload)


def _write(records: list[Record], target: Store, *, is_empty: bool) -> tuple[int, int]:
    """How many were written, and how many were there already."""
    there = {} if is_empty else {record.id: record for record in target.fetch([record.id for record in records])}
    new = [record for record in records if record.id not in there or not is_same(record, there[record.id])]
    if new:
        target.upsert(new)
    return len(new), len(records) - len(new)


def _gone(source: Store, target: Store) -> Iterator[str]:
    for few in chunks(target.scan(), BATCH_RECORDS):
        here = {record.id for record in source.fetch([record.id for record in few])}
        yield from (record.id for record in few if record.id not in here)


def _since(began: float) -> float:
    return time.monotonic() - began


def _model(notes: dict[str, dict[str, object]]) -> tuple[object, object]:
    identity = notes.get("index", {})
    return identity.get("encoder"), identity.get("pictures") or identity.get("fingerprint")
