"""Copy an index into another store, with constant memory, and verify that two hold and answer the same."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sightline.calibration.phrases import sample_pictures, sample_queries
from sightline.calibration.tuning import SAME, exact_scores, recall
from sightline.errors import DimensionMismatch, EncoderError, IndexMismatch
from sightline.index import Index
from sightline.stores.base import Store, open_store
from sightline.stores.url import StoreUrl
from sightline.types import FAILURE, Hit, Record, Vectors, chunks

BATCH_RECORDS = 4096  # PostgreSQL takes 1.5 times as many records a second in 5,000s as in 1,000s
_WRITERS = 2  # one batch is written while the next is prepared; more only moves the waiting into the engine
_WAITING = 2  # batches in memory besides: 16 MB each
_K = 10
_NAMED = 10  # URIs that are named of each fault
_KINDS = ("index", "root", "imported", FAILURE)  # make an index; what a store measured of itself stays behind
_MEASURED = ("line", "duplicates")  # what was measured of the pictures, whatever store they are in


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did, in records: `same` were there already, `removed` were no longer in the source."""

    total: int = 0
    written: int = 0
    same: int = 0
    removed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one kind of query, each 0 to 1: recall of the exact best 10 in both stores, and what they share.

    `overlap` counts a hit of the second store as shared if the first gave it or an equal score; `same_order` is the
    part of the queries that both answer with the same scores in the same order.
    """

    queries: int
    source_recall: float
    target_recall: float
    overlap: float
    same_order: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How two stores differ: counts, the number and some URIs of records that are missing, extra or different."""

    source_count: int
    target_count: int
    missing: int
    extra: int
    different: int
    named: Mapping[str, list[str]]
    answers: Mapping[str, Answers]
    has_same_line: bool = True

    @property
    def is_same(self) -> bool:
        """Whether both hold the same records, and the same line below which chance explains a hit."""
        return not (self.missing or self.extra or self.different) and self.has_same_line

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "same": self.is_same}


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
        for kind in _MEASURED:
            target.write_notes(kind, dict(source.store.notes(kind)))
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
        seconds = time.monotonic() - began
        copied = replace(copied, written=copied.written + written, same=copied.same + same, seconds=seconds)
        on_progress(copied)

    with ThreadPoolExecutor(_WRITERS, "sightline-copy") as pool:
        for few in chunks(source.scan(), BATCH_RECORDS):
            pending.append(pool.submit(_write, few, target, is_empty=is_empty))
            if len(pending) > _WAITING:
                take(pending.popleft())
        while pending:
            take(pending.popleft())
    removed = 0
    if prune:
        gone = list[str]()
        for few in chunks(target.scan(), BATCH_RECORDS):
            here = {record.id for record in source.fetch([record.id for record in few])}
            gone += (record.id for record in few if record.id not in here)
        removed = target.delete(gone)
    return replace(copied, removed=removed, seconds=time.monotonic() - began)


def is_same(one: Record, other: Record) -> bool:
    """Whether two records agree in URI and payload, and in their vectors as far as engines keep them."""
    near = float(np.max(np.abs(one.vector - other.vector))) <= SAME
    return near and one.uri == other.uri and dict(one.payload) == dict(other.payload)


def verify_index(source: Index, target: Index, *, sample: int = 200) -> Verdict:
    """Compare all records of two indexes, and their answers to `sample` text and picture queries.

    Without the model on this machine the text queries are left out.
    """
    try:
        queries = sample_queries(source.store, source.encoder, sample)
    except EncoderError:
        queries = {"image": sample_pictures(source.store, sample)}
    return verify(source.store, target.store, queries)


def verify(source: Store, target: Store, queries: Mapping[str, Vectors]) -> Verdict:
    """Compare every record, and the answers to `queries`: unit vectors (q, dim) by kind. Memory stays constant."""
    counts = {"missing": 0, "extra": 0, "different": 0}
    named: dict[str, list[str]] = {fault: [] for fault in counts}
    for fault, uri in _faults(source.scan(), target.scan()):
        counts[fault] += 1
        if len(named[fault]) < _NAMED:
            named[fault].append(uri)
    answers = {kind: _compare(source, target, vectors) for kind, vectors in queries.items() if len(vectors)}
    has_same_line = source.notes("line") == target.notes("line")
    return Verdict(source.count(), target.count(), **counts, named=named, answers=answers, has_same_line=has_same_line)


def _write(records: list[Record], target: Store, *, is_empty: bool) -> tuple[int, int]:
    """How many were written, and how many were there already."""
    there = {} if is_empty else {record.id: record for record in target.fetch([record.id for record in records])}
    new = [record for record in records if record.id not in there or not is_same(record, there[record.id])]
    if new:
        target.upsert(new)
    return len(new), len(records) - len(new)


def _model(notes: dict[str, dict[str, object]]) -> tuple[object, object]:
    identity = notes.get("index", {})
    return identity.get("encoder"), identity.get("pictures") or identity.get("fingerprint")


def _faults(ours: Iterator[Record], theirs: Iterator[Record]) -> Iterator[tuple[str, str]]:
    """What differs, from two walks in order of id."""
    one, other = next(ours, None), next(theirs, None)
    while one or other:
        if one and (not other or one.id < other.id):
            yield "missing", one.uri
            one = next(ours, None)
        elif other and (not one or other.id < one.id):
            yield "extra", other.uri
            other = next(theirs, None)
        elif one and other:
            if not is_same(one, other):
                yield "different", one.uri
            one, other = next(ours, None), next(theirs, None)


def _compare(source: Store, target: Store, queries: Vectors) -> Answers:
    truth = exact_scores(source, queries, _K)
    ours, theirs = source.search(queries, _K), target.search(queries, _K)
    pairs = list(zip(ours, theirs, strict=True))
    return Answers(
        queries=len(queries),
        source_recall=recall(ours, truth),
        target_recall=recall(theirs, truth),
        overlap=float(np.mean([_shared(one, other) for one, other in pairs])),
        same_order=float(np.mean([_is_same_order(one, other) for one, other in pairs])),
    )


def _shared(ours: list[Hit], theirs: list[Hit]) -> float:
    if not ours:
        return 1.0
    ids, least = {hit.id for hit in ours}, ours[-1].score
    return min(len(ours), sum(hit.id in ids or hit.score >= least - SAME for hit in theirs)) / len(ours)


def _is_same_order(ours: list[Hit], theirs: list[Hit]) -> bool:
    return len(ours) == len(theirs) and all(
        one.id == other.id or abs(one.score - other.score) <= SAME for one, other in zip(ours, theirs, strict=True)
    )
