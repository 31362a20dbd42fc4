"""What the store in Milvus says and does that other stores do not; without a word to the contrary in a Lite file."""

import logging
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.test_store import DIM, Pair, Plug, discard
from tests.engines import engine_url
from tests.records import plain_record, random_payload, random_vector, random_where

from sightline.calibration.tuning import exact_scores, recall
from sightline.errors import (
    DimensionMismatch,
    ExtraMissing,
    StoreError,
    StoreForbidden,
    StoreNotFound,
    StoreUnreachable,
    UsageError,
)
from sightline.filters.where import matches, parse_where
from sightline.stores.base import Tunable, open_store
from sightline.stores.milvus.engine import MilvusEngine
from sightline.stores.milvus.filters import Translator, joined
from sightline.stores.milvus.schema import parse_place
from sightline.stores.remote import TunableStore
from sightline.types import Record

pytest.importorskip("pymilvus")
MilvusStore = TunableStore[MilvusEngine]
ODD_NAMES = {
    "color": "a/b",
    "width": "x[0]",
    "ratio": "100%",
    "flag": "it's",
    "tags": "~",
    "taken": "l_tags",
    "mixed": "and",
    "größe in px": "a.b 雪 {}",
    "missing": " ",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MilvusStore]:
    store = opened(tmp_path)
    yield store
    store.close()


def opened(folder: Path, options: str = "", dim: int | None = DIM) -> MilvusStore:
    store = open_store(f"milvus:{folder}/lite.db?collection=pictures{options}", dim=dim)
    assert isinstance(store, TunableStore)
    return store


