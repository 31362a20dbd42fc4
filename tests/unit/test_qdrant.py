"""What is special about the store in Qdrant: its settings, its errors, and what it asks of the server.

The server is the local one of tests/engines/qdrant.py, over real HTTP and gRPC.
"""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from tests.engines.qdrant import Problem, Server
from tests.records import plain_record, random_vector
from tests.serving import answering

from sightline.errors import (
    DimensionMismatch,
    ExtraMissing,
    StoreBusy,
    StoreError,
    StoreForbidden,
    StoreNotFound,
    StoreTooNew,
    StoreUnreachable,
    UsageError,
)
from sightline.stores.base import Droppable, Tunable, open_store
from sightline.stores.qdrant.engine import QdrantEngine
from sightline.stores.qdrant.schema import EF_CONSTRUCT, M, parse_collection
from sightline.stores.remote import TunableStore
from sightline.types import Record

DIM = 16
QdrantStore = TunableStore[QdrantEngine]
KEY = "s3cret"


@pytest.fixture(params=["grpc", "rest"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(has_grpc=request.param == "grpc")
    yield server
    server.stop()


@pytest.fixture
def rest() -> Iterator[Server]:
    server = Server(has_grpc=False)
    yield server
    server.stop()


@pytest.fixture
def store(server: Server) -> Iterator[QdrantStore]:
    store = opened(server)
    yield store
    store.close()


def opened(server: Server, options: str = "", dim: int | None = DIM) -> QdrantStore:
    store = open_store(f"{server.url}/photos?patience_s=1{options}", dim=dim)
    assert isinstance(store, TunableStore)
    return store


def other_client(server: Server) -> QdrantClient:
    return QdrantClient(host="127.0.0.1", port=server.port, check_compatibility=False)


def asked(server: Server, call: str) -> list[dict[str, Any]]:
    return [request for name, request in server.engine.seen if name == call]


def test_store_can_be_tuned_and_dropped(store: QdrantStore) -> None:
    assert isinstance(store, Tunable)
    assert isinstance(store, Droppable)


@pytest.mark.parametrize("has_grpc", [True, False])
def test_grpc_is_used_where_it_answers(has_grpc: bool) -> None:
    server = Server(has_grpc=has_grpc)
    try:
        for options, uses_grpc in [("", has_grpc), ("&grpc=false", False), (f"&grpc_port={server.port}", False)]:
            store = opened(server, options)
            assert store.engine.client is not None
            client: Any = store.engine.client._client
            assert client._prefer_grpc is uses_grpc
            store.close()
    finally:
        server.stop()


@pytest.mark.parametrize("has_grpc", [True, False])
@pytest.mark.parametrize("given", ["", ":wr%6Fng@"])
def test_wrong_key_is_forbidden_and_stays_out_of_the_message(has_grpc: bool, given: str) -> None:
    server = Server(KEY, has_grpc=has_grpc)
    try:
        with pytest.raises(StoreForbidden, match="expected a key") as caught:
            open_store(f"qdrant://{given}127.0.0.1:{server.port}/photos?patience_s=1", dim=DIM)
        assert "wrong" not in str(caught.value)
        store = open_store(f"qdrant://:{KEY}@127.0.0.1:{server.port}/photos", dim=DIM)
        assert store.count() == 0
        store.close()
    finally:
        server.stop()


def test_key_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    server = Server(KEY, has_grpc=False)
    try:
        store = opened(server, f"&key_file={tmp_path / 'key'}")
        store.close()
    finally:
        server.stop()


def test_server_that_is_away_is_named(rest: Server) -> None:
    rest.stop()
    with pytest.raises(StoreUnreachable, match=rf"127.0.0.1:{rest.port}/photos does not answer.*start the server"):
        open_store(f"{rest.url}/photos?patience_s=0", dim=DIM)
    rest.start()


def test_something_else_than_qdrant_is_named() -> None:
    from http.server import BaseHTTPRequestHandler

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: Any) -> None:
            pass

    expected = pytest.raises(StoreError, match=r"not Qdrant's.*expected a running Qdrant")
    with answering(Other) as address, expected:
        open_store(f"qdrant://{address}/photos?grpc=false&patience_s=0", dim=DIM)


def test_server_that_stays_away_ends_the_patience(server: Server, store: QdrantStore) -> None:
    store.upsert([plain_record(1, DIM)])
    server.stop()
    with pytest.raises(StoreUnreachable, match=r"does not answer \(.*refused.*\) and did not for 1 s"):
        store.search(random_vector(DIM, 1)[None], 1)
    server.start()
    assert store.count() == 1


def test_server_that_comes_back_loses_and_doubles_nothing(server: Server) -> None:
    store = opened(server, "0")  # patience_s=10
    store.upsert([plain_record(number, DIM) for number in range(10)])
    server.stop()
    back = threading.Timer(0.4, server.start)
    back.start()
    store.upsert([plain_record(number, DIM) for number in range(5, 20)])
    back.join()
    assert store.count() == 20
    store.close()


def test_passing_errors_are_tried_again(server: Server, store: QdrantStore) -> None:
    server.engine.faults += [Problem(503, "Service unavailable"), Problem(429, "Rate limiting", {"Retry-After": "1"})]
    store.upsert([plain_record(1, DIM)])
    assert store.count() == 1
    assert server.engine.faults == []


def test_collections_are_made_for_text_queries(rest: Server) -> None:
    opened(rest).close()
    notes, records = asked(rest, "create")
    assert notes["vectors"] == {}
    assert records["vectors"] == {"size": DIM, "distance": "Dot"}
    assert records["hnsw_config"] == {"m": M, "ef_construct": EF_CONSTRUCT}
    assert records["quantization_config"] == {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}}
    assert "shard_number" not in records
    kinds = {request["field_name"]: request["field_schema"]["type"] for request in asked(rest, "index")}
    assert kinds["s.sha256"] == kinds["s.folders"] == kinds["s.name"] == kinds["words"] == "keyword"
    assert (kinds["n.width"], kinds["t.taken"], kinds["named"]) == ("float", "datetime", "bool")


