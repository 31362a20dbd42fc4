"""Index items: read, hash, decode and encode them with as many workers as cores, and commit in batches."""

import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import import_module
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from sightline.encoders.base import Encoder
from sightline.errors import ImageError, SourceError
from sightline.filters.dates import with_local_times
from sightline.filters.documents import dump_payload
from sightline.images.decode import LIMIT_MEGAPIXELS
from sightline.images.read import open_picture
from sightline.sources.files import refuse
from sightline.stores.base import Store
from sightline.text import count
from sightline.types import FAILURE, Failure, Item, Note, Payload, Pixels, Record, chunks, now, record_id

OF_THE_ITEM = ("name", "folders", "size_bytes", "modified", "stamp")  # a copy has its own; the rest is its content's
OF_THE_CONTENT = ("width", "height", "format", "taken", "camera", "latitude", "longitude", "sha256", "tags", "damage")

_LOOK_UP = 512  # items whose records are fetched together
_COMMIT_RECORDS = 512  # a commit costs a few fsyncs; at 60 pictures/s the time limit comes first
_COMMIT_SECONDS = 2.0  # the most finished work that a kill can lose
_WINDOW = 3  # batches in flight for each worker, so that a commit leaves no worker idle

_READERS = 64  # downloads at the same time
_READ_AHEAD = 128  # pictures that are being downloaded or wait to be encoded


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did, in pictures.

    `skipped` failed before and are unchanged, `kept` are records of vanished ones, `moved` are records of an indexed
    folder that is gone whose pictures were found in this one.
    """

    seen: int = 0
    unchanged: int = 0
    encoded: int = 0
    reused: int = 0
    failed: int = 0
    skipped: int = 0
    removed: int = 0
    moved: int = 0
    kept: int = 0
    seconds: float = 0.0
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of the source that are no pictures, by suffix."""


def notebook_line() -> Callable[[Summary], None]:
    """What shows a notebook how far a run is, in one line that is updated in place; elsewhere it shows nothing."""
    ipython = sys.modules.get("IPython")
    if not hasattr(ipython and ipython.get_ipython(), "kernel"):  # which IPython in a terminal lacks
        return lambda _: None
    handle, began = None, time.monotonic()

    def show(summary: Summary) -> None:
        nonlocal handle
        pace = f"{summary.seen / max(time.monotonic() - began, 1e-3):,.0f} a second"
        failed = f", {summary.failed:,} failed" if summary.failed else ""
        line = {"text/plain": f"{count(summary.seen, 'picture')}, {pace}{failed}"}
        if handle is None:
            handle = import_module("IPython.display").display(line, raw=True, display_id=True)
        else:
            handle.update(line, raw=True)

    return show