def test_a_url_names_a_server_or_a_file() -> None:
    server = parse_place("milvus://root:secret@example.org/pictures?tls=true&consistency=strong&index=ivf")
    assert (server.uri, server.token, server.collection) == ("https://example.org:443", "root:secret", "pictures")
    assert (server.consistency, server.index, server.notes) == ("Strong", "ivf", "pictures_notes")
    assert parse_place("milvus://:token@example.org:19530/pictures").token == "token"
    assert parse_place("milvus://localhost/pictures").uri == "http://localhost:19530"
    file = parse_place("milvus:///tmp/a%20b/lite.db?collection=pictures")
    assert (file.file, file.collection, file.index) == (Path("/tmp/a b/lite.db"), "pictures", "flat")
    assert parse_place("milvus:lite.db?collection=p").file == Path("lite.db")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("milvus://host/my-pictures", "'my-pictures'.*letters, digits and underscores"),
        ("milvus://host/1st", "'1st'"),
        (f"milvus://host/{'a' * 250}", "at most 249"),
        ("milvus:///tmp/x.sqlite?collection=a", "neither a server nor a file"),
        ("milvus:///tmp/x.db", "neither a server nor a file"),
        ("milvus://host/a?index=diskann", "index=diskann.*hnsw, ivf, flat"),
        ("milvus://host/a?consistency=eventual", "consistency=eventual.*strong"),
        ("milvus://host/a?colour=red", "unknown option 'colour'"),
        ("milvus://host/a?m=many", "m=many"),
    ],
)
def test_a_url_that_cannot_be_is_explained(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_place(url)


def test_no_message_shows_the_key() -> None:
    place = parse_place("milvus://root:secret@127.0.0.1:1/pictures?patience_s=0")
    with pytest.raises(StoreUnreachable) as caught:
        MilvusEngine(place, DIM)
    assert "root:***@127.0.0.1:1/pictures" in str(caught.value)
    assert "secret" not in str(caught.value) + repr(place)


def test_every_filter_is_exact_with_names_of_every_kind(store: MilvusStore) -> None:
    source = random.Random(7)
    payloads = [dict(renamed(random_payload(source))) for _ in range(40)]
    store.upsert([Record(f"{n:03}", f"u{n}", random_vector(DIM, n), payload) for n, payload in enumerate(payloads)])
    for _ in range(200):
        where = renamed(random_where(source))
        expected = [f"{n:03}" for n, payload in enumerate(payloads) if matches(payload, where)]
        assert [record.id for record in store.scan(where)] == expected, where
        assert store.count(where) == len(expected), where


def renamed(value: Any) -> Any:
    """A payload or filter with names that are hard to write in an expression."""
    if isinstance(value, dict):
        return {ODD_NAMES.get(name, name): renamed(inner) for name, inner in value.items()}
    return [renamed(inner) for inner in value] if isinstance(value, list) else value


def test_filters_look_up_what_engines_index() -> None:
    translator = Translator(has_json_in=True)
    assert translator.lookup(parse_where({"sha256": {"$in": ["a", "b"]}})) == 'sha256 in ["a", "b", "[]"]'
    assert translator.expression(parse_where({"folders": "file:///a"})) == 'array_contains_any(folders, ["file:///a"])'
    assert joined(["a", "b", "c", "d"], "or") == "((a or b) or (c or d))"


def test_what_milvus_cannot_hold_is_refused_with_the_field_and_the_limit(store: MilvusStore) -> None:
    good, vector = plain_record(1, DIM), random_vector(DIM, 2)
    for record, words in [
        (Record("x" * 65_536, "u", vector), "the id of 'u' takes 65536 bytes, expected at most 65535"),
        (Record("x", "u" * 65_536, vector), "the uri of .* takes 65536 bytes"),
        (Record("x", "u", vector, {"text": "ä" * 40_000}), "the payload of 'u' takes 80011 bytes"),
        (Record("x", "u", vector, {"tags": ["x" * 30_000]}), "takes 90.* bytes as fields to filter by"),
        (
            Record("x", "u", vector, {"folders": [str(n) for n in range(5000)]}),
            "has 5000 folders, expected at most 4096",
        ),
        (Record("x", "u", vector, {"name": " ".join(map(str, range(5000)))}), "has 5000 words"),
    ]:
        with pytest.raises(UsageError, match=words):
            store.upsert([good, record])
    with pytest.raises(UsageError, match="offset \\+ k is 16385, expected at most 16384"):
        store.search(vector[None], 385, offset=16_000)
    assert store.count() == 0
    longest = Record("x" * 65_535, "u" * 65_535, vector, {"text": "ä" * 32_000})
    store.upsert([longest])
    assert store.fetch([longest.id])[0].payload == longest.payload


def test_a_collection_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(str(tmp_path / "lite.db"), dedicated=True)
    client.create_collection("pictures", dimension=DIM)
    with pytest.raises(StoreError, match=r"'pictures'.*fields id, vector.*another collection"):
        opened(tmp_path)
    client.close()


def test_another_dim_and_a_missing_index_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match=r"no index at .*lite\.db"):
        opened(tmp_path, dim=None)
    assert not (tmp_path / "lite.db").exists()
    opened(tmp_path).close()
    with pytest.raises(DimensionMismatch, match="holds vectors of 16 dimensions, expected 32"):
        opened(tmp_path, dim=32)
    with pytest.raises(StoreNotFound, match="no index at"):
        open_store(f"milvus:{tmp_path}/lite.db?collection=others")
    (tmp_path / "other.db").mkdir()
    (tmp_path / "other.db" / "diary.txt").write_text("mine")
    with pytest.raises(StoreNotFound, match="not a file of Milvus Lite"):
        open_store(f"milvus:{tmp_path}/other.db?collection=pictures", dim=DIM)


