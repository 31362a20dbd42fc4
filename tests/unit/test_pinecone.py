import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product

import numpy as np
import pytest
from tests.engines.pinecone import KEY, Meaning, Service, passes
from tests.records import plain_record, random_payload, random_vector, random_where

from sightline.errors import (
    DimensionMismatch,
    StoreError,
    StoreForbidden,
    StoreNotFound,
    StoreUnreachable,
    UsageError,
)
from sightline.filters.where import matches, parse_where
from sightline.stores.pinecone.engine import PineconeEngine, open_url
from sightline.stores.pinecone.filters import push
from sightline.stores.pinecone.schema import MOST_BYTES, MOST_ENTRIES, entries_of, fields, key_of, place
from sightline.stores.remote import RemoteStore, batches
from sightline.types import Record, record_id

DIM = 16


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.stop()


def opened(
    service: Service, options: str = "", *, dim: int | None = DIM, name: str = "photos"
) -> RemoteStore[PineconeEngine]:
    return open_url(f"{service.url}/{name}?patience_s=2{options}", dim=dim)


def ids_of(service: Service, path: str) -> list[int]:
    return [len(body["vectors"]) for _, asked, body in service.requests if asked == path and len(body["vectors"]) > 1]


@pytest.mark.parametrize(("missing", "other"), list(product((False, True), repeat=2)))
def test_pushed_filters_let_all_through_that_passes(missing: bool, other: bool) -> None:
    meaning, source = Meaning(missing, other), random.Random(1)
    exact = 0
    for _ in range(400):
        node = parse_where(random_where(source))
        pushed = push(node)
        for payload in (random_payload(source) for _ in range(20)):
            metadata = {"id": "x", **fields(payload)}
            found = pushed.filter is None or passes(metadata, pushed.filter, meaning)
            assert found or not matches(payload, node), (node, payload)
            if pushed.is_exact:
                assert found == matches(payload, node), (node, payload)
                exact += 1
    assert exact > 2000


def test_moments_that_no_double_holds_are_still_told_apart(service: Service) -> None:
    store = opened(service)
    far = datetime(9000, 1, 1, 0, 0, 0, 1, UTC)
    store.upsert([Record("near", "near", random_vector(DIM, 1), {"taken": far.replace(microsecond=0)})])
    store.upsert([Record("far", "far", random_vector(DIM, 2), {"taken": far})])
    for where, expected in (
        ({"taken": far}, ["far"]),
        ({"taken": {"$ne": far}}, ["near"]),
        ({"taken": {"$lt": far}}, ["near"]),
        ({"taken": {"$not": {"$lt": far}}}, ["far"]),
    ):
        assert [hit.id for hit in store.search(random_vector(DIM, 1)[None], 9, where)[0]] == expected
        assert store.count(where) == len(list(store.scan(where))) == 1
    store.close()


def test_keys_are_visible_ascii_in_the_order_of_the_ids() -> None:
    source = random.Random(2)
    letters = ' !"~}\x01\t\x7f\x80aZ09-éü雪🙂\uffff'
    ids = sorted({"".join(source.choices(letters, k=source.randint(1, 6))) for _ in range(3000)})
    keys = [key_of(one) for one in ids]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(ids)
    assert all(key.isascii() and key.isprintable() and " " not in key for key in keys)
    assert [place(key) for key in keys] == sorted(place(key) for key in keys)
    assert key_of(record_id("a")) == record_id("a")
    assert key_of("x" * 600) != key_of("x" * 601)
    assert len(key_of("雪" * 600)) <= 512


def test_ids_that_pinecone_refuses_are_kept(service: Service) -> None:
    store = opened(service)
    ids = ["a b", "ü🙂", "雪" * 300, "x" * 5000, "\n", "~", "&ids=1"]
    store.upsert([Record(one, one, random_vector(DIM, at)) for at, one in enumerate(ids)])
    assert [record.id for record in store.fetch(ids)] == ids
    assert [record.id for record in store.scan()] == sorted(ids)
    assert store.delete(ids) == len(ids)
    store.close()