@dataclass(frozen=True, slots=True)
class Options:
    """How to ingest. `retry` reads pictures again that failed before; `on_progress` is called every few pictures."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    limit_megapixels: float | None = LIMIT_MEGAPIXELS
    retry: bool = False
    on_progress: Callable[[Summary], None] = field(default_factory=notebook_line)
    failed_before: Mapping[str, Note] | None = None  # the failures by URI, where they are known already


@dataclass(slots=True)
class BatchResult:
    """What became of a few items; `encoded` of the records are new vectors, the others were known content."""

    records: list[Record] = field(default_factory=list)
    failures: list[tuple[Failure, Item]] = field(default_factory=list)
    encoded: int = 0


def ingest(items: Iterable[Item], encoder: Encoder, store: Store, *, options: Options, seen: set[str]) -> Summary:
    """Bring the store up to date with the items; the ids of all items are added to `seen`.

    An item with the stamp of its record costs a look-up; one with known content (by SHA-256) takes over that vector.
    What cannot be read or decoded becomes a note. An interrupt commits what is finished and then goes on its way up.
    """
    run = Run(store, options, seen)
    pending: deque[Future[BatchResult]] = deque()
    pool = ThreadPoolExecutor(options.workers, "sightline-worker")
    try:
        for few in chunks(read_ahead(run.changed(items)), encoder.batch_size):
            pending.append(pool.submit(work, few, encoder, store, options.limit_megapixels))
            if len(pending) > _WINDOW * options.workers:
                run.take(pending.popleft().result())
        while pending:
            run.take(pending.popleft().result())
    finally:
        pool.shutdown(cancel_futures=True)
        run.finish([future.result() for future in pending if not future.cancelled() and not future.exception()])
    return run.summary


def work(items: Sequence[Item], encoder: Encoder, store: Store, limit_megapixels: float | None) -> BatchResult:
    """What a worker does with a few items: read, hash, look up, decode, encode."""
    batch = BatchResult()
    contents = [(item, data, hashlib.sha256(data).hexdigest()) for item, data in _read(items, batch)]
    known = _known(store, {sha256 for _, _, sha256 in contents})
    fresh = list[tuple[Item, Payload]]()
    pixels = list[Pixels]()
    for item, data, sha256 in contents:
        if sha256 in known:
            batch.records.append(_record(item, known[sha256].vector, known[sha256].payload))
            continue
        try:
            picture = open_picture(data, image_size=encoder.image_size, limit_megapixels=limit_megapixels)
        except ImageError as error:
            batch.failures.append((_failure(item, "decode", error), item))
            continue
        pixels.append(encoder.preprocess(picture.image))
        fresh.append((item, {**item.fallback, **picture.payload, "sha256": sha256}))
    if fresh:
        vectors = encoder.encode_images(np.stack(pixels))  # n of (3, h, w) -> (n, 3, h, w) -> (n, dim)
        batch.records += [_joined(item, vector, told) for (item, told), vector in zip(fresh, vectors, strict=True)]
    batch.encoded = len(fresh)
    return batch


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, those that wait on a network read many at once, in the order in which they come.

    At most `_READ_AHEAD` of them are held, so memory does not grow. The threads are daemons: an interrupt need not
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
            if threads < min(waiting, _READERS):
                threads += 1
                Thread(target=_read_all, args=(asked, come), daemon=True, name="sightline-read").start()
            while waiting >= _READ_AHEAD or (waiting and not come.empty()):
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


def prune(store: Store, root: str, seen: set[str]) -> tuple[int, int]:
    """Remove what lies under the root and was not seen; gives how many records were (removed, kept).

    Kept are the records of a root that offered nothing at all (a disk that is not mounted) and those in folders that
    could not be read. Failures of vanished pictures are forgotten.
    """
    failures = store.notes(FAILURE)
    unreadable = {uri for uri, note in failures.items() if note["stage"] == "read"}
    gone, kept = list[str](), 0
    for record in store.scan({"folders": root}):
        if record.id in seen:
            continue
        if not seen or unreadable.intersection(_folders(record.payload)):
            kept += 1
        else:
            gone.append(record.id)
    if seen:
        forgotten = [
            uri
            for uri, note in failures.items()
            if record_id(uri) not in seen and (uri == root or uri.startswith(f"{root}/") or root in _folders(note))
        ]
        store.write_notes(FAILURE, dict.fromkeys(forgotten))
    return store.delete(gone), kept


def drop_moved(store: Store, gone: str, root: str) -> int:
    """Remove the records of a folder that is gone whose pictures now lie under `root`; gives how many they were.

    The same picture has the same name and the same content.
    """
    moved = list[str]()
    for few in chunks(store.scan({"folders": gone}), _LOOK_UP):
        names = {str(record.payload.get("sha256")): record.payload.get("name") for record in few}
        found = store.scan({"$and": [{"sha256": {"$in": sorted(names)}}, {"folders": root}]})
        there = {(record.payload["sha256"], record.payload.get("name")) for record in found}
        moved += [record.id for record in few if (record.payload.get("sha256"), record.payload.get("name")) in there]
    return store.delete(moved)


class Run:
    """The counts and the uncommitted work of one run."""

    def __init__(self, store: Store, options: Options, seen: set[str]) -> None:
        self.summary = Summary()
        self._store, self._options, self._seen = store, options, seen
        self.failed_before = store.notes(FAILURE) if options.failed_before is None else options.failed_before
        self._records: list[Record] = []
        self._notes: dict[str, Note | None] = {}
        self._started = self._committed = time.monotonic()

    def changed(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items that are new or have another stamp than their record or their failure."""
        for few in chunks(items, _LOOK_UP):
            ids = [record_id(item.uri) for item in few]
            stamps = {record.id: record.payload.get("stamp") for record in self._store.fetch(ids)}
            for identity, item in zip(ids, few, strict=True):
                self._seen.add(identity)
                if stamps.get(identity) == item.stamp:
                    self.count(seen=1, unchanged=1)
                elif self._failed_already(item):
                    self.count(seen=1, skipped=1)
                else:
                    self.count(seen=1)
                    yield item
            self._options.on_progress(self.summary)

    def take(self, batch: BatchResult) -> None:
        """Add what a worker finished; commit when enough is waiting."""
        self._records += batch.records
        self._notes |= {record.uri: None for record in batch.records if record.uri in self.failed_before}
        for failure, item in batch.failures:
            retries = int(self.failed_before.get(item.uri, {}).get("retries", -1)) + 1
            note = {**asdict(failure), "retries": retries, "stamp": item.stamp, "folders": _folders(item.payload)}
            # What only its source knew of it: a caption, say, that a retry of the bare URI could not find again.
            known = {"payload": dump_payload(item.payload)} if item.is_slow or "#" in item.uri else {}
            self._notes[item.uri] = note | known
        self.count(encoded=batch.encoded, reused=len(batch.records) - batch.encoded, failed=len(batch.failures))
        if len(self._records) >= _COMMIT_RECORDS or time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()
        self._options.on_progress(self.summary)

    def finish(self, batches: Iterable[BatchResult]) -> None:
        """Take what is left and commit."""
        for batch in batches:
            self.take(batch)
        self.commit()

    def commit(self) -> None:
        """Make everything taken so far durable."""
        if self._records:
            self._store.upsert(self._records)
        if self._notes:
            self._store.write_notes(FAILURE, self._notes)
        self._records, self._notes, self._committed = [], {}, time.monotonic()

    def _failed_already(self, item: Item) -> bool:
        note = {} if self._options.retry else self.failed_before.get(item.uri, {})
        is_worth_another = note.get("stage") == "read" and not item.is_slow  # a dead link would cost seconds every time
        return "stamp" in note and bool(note["stamp"] == item.stamp) and not is_worth_another

    def count(self, **more: int) -> None:
        """Add to the summary."""
        counts = {name: getattr(self.summary, name) + number for name, number in more.items()}
        self.summary = replace(self.summary, **counts, seconds=time.monotonic() - self._started)