def test_options_of_a_cluster_reach_the_server(rest: Server) -> None:
    store = opened(
        rest,
        "&shards=6&replicas=2&write_consistency=2&on_disk=true&ordering=strong&consistency=majority&indexes=color,w:number",
    )
    notes, records = asked(rest, "create")
    assert (records["shard_number"], records["replication_factor"], records["write_consistency_factor"]) == (6, 2, 2)
    assert records["vectors"]["on_disk"] is True
    assert (notes["shard_number"], notes["replication_factor"]) == (1, 2)
    assert {"s.color", "n.w"} <= {request["field_name"] for request in asked(rest, "index")}
    store.upsert([plain_record(1, DIM)])
    store.delete([plain_record(1, DIM).id])
    list(store.scan())
    assert asked(rest, "upsert")[-1]["ordering"] == asked(rest, "remove")[-1]["ordering"] == "strong"
    assert asked(rest, "scroll")[-1]["consistency"] == asked(rest, "retrieve")[-1]["consistency"] == "majority"
    store.close()


def test_writes_wait_and_come_in_batches(server: Server, store: QdrantStore) -> None:
    server.engine.seen.clear()
    store.upsert([plain_record(number, DIM) for number in range(1000)])
    batches = asked(server, "upsert")
    assert sorted(len(batch["points"]) for batch in batches) == [232, 256, 256, 256]
    assert {batch["wait"] for batch in batches} == {"true"}
    assert store.count() == 1000
    server.engine.seen.clear()
    store.upsert([plain_record(number, DIM, caption="x" * 1_500_000) for number in range(5)])
    assert sorted(len(batch["points"]) for batch in asked(server, "upsert")) == [1, 2, 2]


def test_search_asks_for_its_width_and_ranks_again(server: Server, store: QdrantStore) -> None:
    store.upsert([plain_record(number, DIM) for number in range(30)])
    query = random_vector(DIM, 1)[None]
    store.search(query, 3)
    store.set_width(800)
    store.search(query, 3)
    store.search_at(query, 3, 400)
    params = [request["searches"][0]["params"] for request in asked(server, "query")]
    assert [one["hnsw_ef"] for one in params] == [QdrantEngine.widths[0], 800, 400]
    assert params[0]["quantization"]["rescore"] is True
    assert params[0]["quantization"]["oversampling"] == 2.0
    again = opened(server)
    assert again.width == 800
    again.close()


def test_answer_that_is_too_short_is_asked_for_again_exactly(server: Server, store: QdrantStore) -> None:
    store.upsert([plain_record(number, DIM) for number in range(5)])
    assert len(store.search(random_vector(DIM, 1)[None], 10)[0]) == 5
    first, second = asked(server, "query")
    assert "exact" not in first["searches"][0]["params"] or not first["searches"][0]["params"]["exact"]
    assert second["searches"][0]["params"]["exact"] is True


def test_many_queries_are_one_request(server: Server, store: QdrantStore) -> None:
    store.upsert([plain_record(number, DIM) for number in range(30)])
    server.engine.seen.clear()
    store.search(np.stack([random_vector(DIM, number) for number in range(20)]), 3)
    assert [len(request["searches"]) for request in asked(server, "query")] == [20]


