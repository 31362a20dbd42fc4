"""What every store keeps to; a new store is one more line in PLUGS."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines import engine_url
from tests.records import lattice_vector, plain_record, random_payload, random_vector, random_where

from sightline.errors import DimensionMismatch, StoreError, UsageError, WhereError
from sightline.stores.base import OPENERS, Droppable, Store, open_store
from sightline.stores.memory import MemoryStore
from sightline.types import Hit, Record, Value, Vectors, record_id

DIM = 16
OPENERS["sqlite"] = "examples.sqlite_store:open_url"  # as an entry point of another package would


@dataclass(frozen=True)
class Plug:
    """A store to test. `tolerance` is how far its scores may be from the oracle's: engines add up in another order.

    `engine` names a module of tests/engines, whose server's URL stands for {engine} in `url`; `calls` is the length of
    a random run. One that `is_slow` runs with --slow only.
    """

    name: str
    url: str
    is_durable: bool
    engine: str = ""
    tolerance: float = 0.0
    calls: int = 150
    is_slow: bool = False

    def url_at(self, folder: Path) -> str:
        name = "t" + hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        return self.url.format(folder=folder, engine=engine_url(self.engine) if self.engine else "", name=name)

    def open(self, folder: Path) -> Store:
        return open_store(self.url_at(folder), dim=DIM)


PLUGS = [
    Plug("memory", "memory:", is_durable=False),
    Plug("local", "{folder}/contract.index", is_durable=True),
    Plug("qdrant local", "{engine}/{name}", is_durable=True, engine="qdrant_local", tolerance=1e-6, calls=25),
    Plug("qdrant rest", "{engine}/{name}?grpc=false", is_durable=True, engine="qdrant", tolerance=1e-6, calls=20),
    Plug("qdrant grpc", "{engine}/{name}", is_durable=True, engine="qdrant", tolerance=1e-6, calls=30),
    Plug("qdrant edge", "{engine}/{name}", is_durable=True, engine="qdrant_edge", tolerance=1e-6, calls=30),
    Plug("example of the docs", "sqlite:{folder}/example.db", is_durable=True, tolerance=1e-6, calls=60),
    Plug(
        "pgvector",
        "{engine}?table={name}&exact_below=10",
        is_durable=True,
        engine="pgvector",
        tolerance=1e-6,
        calls=80,
    ),
    Plug("pgvector 0.6", "{engine}?table={name}", is_durable=True, engine="pgvector06", tolerance=1e-6, calls=50),
    Plug("milvus lite", "milvus:{folder}/lite.db?collection={name}", is_durable=True, tolerance=1e-6, calls=60),
    Plug("milvus", "{engine}/{name}", is_durable=True, engine="milvus", tolerance=1e-6, calls=40, is_slow=True),
    Plug("pinecone", "{engine}/{name}", is_durable=True, engine="pinecone", tolerance=1e-6, calls=45),
    Plug(
        "pinecone pods",
        "{engine}/{name}?environment=us-east1-gcp",
        is_durable=True,
        engine="pinecone_pods",
        tolerance=1e-6,
        calls=20,
    ),
    Plug("vespa", "{engine}/{name}?patience_s=20", is_durable=True, engine="vespa", tolerance=1e-6, calls=80),
]
PARAMETERS = [pytest.param(plug, id=plug.name, marks=[pytest.mark.slow] * plug.is_slow) for plug in PLUGS]
every_plug = pytest.mark.parametrize("plug", PARAMETERS)
durable_plug = pytest.mark.parametrize(
    "plug", [one for one, plug in zip(PARAMETERS, PLUGS, strict=True) if plug.is_durable]
)


@pytest.fixture(params=PARAMETERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = request.param.open(tmp_path)
    yield store
    discard(store, request.param, tmp_path)


@every_plug
@pytest.mark.parametrize("seed", range(4))
def test_random_calls_give_what_the_oracle_gives(plug: Plug, seed: int, tmp_path: Path) -> None:
    pair = Pair(plug, tmp_path, seed)
    for _ in range(plug.calls):
        pair.step()
    pair.compare_everything()
    discard(pair.store, plug, tmp_path)


class Pair:
    """A store and the oracle, driven by the same random calls."""

    def __init__(self, plug: Plug, folder: Path, seed: int) -> None:
        self.plug, self.folder = plug, folder
        self.store, self.oracle = plug.open(folder), MemoryStore(DIM)
        self.source = random.Random(seed)
        self.ids = [record_id(str(number)) for number in range(60)]

    def step(self) -> None:
        calls = [self.upsert, self.upsert, self.delete, self.search, self.search, self.search, self.read, self.note]
        self.source.choice([*calls, self.reopen] if self.plug.is_durable else calls)()

    def upsert(self) -> None:
        names = self.source.sample(self.ids, self.source.randint(0, 12))
        names += names[:1]  # the last of two with the same id counts
        records = [
            Record(name, f"file:///{name}?{self.source.random()}", self.vector(), random_payload(self.source))
            for name in names
        ]
        self.store.upsert(records)
        self.oracle.upsert(records)

    def delete(self) -> None:
        names = [*self.source.choices(self.ids, k=self.source.randint(0, 5)), "unknown"]
        assert self.store.delete(names) == self.oracle.delete(names)

    def search(self) -> None:
        queries = np.stack([self.vector() for _ in range(self.source.choice([1, 1, 3]))])
        k, offset = self.source.choice([1, 3, 10, 100]), self.source.choice([0, 0, 1, 7, 80])
        where = random_where(self.source) if self.source.random() < 0.7 else None
        found = self.store.search(queries, k, where, offset)
        expected = self.oracle.search(queries, k, where, offset)
        assert same(found, expected, self.plug.tolerance), where

    def read(self) -> None:
        names = [*self.source.choices(self.ids, k=5), "unknown"]
        assert plain(self.store.fetch(names)) == plain(self.oracle.fetch(names))
        where = random_where(self.source)
        assert plain(list(self.store.scan(where))) == plain(list(self.oracle.scan(where))), where
        assert self.store.count(where) == self.oracle.count(where), where

    def note(self) -> None:
        kind, name = self.source.choice("ab"), self.source.choice("xyz")
        note = self.source.choice([None, {"n": self.source.random(), "text": "ä\0"}])
        for store in (self.store, self.oracle):
            store.write_notes(kind, {name: note})
        assert self.store.notes(kind) == self.oracle.notes(kind)

    def reopen(self) -> None:
        self.store.close()
        self.store = self.plug.open(self.folder)

    def compare_everything(self) -> None:
        assert plain(list(self.store.scan())) == plain(list(self.oracle.scan()))
        assert self.store.count() == self.oracle.count() > 0
        for _ in range(self.plug.calls * 2 // 3):
            self.search()
            self.read()

    def vector(self) -> Any:
        return lattice_vector(DIM, self.source)


def same(found: list[list[Hit]], expected: list[list[Hit]], tolerance: float) -> bool:
    """Whether the hits are the same in the same order, with scores that differ by the tolerance at most.

    The oracle's vectors lie on a lattice: scores of different hits are equal or far apart.
    """
    if not tolerance:
        return found == expected
    rounded = [[replace(hit, score=0.0) for hit in hits] for hits in found]
    if rounded != [[replace(hit, score=0.0) for hit in hits] for hits in expected]:
        return False
    pairs = [pair for one, other in zip(found, expected, strict=True) for pair in zip(one, other, strict=True)]
    return all(abs(one.score - other.score) <= tolerance for one, other in pairs)


def discard(store: Store, plug: Plug, folder: Path) -> None:
    """Close a store; one on a server, which may outlive the test, is removed."""
    store.close()
    if plug.engine:
        again = plug.open(folder)
        assert isinstance(again, Droppable)
        again.drop()


def plain(records: Sequence[Record]) -> list[tuple[str, str, list[float], Any]]:
    return [(record.id, record.uri, record.vector.tolist(), record.payload) for record in records]


def test_empty_store_finds_nothing(store: Store) -> None:
    assert store.search(query(0), 10) == [[]]
    assert store.search(query(0), 10, {"number": 1}) == [[]]
    assert store.count() == 0
    assert list(store.scan()) == []
    assert store.fetch(["a"]) == []
    assert store.delete(["a"]) == 0
    assert store.notes("index") == {}


def test_hits_carry_score_uri_and_payload_best_first(store: Store) -> None:
    records = [plain_record(number, DIM) for number in range(50)]
    store.upsert(records)
    hits = store.search(query(7), 50)[0]
    assert hits[0].id == records[7].id
    assert hits[0].uri == "file:///pictures/7.jpg"
    assert hits[0].payload == {"number": 7}
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)
    cosines = {record.id: float(record.vector @ records[7].vector) for record in records}
    assert [hit.score for hit in hits] == pytest.approx([cosines[hit.id] for hit in hits], abs=1e-3)
    assert scores_fall(hits)
    assert {hit.id for hit in hits} == set(cosines)


def test_scores_stay_between_minus_one_and_one(store: Store) -> None:
    records = [plain_record(number, DIM) for number in range(20)]
    store.upsert(records + [replace(records[0], id=f"opposite {n}", vector=-records[n].vector) for n in range(20)])
    for record in records:
        hits = store.search(record.vector[None], 40)[0]
        assert -1 <= hits[-1].score < hits[0].score <= 1


def test_k_larger_than_the_store_gives_all(store: Store) -> None:
    store.upsert([plain_record(number, DIM) for number in range(5)])
    assert len(store.search(query(0), 1000)[0]) == 5
    assert store.search(query(0), 1000, offset=5) == [[]]


def test_pages_join_to_the_whole_list(store: Store) -> None:
    store.upsert([plain_record(number, DIM) for number in range(40)])
    whole = store.search(query(3), 40)[0]
    pages = [store.search(query(3), 7, offset=offset)[0] for offset in range(0, 42, 7)]
    assert [hit for page in pages for hit in page] == whole


def test_ties_go_to_the_smaller_id_across_pages(store: Store) -> None:
    names = [record_id(str(number)) for number in range(300)]
    store.upsert([Record(name, name, random_vector(DIM, 1), {"n": 1}) for name in names])
    store.upsert([Record("0 better", "0", random_vector(DIM, 2), {})])
    found = store.search(query(1), 10, offset=20)[0]
    assert [hit.id for hit in found] == sorted(names)[20:30]
    assert len({hit.score for hit in found}) == 1
    assert [hit.id for hit in store.search(query(1), 10, {"n": 1}, 290)[0]] == sorted(names)[290:]


def test_many_queries_give_what_each_gives_alone(store: Store) -> None:
    store.upsert([plain_record(number, DIM) for number in range(50)])
    queries = np.concatenate([query(number) for number in range(9)])
    alone = [store.search(query(number), 5)[0] for number in range(9)]
    assert same(store.search(queries, 5), alone, tolerance=1e-6)  # engines add up in another order for many queries
    assert store.search(queries[:0], 5) == []


def test_upsert_replaces_vector_uri_and_payload(store: Store) -> None:
    record = plain_record(1, DIM, caption="old words")
    store.upsert([record, plain_record(2, DIM)])
    store.upsert([Record(record.id, "new", random_vector(DIM, 9), {"color": "red", "caption": "new words"})])
    assert store.count() == 2
    assert store.count({"number": 1}) == store.count({"$match": "old"}) == 0
    assert store.count({"$match": "new words"}) == 1
    best = store.search(query(9), 1)[0][0]
    assert (best.id, best.uri, best.payload) == (record.id, "new", {"color": "red", "caption": "new words"})
    assert best.score == pytest.approx(1.0, abs=1e-3)


def test_deleted_records_are_found_no_more(store: Store) -> None:
    records = [plain_record(number, DIM, caption="word") for number in range(10)]
    store.upsert(records)
    assert store.delete([records[3].id, records[3].id, "unknown", records[4].id]) == 2
    assert store.count() == store.count({"$match": "word"}) == len(list(store.scan())) == 8
    assert records[3].id not in {hit.id for hit in store.search(query(3), 10)[0]}
    assert store.fetch([records[3].id]) == []


def test_fetch_keeps_the_order_asked(store: Store) -> None:
    records = [plain_record(number, DIM) for number in range(10)]
    store.upsert(records)
    asked = [records[7].id, "unknown", records[2].id, records[7].id]
    found = store.fetch(asked)
    assert [record.uri for record in found] == [records[7].uri, records[2].uri, records[7].uri]
    assert np.allclose(found[1].vector, records[2].vector, atol=1e-3)


def test_scan_goes_by_id_and_endures_writes(store: Store) -> None:
    records = [plain_record(number, DIM) for number in range(1200)]
    store.upsert(records)
    names = list[str]()
    for record in store.scan():
        if not names:
            store.delete([max(other.id for other in records)])
            store.upsert([plain_record(5000, DIM)])
        names.append(record.id)
    assert names == sorted(names)
    kept = {record.id for record in records} - {max(other.id for other in records)}
    assert kept <= set(names)


def test_payloads_come_back_as_they_were(store: Store) -> None:
    payload: dict[str, Value] = {
        "text": 'ümläut 🙂 "quoted" \\ \n',
        "empty": "",
        "number": 2**53 - 1,
        "negative": -1,
        "ratio": 0.1,
        "whole": 2.0,
        "yes": True,
        "tags": ["a", "ü", ""],
        "none": [],
        "taken": datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    }
    store.upsert([Record("ü🙂", "file:///ü 🙂", random_vector(DIM, 1), payload)])
    (record,) = store.fetch(["ü🙂"])
    assert record.uri == "file:///ü 🙂"
    assert record.payload == payload
    assert list(record.payload) == list(payload)
    assert {name: type(value) for name, value in record.payload.items()} == {n: type(v) for n, v in payload.items()}


def test_notes_are_kept_by_kind_and_key(store: Store) -> None:
    store.write_notes("failures", {"ü": {"reason": "broken", "retries": 1}, "b": {}})
    store.write_notes("index", {"ü": {"model": "mini"}})
    assert store.notes("failures") == {"ü": {"reason": "broken", "retries": 1}, "b": {}}
    store.write_notes("failures", {"ü": None, "c": {"list": [1, None]}, "unknown": None})
    assert store.notes("failures") == {"b": {}, "c": {"list": [1, None]}}
    assert store.notes("index") == {"ü": {"model": "mini"}}


def test_what_cannot_be_kept_is_refused_and_nothing_is_written(store: Store) -> None:
    good = plain_record(1, DIM)
    vector = random_vector(DIM, 2)
    faulty: list[dict[Any, Any]] = [
        {"a": {}},
        {"a": None},
        {"a": float("nan")},
        {"a": float("-inf")},
        {"a": 2**53},
        {"a": [1]},
        {"a": "\udcff"},
        {"a": ["\udcff"]},
        {"$a": 1},
        {'a"': 1},
        {"": 1},
        {1: 1},
    ]
    for payload in faulty:
        with pytest.raises(UsageError, match="expected"):
            store.upsert([good, Record("x", "x", vector, payload)])
    with pytest.raises(UsageError, match=r"'taken'.*datetime.datetime\(2024.*time zone"):
        store.upsert([good, Record("x", "x", vector, {"taken": datetime(2024, 1, 1)})])
    with pytest.raises(UsageError, match="norm"):
        store.upsert([good, Record("x", "x", 2 * vector)])
    with pytest.raises(UsageError, match="norm"):
        store.upsert([good, Record("x", "x", vector * np.float32("nan"))])
    with pytest.raises(DimensionMismatch, match=str(DIM)):
        store.upsert([good, Record("x", "x", vector[:3])])
    with pytest.raises(UsageError, match="id"):
        store.upsert([good, Record("", "x", vector)])
    with pytest.raises(UsageError, match="Unicode"):
        store.upsert([good, Record("x", "file:///\udcff", vector)])
    assert store.count() == 0


def test_what_cannot_be_asked_is_refused(store: Store) -> None:
    store.upsert([plain_record(1, DIM)])
    with pytest.raises(UsageError, match="k is 0"):
        store.search(query(1), 0)
    with pytest.raises(UsageError, match="offset is -1"):
        store.search(query(1), 1, offset=-1)
    with pytest.raises(DimensionMismatch, match="3 dimensions"):
        store.search(query(1)[:, :3], 1)
    with pytest.raises(UsageError, match="first axis"):
        store.search(query(1)[0], 1)
    with pytest.raises(UsageError, match="finite"):
        store.search(query(1) * np.float32("inf"), 1)
    with pytest.raises(WhereError, match=r"\$gte"):
        store.search(query(1), 1, {"width": {"$get": 1}})
    with pytest.raises(WhereError, match=r"\$gte"):
        store.scan({"width": {"$get": 1}})
    with pytest.raises(WhereError, match=r"\$gte"):
        store.count({"width": {"$get": 1}})


def test_closed_store_says_so(store: Store) -> None:
    store.upsert([plain_record(1, DIM)])
    store.close()
    store.close()
    for call in (
        lambda: store.search(query(1), 1),
        lambda: store.upsert([plain_record(2, DIM)]),
        lambda: store.delete(["a"]),
        lambda: store.fetch(["a"]),
        lambda: list(store.scan()),
        lambda: store.count(),
        lambda: store.notes("a"),
        lambda: store.write_notes("a", {}),
    ):
        with pytest.raises(StoreError, match="closed"):
            call()


@durable_plug
def test_what_was_written_is_there_after_reopening(plug: Plug, tmp_path: Path) -> None:
    store = plug.open(tmp_path)
    store.upsert([plain_record(number, DIM, caption="snow") for number in range(20)])
    store.delete([plain_record(3, DIM).id])
    store.write_notes("index", {"identity": {"model": "mini"}})
    before = store.search(query(1), 30, {"$match": "snow"})
    store.close()
    store = open_store(plug.url_at(tmp_path))
    assert store.dim == DIM
    assert store.search(query(1), 30, {"$match": "snow"}) == before
    assert len(before[0]) == store.count() == 19
    assert store.notes("index") == {"identity": {"model": "mini"}}
    discard(store, plug, tmp_path)


def query(number: int) -> Vectors:
    """(1, dim), the vector of `plain_record` of that number."""
    return random_vector(DIM, number)[None]


def scores_fall(hits: Sequence[Hit]) -> bool:
    return all(first.score >= second.score for first, second in pairwise(hits))