def test_a_record_too_large_is_refused_before_anything_is_sent(service: Service) -> None:
    store = opened(service)
    before = len(service.requests)
    large = plain_record(2, DIM, caption="snow", text="é" * 11_000)
    with pytest.raises(UsageError, match=r"pictures/2\.jpg.*'text' has 22,002 bytes.*needs 44,\d{3}.*40,960.*shorten"):
        store.upsert([plain_record(1, DIM), large])
    with pytest.raises(UsageError, match=r"note 'big' of kind 'failure'.*40,960"):
        store.write_notes("failure", {"small": {}, "big": {"reason": "x" * 50_000}})
    assert len(service.requests) == before
    store.upsert([plain_record(1, DIM, text="é" * 9_000)])
    assert store.fetch([plain_record(1, DIM).id])[0].payload["text"] == "é" * 9_000
    store.close()


def test_large_upserts_are_sent_in_batches_within_the_limits(service: Service) -> None:
    store = opened(service, dim=512)
    records = [plain_record(number, 512, text="x" * 100) for number in range(500)]
    store.upsert([*records, records[0]])
    sizes = ids_of(service, "/vectors/upsert")
    assert sum(sizes) == 500
    assert 3 <= len(sizes) <= 5  # about 13 KB of each at most: some 145 in 1.9 MB
    small = entries_of([plain_record(number, 1) for number in range(2500)], np.ones((2500, 1), np.float32))
    assert [
        len(one) for one in batches(small, lambda entry: entry.most_bytes, most=MOST_ENTRIES, most_bytes=MOST_BYTES)
    ] == [1000, 1000, 500]
    assert store.count() == 500
    store.close()


def test_writes_are_seen_by_all_reads_when_they_return() -> None:
    for options in ("", "&environment=us-east1-gcp"):
        for delays in ((0.3, 0.1), (0.1, 0.3)):
            service = Service(searched_after_s=delays[0], fetched_after_s=delays[1])
            store = opened(service, options)
            record = plain_record(1, DIM)
            store.upsert([record])
            assert [hit.id for hit in store.search(record.vector[None], 1)[0]] == [record.id], (options, delays)
            assert store.fetch([record.id])[0].payload == {"number": 1}
            assert store.count({"number": 1}) == store.count() == len(list(store.scan())) == 1
            assert store.delete([record.id]) == 1
            assert store.search(record.vector[None], 1) == [[]], (options, delays)
            assert store.fetch([record.id]) == list(store.scan()) == []
            store.close()
            service.stop()


def test_waiting_for_reads_can_be_left_out_and_ends_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(searched_after_s=30.0, fetched_after_s=30.0)
    began = time.monotonic()
    store = opened(service, "&visible_s=0")
    store.upsert([plain_record(1, DIM)])
    assert store.count() == 0
    assert time.monotonic() - began < 5
    store.close()
    with caplog.at_level(logging.WARNING):
        opened(service, "&visible_s=1", name="others").close()
    assert "is kept but not seen after 1 s" in caplog.text
    service.stop()


def test_calls_are_repeated_when_the_service_is_busy(service: Service) -> None:
    store = opened(service)
    service.faults = [["/vectors/upsert", 429, 2], ["/query", 503, 2], ["/vectors/fetch", 500, 1]]
    store.upsert([plain_record(number, DIM) for number in range(3)])
    assert store.count() == 3
    assert len(store.search(random_vector(DIM, 1)[None], 5)[0]) == 3
    assert [fault[2] for fault in service.faults] == [0, 0, 0]
    service.faults = [["/vectors/delete", 503, 1]]
    assert store.delete([plain_record(number, DIM).id for number in range(2)]) == 2
    store.close()


def test_a_service_that_stays_away_is_named_after_the_patience(service: Service) -> None:
    store = opened(service)
    service.faults = [["/query", 503, 10_000]]
    began = time.monotonic()
    with pytest.raises(StoreUnreachable, match=r"pinecone://:\*\*\*@127.*photos.*did not for 2 s") as caught:
        store.search(random_vector(DIM, 1)[None], 5)
    assert 2 <= time.monotonic() - began < 15
    assert KEY not in str(caught.value)
    service.faults = []
    assert store.search(random_vector(DIM, 1)[None], 5) == [[]]
    store.close()