def test_order_of_texts_still_gives_k_hits(server: Server, store: QdrantStore) -> None:
    store.upsert([plain_record(number, DIM, name=f"{number:03}") for number in range(300)])
    hits = store.search(random_vector(DIM, 1)[None], 10, {"name": {"$gte": "280"}})[0]
    assert len(hits) == 10
    assert all(hit.payload["number"] in range(280, 300) for hit in hits)
    assert store.count({"name": {"$lt": "010"}}) == 10
    assert store.count({"$not": {"name": {"$lt": "010"}}}) == 290


def test_times_at_the_ends_of_the_calendar_are_told_apart(store: QdrantStore) -> None:
    east, west = timezone(timedelta(hours=9)), timezone(timedelta(hours=-9))
    early, late = datetime.min.replace(tzinfo=east), datetime.max.replace(tzinfo=west)
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    store.upsert(
        [Record(str(at), str(at), random_vector(DIM, at), {"t": t}) for at, t in enumerate([early, first, last, late])]
    )
    assert [store.count({"t": t}) for t in (early, first, last, late)] == [1, 1, 1, 1]
    assert store.count({"t": {"$lt": first}}) == store.count({"t": {"$gt": last}}) == 1
    assert store.count({"t": {"$ne": first}}) == 3
    assert store.count({"t": {"$gt": datetime(2024, 1, 1, tzinfo=UTC)}}) == 2


def test_ids_that_are_no_uuids_keep_their_order(store: QdrantStore) -> None:
    names = ["b", "Ü", "0", plain_record(1, DIM).id, plain_record(2, DIM).id.upper(), "zz", plain_record(3, DIM).id]
    store.upsert([Record(name, name, random_vector(DIM, at), {"n": at}) for at, name in enumerate(names)])
    assert [record.id for record in store.scan()] == sorted(names)
    assert [record.id for record in store.scan({"n": {"$gte": 2}})] == sorted(names[2:])
    assert store.delete(["b", "B"]) == 1


def test_limit_of_strict_mode_is_told_in_the_servers_words(rest: Server) -> None:
    store = opened(rest)
    with closing(other_client(rest)) as client:
        client.update_collection("photos", strict_mode_config=models.StrictModeConfig(enabled=True, max_query_limit=5))
    with pytest.raises(StoreError, match=r'Limit exceeded 11 > 5 for "limit".*expected a request within'):
        store.search(random_vector(DIM, 1)[None], 10)
    store.close()


def test_strict_mode_without_exact_search_gives_what_the_graph_has(rest: Server) -> None:
    store = opened(rest)
    store.upsert([plain_record(1, DIM)])
    rules = models.StrictModeConfig(enabled=True, search_allow_exact=False)
    with closing(other_client(rest)) as client:
        client.update_collection("photos", strict_mode_config=rules)
    assert len(store.search(random_vector(DIM, 1)[None], 10)[0]) == 1
    store.close()


def test_index_that_strict_mode_wants_is_made(rest: Server) -> None:
    store = opened(rest)
    store.upsert([plain_record(1, DIM, color="red", **{"größe in px": 3})])
    rules = models.StrictModeConfig(enabled=True, unindexed_filtering_retrieve=False)
    with closing(other_client(rest)) as client:
        client.update_collection("photos", strict_mode_config=rules)
    where = {"color": "red", "größe in px": {"$gt": 2}, "sha256": {"$exists": False}, "$not": {"$match": "cat"}}
    assert store.count(where) == len(list(store.scan(where))) == 1
    assert len(store.search(random_vector(DIM, 1)[None], 1, where)[0]) == 1
    assert {"s.color", 'n."größe in px"'} <= rest.engine.indexes["photos"].keys()
    store.close()


def test_what_someone_else_made_is_left_alone(rest: Server) -> None:
    vectors = models.VectorParams(size=DIM, distance=models.Distance.DOT)
    with closing(other_client(rest)) as client:
        client.create_collection("photos", vectors_config=vectors)
        with pytest.raises(StoreError, match=r"made by someone else.*choose another name"):
            opened(rest)
        client.delete_collection("photos")
        client.create_collection("photos_notes", vectors_config=vectors)
        with pytest.raises(StoreError, match="made by someone else"):
            opened(rest)
        assert client.get_collection("photos_notes").points_count == 0