def test_a_file_open_elsewhere_is_busy(tmp_path: Path) -> None:
    store = opened(tmp_path)
    code = f"from sightline.stores.base import open_store; open_store({store.engine.place.text!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StoreBusy" in run.stderr
    assert "open in another process" in run.stderr
    store.close()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_two_in_one_process_share_a_file(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.upsert([plain_record(1, DIM)])
    assert other.count() == 1
    one.close()
    other.upsert([plain_record(2, DIM)])
    assert other.count() == 2
    other.close()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'sightline\[milvus\]'"):
        open_store("milvus://localhost/pictures", dim=DIM)


def test_thousands_of_notes_come_back_by_key(store: MilvusStore) -> None:
    notes: dict[str, Any] = {f"file:///{n:04}": {"reason": "broken", "n": n} for n in range(1203)}
    store.write_notes("failure", notes)
    store.write_notes("failures", {"x": {}})
    assert store.notes("failure") == notes
    assert list(store.notes("failure")) == sorted(notes)


def test_many_threads_write_and_search_at_once(store: MilvusStore) -> None:
    failures = list[BaseException]()

    def work(number: int) -> None:
        try:
            for turn in range(8):
                records = [plain_record(1000 * number + n, DIM, turn=turn) for n in range(20)]
                store.upsert(records)
                assert store.search(records[0].vector[None], 1)[0][0].id == records[0].id
                assert store.count({"turn": turn, "number": {"$gte": 1000 * number, "$lt": 1000 * number + 20}}) == 20
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.count() == len(list(store.scan())) == 80


def test_the_width_is_kept_for_all_who_open_it(tmp_path: Path) -> None:
    store = opened(tmp_path, "&index=hnsw")
    assert isinstance(store, Tunable)
    store.set_width(1024)
    again = opened(tmp_path)
    assert (again.width, again.widths[0]) == (1024, 16)
    store.close()
    again.close()


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_a_filter_or_a_large_k_finds_all_there_are_at_the_smallest_width(tmp_path: Path, index: str) -> None:
    store = opened(tmp_path, f"&index={index}")
    store.upsert([plain_record(number, DIM, rare=number % 100) for number in range(2000)])
    store.engine.client.flush("pictures")
    store.set_width(store.widths[0])
    query = random_vector(DIM, 5)[None]
    assert len(store.search(query, 50, {"rare": 7})[0]) == 20
    assert len(store.search(query, 2500)[0]) == 2000
    truth = exact_scores(store, query, 10)
    assert recall(store.search_at(query, 10, store.widths[-1]), truth) == 1.0
    store.close()


def test_a_partition_key_moves_records_and_finds_lists(tmp_path: Path) -> None:
    store = opened(tmp_path, "&partition_key=album")
    records = [Record(str(n), f"u{n}", random_vector(DIM, n), {"album": f"a{n % 3}", "n": n}) for n in range(30)]
    store.upsert(records)
    store.upsert([Record("0", "u0", random_vector(DIM, 0), {"album": ["a1", "a9"]})])
    store.upsert([Record("3", "u3", random_vector(DIM, 3), {"n": 3})])
    assert store.count() == 30
    assert store.count({"album": "a0"}) == 8
    assert store.count({"album": {"$in": ["a1", "a9"]}, "$not": {"n": 4}}) == 10
    assert store.count({"album": {"$ne": "a1"}}) == 19
    assert store.engine.translator.expression(parse_where({"album": "a0"})).startswith('partition in ["a0", ""] and ')
    store.close()


@pytest.mark.timeout(300)
def test_a_server_gives_what_the_oracle_gives(tmp_path: Path) -> None:
    """A short form of the contract, which the long form runs whole against the server."""
    plug = Plug("milvus", "{engine}/{name}?index=ivf", is_durable=True, engine="milvus", tolerance=1e-6, calls=12)
    pair = Pair(plug, tmp_path, seed=11)
    for _ in range(plug.calls):
        pair.step()
    pair.upsert()
    pair.compare_everything()
    discard(pair.store, plug, tmp_path)


@pytest.mark.timeout(300)
def test_a_server_refuses_wrong_credentials() -> None:
    host = engine_url("milvus").rpartition("@")[2]
    for who in ("root:wrong@", ""):
        with pytest.raises(StoreForbidden, match="refuses the credentials"):
            open_store(f"milvus://{who}{host}/pictures?patience_s=2", dim=DIM)


@pytest.mark.timeout(300)
def test_a_partition_key_is_refused_where_replaced_records_would_be_lost() -> None:
    with pytest.raises(UsageError, match=r"newer server than Milvus v2\.3\.5"):
        open_store(f"{engine_url('milvus')}/partitioned?partition_key=album", dim=DIM)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_what_is_sealed_is_found_better_the_wider_the_search(index: str) -> None:
    url = f"{engine_url('milvus')}/sealed_{index}?index={index}&nlist=128"
    store = open_store(url, dim=64)
    assert isinstance(store, TunableStore)
    records = [plain_record(number, 64) for number in range(10_000)]
    for at in range(0, len(records), 2000):
        store.upsert(records[at : at + 2000])
    queries = np.stack([random_vector(64, -number % 2**31) for number in range(1, 31)])
    truth = exact_scores(store, queries, 10)
    recalls = [recall(store.search_at(queries, 10, width), truth) for width in (store.widths[0], store.widths[-1])]
    assert recalls[0] < 0.9 < 0.98 < recalls[1]
    assert [len(hits) for hits in store.search(queries[:3], 10, {"number": {"$lt": 5}})] == [5, 5, 5]
    store.drop()


def test_the_client_is_quiet(store: MilvusStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(StoreError):
        store.engine.query("missing", "", ["id"])
    assert [record for record in caplog.records if record.name.startswith("pymilvus")] == []