def test_a_server_that_is_gone_is_unreachable() -> None:
    service = Service()
    store = opened(service)
    service.stop()
    time.sleep(0.3)
    with pytest.raises(StoreUnreachable, match="does not answer"):
        store.upsert([plain_record(1, DIM)])
    store.close()
    with pytest.raises(StoreUnreachable, match="start the server, or check host"):
        opened(service)


def test_a_wrong_or_missing_key_is_forbidden(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(service).close()
    monkeypatch.delenv("PINECONE_API_KEY", raising=False)
    host = f"127.0.0.1:{service.port}"
    for who in (":wrong@", ""):
        with pytest.raises(StoreForbidden, match=r"key.*expected.*key_file") as caught:
            open_url(f"pinecone://{who}{host}/photos")
        assert "wrong" not in str(caught.value)


def test_what_is_there_and_is_not_ours_is_refused(service: Service) -> None:
    with pytest.raises(StoreNotFound, match=r"there is no index at .*photos"):
        opened(service, dim=None)
    opened(service).close()
    with pytest.raises(DimensionMismatch, match=r"16 dimensions, expected 8"):
        opened(service, dim=8)
    with pytest.raises(StoreNotFound, match=r"there is no index at .*'other'"):
        opened(service, "&namespace=other", dim=None)
    store = opened(service)
    store.engine.index.upsert(vectors=[("a", [1.0] * DIM)], namespace="theirs")
    store.close()
    with pytest.raises(StoreError, match=r"'theirs'.*did not write.*another namespace"):
        opened(service, "&namespace=theirs")


@pytest.mark.parametrize(
    "field",
    [
        {"type": "dense_vector", "dimension": DIM, "metric": "euclidean"},
        {"type": "sparse_vector"},
    ],
)
def test_an_index_made_for_something_else_is_refused(service: Service, field: dict[str, object]) -> None:
    service.create({"name": "photos", "schema": {"fields": {"_values": field}}})
    with pytest.raises(StoreError, match=r"made for something else.*expected one dense vector"):
        opened(service)


def test_an_empty_index_that_was_made_beforehand_is_used_and_stays(service: Service) -> None:
    field = {"type": "dense_vector", "dimension": DIM, "metric": "cosine"}
    service.create({"name": "photos", "schema": {"fields": {"_values": field}}})
    store = opened(service)
    store.upsert([plain_record(1, DIM)])
    assert store.count() == 1
    store.drop()
    assert "photos" in service.indexes
    with pytest.raises(StoreNotFound):
        opened(service, dim=None)


def test_dropping_one_namespace_leaves_the_others(service: Service) -> None:
    first, second = opened(service, "&namespace=first"), opened(service, "&namespace=second")
    for store in (first, second):
        store.upsert([plain_record(1, DIM)])
    first.drop()
    with pytest.raises(StoreError, match="closed"):
        first.count()
    assert second.count() == 1
    assert second.notes("store") == {"store": {"format": 1, "dim": DIM}}
    second.drop()
    assert service.indexes == {}


def test_a_protected_index_is_emptied_but_stays(service: Service) -> None:
    store = opened(service)
    service.indexes["photos"].request["deletion_protection"] = "enabled"
    with pytest.raises(StoreForbidden, match="Deletion protection"):
        store.drop()
    with pytest.raises(StoreError, match="closed"):
        store.count()


@pytest.mark.parametrize("name", ["Photos", "a_b", "-a", "a-", "a" * 46, "a/b", "ü"])
def test_names_that_pinecone_forbids_are_refused_before_it_is_asked(name: str) -> None:
    with pytest.raises(UsageError, match=r"not a valid name in Pinecone.*rename"):
        open_url(f"pinecone://:k@127.0.0.1:9/{name}", dim=DIM)
    with pytest.raises(UsageError, match=r"namespace.*rename"):
        open_url("pinecone://:k@127.0.0.1:9/photos?namespace=%C3%BC", dim=DIM)


def test_an_index_is_awaited_until_it_is_ready() -> None:
    service = Service(ready_after_s=0.5)
    store = opened(service)
    store.upsert([plain_record(1, DIM)])
    assert store.count() == 1
    store.close()
    service.stop()


def test_deployments_are_made_as_the_url_says(service: Service) -> None:
    opened(service, "&cloud=gcp&region=europe-west4").close()
    opened(service, "&environment=us-east1-gcp&pod_type=s1.x2&replicas=2", name="pods").close()
    assert service.indexes["photos"].deployment == {
        "deployment_type": "managed",
        "cloud": "gcp",
        "region": "europe-west4",
    }
    assert service.indexes["pods"].deployment == {
        "deployment_type": "pod",
        "environment": "us-east1-gcp",
        "pod_type": "s1.x2",
        "replicas": 2,
        "shards": 1,
    }


def test_many_may_open_a_new_index_at_once(service: Service) -> None:
    failures = list[BaseException]()

    def work(number: int) -> None:
        try:
            store = opened(service)
            store.upsert([plain_record(number * 10 + place, DIM) for place in range(10)])
            assert len(store.search(random_vector(DIM, 1)[None], 5)[0]) == 5
            store.close()
        except BaseException as error:  # a thread's own errors are lost
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store = opened(service, dim=None)
    assert store.count() == 60
    store.close()


def test_hits_far_down_are_found_where_the_filter_cannot_be_pushed(service: Service) -> None:
    store = opened(service, dim=2)
    angles = np.linspace(0, 3, 10_100)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)  # (n, 2)
    store.upsert(
        [
            Record(record_id(str(number)), str(number), vector, {"name": "b" if number >= 10_090 else "a"})
            for number, vector in enumerate(vectors)
        ]
    )
    hits = store.search(vectors[:1], 3, {"name": {"$gt": "a"}}, offset=1)[0]  # text is not ordered by Pinecone
    assert [hit.uri for hit in hits] == ["10091", "10092", "10093"]
    assert hits[0].score == pytest.approx(float(vectors[0] @ vectors[10_091]), abs=1e-6)
    with pytest.raises(UsageError, match=r"10001.*at most 10000"):
        store.search(vectors[:1], 1, offset=10_000)
    store.close()