def test_changed_collection_is_refused(rest: Server) -> None:
    opened(rest).close()
    with closing(other_client(rest)) as client:
        for vectors in (
            models.VectorParams(size=DIM, distance=models.Distance.EUCLID),
            {"image": models.VectorParams(size=DIM, distance=models.Distance.DOT)},
        ):
            client.delete_collection("photos")
            client.create_collection("photos", vectors_config=vectors)
            with pytest.raises(StoreError, match="expected one vector without a name and the distance Dot"):
                opened(rest)


def test_other_dimension_is_refused(server: Server, store: QdrantStore) -> None:
    with pytest.raises(DimensionMismatch, match=f"{DIM} dimensions, expected 8"):
        opened(server, dim=8)


def test_newer_format_is_refused(rest: Server) -> None:
    opened(rest).close()
    with closing(other_client(rest)) as client:
        (marker,) = client.scroll("photos_notes")[0]
        client.upsert("photos_notes", [models.PointStruct(id=marker.id, vector={}, payload={"format": 99})])
    with pytest.raises(StoreTooNew, match="format 99"):
        opened(rest)


def test_missing_store_is_made_only_with_dim(server: Server) -> None:
    with pytest.raises(StoreNotFound, match=r"there is no index at .*photos"):
        opened(server, dim=None)
    assert asked(server, "create") == []


def test_interrupted_creation_is_completed(rest: Server) -> None:
    with closing(other_client(rest)) as client:
        client.create_collection("photos_notes", vectors_config={})
    opened(rest).close()
    with closing(other_client(rest)) as client:
        client.delete_collection("photos")
    store = opened(rest)
    assert store.count() == 0
    store.close()


def test_interrupted_drop_is_completed(rest: Server) -> None:
    store = opened(rest)
    store.upsert([plain_record(1, DIM)])
    store.write_notes("index", {"index": {"model": "old"}})
    rest.engine.later["drop"] = Problem(400, "the network is gone")
    with pytest.raises(StoreError, match="the network is gone"):
        store.drop()
    store.close()
    with pytest.raises(StoreNotFound):
        opened(rest, dim=None)
    store = opened(rest)
    assert store.notes("index") == {}
    store.drop()
    with closing(other_client(rest)) as client:
        assert not client.collection_exists("photos")
        assert not client.collection_exists("photos_notes")


def test_stores_opened_at_once_are_the_same_store(server: Server) -> None:
    stores: list[QdrantStore] = []
    threads = [threading.Thread(target=lambda: stores.append(opened(server))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 6
    stores[0].upsert([plain_record(1, DIM)])
    assert [store.count() for store in stores] == [1] * 6
    for store in stores:
        store.close()


def test_collection_that_vanishes_is_named(rest: Server) -> None:
    store = opened(rest)
    with closing(other_client(rest)) as client:
        client.delete_collection("photos")
    with pytest.raises(StoreNotFound, match="lost a collection"):
        store.count()
    store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the client leaves its lock file open
def test_folder_is_open_in_one_place_at_a_time(tmp_path: Path) -> None:
    url = f"qdrant://{tmp_path}/folder?collection=photos&patience_s=0"
    store = open_store(url, dim=DIM)
    with pytest.raises(StoreBusy, match="expected one at a time"):
        open_store(url, dim=DIM)
    gc.collect()
    store.upsert([plain_record(1, DIM)])
    store.close()
    store = open_store(url)
    assert store.count() == 1
    store.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("qdrant://host/a%2Fb", "cannot name a collection"),
        ("qdrant://host/" + "n" * 250, "at most 249 bytes"),
        ("qdrant://host/a%3Ab", "cannot name a collection"),
        ("qdrant://host/..", "cannot name a collection"),
        ("qdrant://host/photos?ordering=odd", "expected one of weak, medium, strong"),
        ("qdrant://host/photos?consistency=some", "expected one of majority, quorum, all"),
        ("qdrant://host/photos?indexes=color:colour", "kind 'colour', expected one of text, number"),
        ("qdrant://host/photos?collection=other", "names a collection twice"),
        ("qdrant://host/photos?ef=3", "unknown option 'ef'"),
        ("qdrant://host/photos?grpc=maybe", "neither true nor false"),
    ],
)
def test_url_that_cannot_be_is_refused(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_store(url, dim=DIM)


def test_url_of_the_compose_file_has_qdrants_ports() -> None:
    settings = parse_collection("qdrant://qdrant:6333/photos")
    assert (settings.address.host, settings.port, settings.grpc_port) == ("qdrant", 6333, 6334)
    assert (settings.name, settings.notes, settings.folder) == ("photos", "photos_notes", "")


def test_missing_client_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sightline.stores.qdrant.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'sightline\[qdrant\]'"):
        open_store("qdrant://host/photos")