def _read(items: Sequence[Item], batch: BatchResult) -> Iterator[tuple[Item, bytes]]:
    for item in items:
        try:
            yield item, item.read()
        except (SourceError, OSError) as error:
            batch.failures.append((_failure(item, "read", error), item))
            forget_frames(error)


def _known(store: Store, hashes: set[str]) -> Mapping[str, Record]:
    """For each of the hashes a record with the same content, if there is one: of thousands of copies one is enough."""
    known = dict[str, Record]()
    for record in store.scan({"sha256": {"$in": sorted(hashes)}}) if hashes else ():
        known.setdefault(str(record.payload["sha256"]), record)
        if len(known) == len(hashes):
            break
    return known


def _record(item: Item, vector: np.ndarray, content: Payload) -> Record:
    """What a source tells of a picture (a caption, a price) is that item's own; a plain copy takes over the rest."""
    if any(name not in OF_THE_ITEM for name in item.payload):
        payload = {name: content[name] for name in OF_THE_CONTENT if name in content}
    else:
        payload = {name: value for name, value in content.items() if name not in OF_THE_ITEM}
    return _joined(item, vector, {**item.fallback, **payload})


def _joined(item: Item, vector: np.ndarray, content: Payload) -> Record:
    payload = with_local_times({**content, **item.payload, "stamp": item.stamp})
    return Record(record_id(item.uri), item.uri, vector, payload)


def _folders(payload: Mapping[str, Any]) -> list[str]:
    folders = payload.get("folders", [])
    return folders if isinstance(folders, list) else []


def _failure(item: Item, stage: str, error: Exception) -> Failure:
    return Failure(item.uri, stage, str(error), now())