@pytest.mark.parametrize("options", ["", "&environment=us-east1-gcp"])
def test_scans_of_many_go_through_all_in_order_of_id(service: Service, options: str) -> None:
    store = opened(service, options, dim=2)
    records = [plain_record(number, 2, name="b" if number % 7 else "a") for number in range(2500)]
    store.upsert(records)
    ids = [record.id for record in store.scan()]
    assert ids == sorted(record.id for record in records)
    some = [record.id for record in store.scan({"name": "a"})]
    assert some == sorted(record.id for record in records if record.payload["name"] == "a")
    store.close()


def test_a_look_up_by_content_costs_one_request(service: Service) -> None:
    store = opened(service)
    store.upsert([plain_record(number, DIM, sha256=f"{number:064x}") for number in range(300)])
    before = len(service.requests)
    assert len(list(store.scan({"sha256": {"$in": [f"{number:064x}" for number in range(8)]}}))) == 8
    assert len(service.requests) == before + 1
    store.close()


def test_large_pages_bring_their_payloads_within_the_limit_of_an_answer(service: Service) -> None:
    store = opened(service)
    store.upsert([plain_record(number, DIM, text="x" * 19_000) for number in range(150)])  # 39 KB each, 6 MB
    hits = store.search(random_vector(DIM, 1)[None], 150)[0]
    assert {len(str(hit.payload["text"])) for hit in hits} == {19_000}
    assert len(hits) == 150
    store.close()


def test_without_the_client_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["pinecone"] = None
from sightline import errors
from sightline.stores.base import open_store
try:
    open_store("pinecone://:k@localhost:1/photos")
except errors.ExtraMissing as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'sightline[pinecone]'" in answer
