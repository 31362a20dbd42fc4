"""What is special about the store in Vespa, against a small server that speaks Vespa's HTTP interfaces."""

import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.vespa import Engine, read_zip
from tests.engines.vespa_schema import document_types, read_schema
from tests.models import DIM as TOWER_DIM
from tests.models import make_folder
from tests.records import plain_record, random_vector

from sightline.encoders.onnx import OnnxEncoder
from sightline.errors import (
    DimensionMismatch,
    StoreError,
    StoreForbidden,
    StoreFull,
    StoreNotFound,
    StoreUnreachable,
    UsageError,
)
from sightline.filters.where import parse_where
from sightline.stores.base import Droppable, Tunable, open_store
from sightline.stores.memory import MemoryStore
from sightline.stores.remote import TunableStore
from sightline.stores.vespa import application_package
from sightline.stores.vespa.engine import VespaEngine, open_url
from sightline.stores.vespa.filters import condition, is_exact, places, rank, value_long
from sightline.stores.vespa.package import build
from sightline.types import Record, Value

DIM = 16
VespaStore = TunableStore[VespaEngine]
MINI = Path(__file__).parents[2] / "src" / "sightline" / "encoders" / "mini"


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.stop()


@pytest.fixture
def store(engine: Engine) -> Iterator[VespaStore]:
    store = opened(engine)
    yield store
    store.close()


def opened(engine: Engine, name: str = "photos", options: str = "", dim: int | None = DIM) -> VespaStore:
    return open_url(f"{engine.url}/{name}?patience_s=3{options}", dim=dim)


def queries(engine: Engine) -> list[str]:
    """The YQL of the queries so far."""
    return [json.loads(body)["yql"] for _, path, body in engine.calls if path == "/search/"]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)))
def test_places_are_in_the_order_of_ids(names: list[str]) -> None:
    assert sorted(names, key=places) == sorted(names)
    assert all(-(2**63) < place < 2**63 for name in names for place in places(name)[0])


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_ranks_are_in_the_order_of_numbers(one: float, other: float) -> None:
    assert (rank(one) < rank(other), rank(one) == rank(other)) == (one < other, one == other)
    assert -(2**63) < rank(one) < 2**63


@given(st.datetimes(timezones=st.timezones()), st.datetimes(timezones=st.timezones()))
def test_ranks_are_in_the_order_of_moments(one: datetime, other: datetime) -> None:
    assert (rank(one) < rank(other)) == ((one - other) < timedelta(0))


def test_equal_values_of_a_kind_are_the_same_and_no_others() -> None:
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert value_long("a", 1) == value_long("a", 1.0) != value_long("a", True)
    assert value_long("a", 0.0) == value_long("a", -0.0)
    assert len({value_long("a", value) for value in ("1", 1, True, "True", noon, str(noon))}) == 6
    assert value_long("a", "b") != value_long("b", "b") != value_long("ab", "")


def test_filters_are_translated_as_written_down_here() -> None:
    one = value_long("color", "red")
    assert condition(parse_where({})) == "true"
    assert condition(parse_where({"color": "red"})) == f"tokens in ({one}L)"
    assert condition(parse_where({"color": {"$ne": "red"}})) == f"(true and !(tokens in ({one}L)))"
    assert condition(parse_where({"color": {"$in": []}})) == "false"
    assert condition(parse_where({"color": {"$nin": []}})) == "true"
    text = condition(parse_where({"width": {"$gte": 800}, "color": "red"}))
    which, amount = text.split("which = ")[1].split("L")[0], rank(800)
    assert text == f"(ordered contains sameElement(which = {which}L, amount >= {amount}L) and tokens in ({one}L))"


def test_only_the_order_of_long_texts_is_inexact() -> None:
    assert is_exact(parse_where({"$and": [{"a": {"$gt": 1}}, {"$not": {"a": {"$lt": "1234567"}}}, {"$match": "x"}]}))
    assert not is_exact(parse_where({"$or": [{"a": 1}, {"$not": {"a": {"$lt": "12345678"}}}]}))


def test_the_order_of_long_texts_is_that_of_the_oracle(store: VespaStore) -> None:
    source, oracle = random.Random(1), MemoryStore(DIM)
    texts = [start + end for start in ("2024-01-0", "2024-01-1", "2024-01", "ü" * 4) for end in ("", "1", "9:00", "é")]
    options: list[Value] = [*texts, 7, [texts[1], "z"]]
    values = [source.choice(options) for _ in range(120)]
    records = [Record(f"{n}", "", random_vector(DIM, n), {"a": value}) for n, value in enumerate(values)]
    for one in (store, oracle):
        one.upsert(records)
    for _ in range(60):
        bounds = {source.choice(["$gt", "$gte", "$lt", "$lte"]): source.choice(texts) for _ in range(2)}
        where: dict[str, Any] = {source.choice(["$not", "$and"]): {"a": bounds}}
        where = {"$and": [where["$and"]]} if "$and" in where else where
        query, k, offset = (
            random_vector(DIM, source.randint(0, 9))[None],
            source.choice([1, 5, 200]),
            source.choice([0, 3]),
        )
        found, expected = store.search(query, k, where, offset)[0], oracle.search(query, k, where, offset)[0]
        assert [hit.id for hit in found] == [hit.id for hit in expected], where
        assert store.count(where) == oracle.count(where)
        assert [record.id for record in store.scan(where)] == [record.id for record in oracle.scan(where)]


def test_any_id_and_payload_come_back(store: VespaStore) -> None:
    ids = ["a/b", "a%2Fb", "../x", "?q=1#x", "\x01\x7f\ufdd0\U0001fffe", "ü🙂", " ", "long " * 200, "=", "a:b"]
    payload: dict[str, Value] = {"text": "\x01\x1f\ufdd0\U0001fffe", "tags": ["\x02"]}
    records = [Record(name, name, random_vector(DIM, at), payload) for at, name in enumerate(ids)]
    store.upsert(records)
    assert [record.id for record in store.scan()] == sorted(ids)
    assert [record.payload for record in store.fetch(ids)] == [payload] * len(ids)
    assert store.count({"tags": "\x02"}) == store.count({"text": {"$gt": "\x01"}}) == len(ids)
    assert store.delete(ids) == len(ids)
    assert store.count() == 0


def test_vectors_come_back_bit_by_bit(store: VespaStore) -> None:
    vector = random_vector(DIM, 3)
    store.upsert([Record("a", "", vector)])
    assert store.fetch(["a"])[0].vector.tobytes() == vector.tobytes()


def test_ids_that_begin_alike_are_scanned_in_order(store: VespaStore) -> None:
    ids = [f"file:///a/very/long/folder/that/all/pictures/share/{number}.jpg" for number in range(1100)]
    store.upsert([Record(name, "", random_vector(DIM, 1)) for name in ids])
    assert [record.id for record in store.scan()] == sorted(ids)


def test_a_scan_of_many_looks_into_windows_and_misses_nothing(engine: Engine, store: VespaStore) -> None:
    records = [plain_record(number, DIM) for number in range(1500)]
    store.upsert(records)
    engine.calls.clear()
    found = [json.loads(fields["record"])[0] for fields in store.engine.pages("photos", "true", "short", page=20)]
    assert found == sorted(record.id for record in records)
    windows = [re.findall(r"range\(place0, (-?\d+)L, (-?\d+)L\)", yql)[0] for yql in queries(engine)]
    assert len(windows) < 1.5 * 1500 / 20
    widths = sorted(int(high) - int(low) for low, high in windows)
    assert widths[len(widths) // 2] < 2**64 / 4


def test_every_query_asks_for_whole_answers(engine: Engine, store: VespaStore) -> None:
    store.upsert([plain_record(1, DIM)])
    engine.calls.clear()
    store.search(random_vector(DIM, 1)[None], 1)
    list(store.scan())
    store.count()
    bodies = [json.loads(body) for _, path, body in engine.calls if path == "/search/"]
    assert len(bodies) == 3
    for body in bodies:
        assert body["ranking.softtimeout.enable"] is body["sorting.degrading"] is False
        assert (body["timeout"], body["dispatch.topKProbability"]) == ("60s", 1.0)


def test_an_answer_from_a_part_of_the_nodes_is_asked_for_again(engine: Engine, store: VespaStore) -> None:
    store.upsert([plain_record(1, DIM)])
    engine.partial = 2
    assert store.count() == 1
    engine.partial = 100
    with pytest.raises(StoreUnreachable, match="50 %"):
        opened(engine, options="&patience_s=0")


def test_width_is_what_is_explored_and_is_kept_for_all(engine: Engine, store: VespaStore) -> None:
    assert isinstance(store, Tunable)
    assert isinstance(store, Droppable)
    assert list(store.widths) == sorted(store.widths)
    assert store.widths[0] == 0
    store.upsert([plain_record(number, DIM) for number in range(5)])
    query = random_vector(DIM, 1)[None]
    assert store.search_at(query, 3, 800) == store.search(query, 3)
    assert '"hnsw.exploreAdditionalHits": 800, approximate: true' in queries(engine)[-2]
    store.set_width(1600)
    other = opened(engine, options="&exact=true", dim=None)
    assert other.width == 1600
    other.search(query, 3)
    assert '"hnsw.exploreAdditionalHits": 1600, approximate: false' in queries(engine)[-1]
    other.close()


def test_more_than_one_query_can_give_is_refused(store: VespaStore) -> None:
    with pytest.raises(UsageError, match="10000"):
        store.search(random_vector(DIM, 1)[None], 9_000, offset=1_000)


def test_an_engine_that_is_full_says_so(engine: Engine, store: VespaStore) -> None:
    engine.faults = [507]
    with pytest.raises(StoreFull, match="no room"):
        store.upsert([plain_record(1, DIM)])


def test_back_pressure_slows_and_loses_nothing(engine: Engine, store: VespaStore) -> None:
    engine.faults = [429] * 20 + [503] * 5
    store.upsert([plain_record(number, DIM) for number in range(50)])
    assert store.count() == 50


def test_a_write_that_is_refused_stops_the_others(engine: Engine, store: VespaStore) -> None:
    engine.faults = [507] * 20
    with pytest.raises(StoreFull):
        store.upsert([plain_record(number, DIM) for number in range(900)])
    assert store.count() < 800


def test_wrong_credentials_are_told_from_the_right_ones(engine: Engine, tmp_path: Path) -> None:
    opened(engine).close()
    engine.token = "secret"
    key = tmp_path / "key"
    key.write_text("wrong\n")
    with pytest.raises(StoreForbidden, match="token") as failure:
        opened(engine, options=f"&key_file={key}")
    assert "wrong" not in str(failure.value)
    key.write_text("secret\n")
    opened(engine, options=f"&key_file={key}").close()
    open_store(f"{engine.url.replace('//', '//:secret@')}/photos").close()


def test_a_server_that_is_away_is_waited_for_and_then_named(engine: Engine, store: VespaStore) -> None:
    store.upsert([plain_record(1, DIM)])
    engine.pause()
    threading.Timer(0.7, engine.resume).start()
    store.upsert([plain_record(2, DIM)])  # begun while nobody listens
    assert store.count() == 2
    engine.pause()
    started = time.monotonic()
    with pytest.raises(StoreUnreachable, match=engine.host):
        store.count()
    assert time.monotonic() - started < 10
    engine.resume()
    assert store.count() == 2
    with pytest.raises(StoreUnreachable, match="start the server"):
        open_store("vespa://127.0.0.1:9/photos?patience_s=0&config_port=9", dim=DIM)


def test_nothing_there_is_not_found(engine: Engine) -> None:
    with pytest.raises(StoreNotFound, match="index something first"):
        opened(engine, dim=None)
    opened(engine, "other").close()
    with pytest.raises(StoreNotFound, match="index something first"):
        opened(engine, dim=None)


def test_another_dim_is_a_mismatch(engine: Engine, store: VespaStore) -> None:
    with pytest.raises(DimensionMismatch, match=r"16 dimensions, expected 8"):
        opened(engine, dim=8)


@pytest.mark.parametrize("name", ["My-Photos", "1st", "photos_note", "a" * 61, "ü"])
def test_names_that_schemas_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="small letters"):
        open_store(f"vespa://127.0.0.1:9/{name}", dim=DIM)


@pytest.mark.parametrize("option", ["colour=red", "tls=maybe", "patience_s=soon", "cert=missing.pem"])
def test_options_that_cannot_be_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        open_store(f"vespa://127.0.0.1:9/photos?{option}", dim=DIM)


def test_without_the_client_the_package_is_named() -> None:
    code = "import sys; sys.modules['vespa'] = None; from sightline.stores.base import open_store; open_store('vespa://h/x')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ExtraMissing" in run.stderr
    assert "pip install 'sightline[vespa]'" in run.stderr


def test_many_openers_deploy_one_index(engine: Engine) -> None:
    stores, errors = list[VespaStore](), list[BaseException]()

    def run(number: int) -> None:
        try:
            stores.append(opened(engine, "photos" if number % 2 else "others", options="&patience_s=20"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for store in stores:
        store.upsert([plain_record(1, DIM)])
        assert store.count() == 1
        store.close()


def test_dropping_an_index_leaves_the_others(engine: Engine, store: VespaStore) -> None:
    other = opened(engine, "others")
    for one in (store, other):
        one.upsert([plain_record(1, DIM)])
    other.drop()
    assert store.count() == 1
    with pytest.raises(StoreNotFound):
        opened(engine, "others", dim=None)
    again = opened(engine, "others", dim=8)
    assert again.count() == 0
    again.drop()
    store.drop()
    assert engine.application is None
    np.testing.assert_equal(store.dim, DIM)


def test_an_application_of_somebody_else_is_left_alone(engine: Engine) -> None:
    opened(engine).close()
    assert engine.application is not None
    services = engine.application.files["services.xml"].replace(b"sightline_content", b"shop_content")
    number = engine.session({**engine.application.files, "services.xml": services})
    engine.activate(number)
    with pytest.raises(StoreError, match="somebody else made it, expected one of Sightline's or none"):
        opened(engine, "others")
    assert engine.application.generation == number


def test_schemas_of_somebody_else_are_left_alone(engine: Engine) -> None:
    files = read_zip(build("photos", 8).to_zip().getvalue())
    engine.activate(engine.session(files))
    with pytest.raises(StoreError, match="not Sightline's with 16 dimensions"):
        opened(engine)
    note = files["schemas/photos_note.sd"].replace(b"field record type string", b"field words type string")
    note = note.replace(b"summary record", b"summary words")
    engine.activate(engine.session({**files, "schemas/photos_note.sd": note}))
    with pytest.raises(StoreError, match="not Sightline's with 8 dimensions"):
        opened(engine, dim=8)


def test_a_package_that_was_deployed_by_other_means_is_used(engine: Engine, tmp_path: Path) -> None:
    folder = application_package(tmp_path / "package", "photos", DIM)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    engine.activate(engine.session(files))
    with pytest.raises(StoreNotFound):
        opened(engine, dim=None)
    deployed = len([path for method, path, _ in engine.calls if "prepareandactivate" in path])
    opened(engine).close()
    assert len([path for method, path, _ in engine.calls if "prepareandactivate" in path]) == deployed == 0
    assert opened(engine, dim=None).dim == DIM


def test_the_package_says_what_is_wanted(tmp_path: Path) -> None:
    folder = application_package(tmp_path, "photos", 512, text_model=MINI)
    schema = (folder / "schemas" / "photos.sd").read_text()
    for line in (
        "field vector type tensor<float>(x[512]) {",
        "distance-metric: angular",
        "max-links-per-node: 16",
        "neighbors-to-explore-at-insert: 500",
        "closeness(field, vector)",
    ):
        assert line in schema
    read = read_schema(schema)
    assert read.attributes["tokens"] == "array<long>"
    assert read.attributes["ordered.amount"] == "long"
    assert set(read.summaries["whole"]) == {"record", "vector"}
    services = (folder / "services.xml").read_text()
    assert document_types(services) == ["photos", "photos_note"]
    assert '<component id="photos_text" type="hugging-face-embedder">' in services
    assert (folder / "models" / "photos_text.onnx").stat().st_size == (MINI / "textual" / "model.onnx").stat().st_size
    assert '<field name="maxHits">10000</field>' in (folder / "search" / "query-profiles" / "default.xml").read_text()


def test_links_and_exploration_are_options(engine: Engine) -> None:
    opened(engine, options="&links=32&insert=200").close()
    assert engine.application is not None
    schema = engine.application.files["schemas/photos.sd"].decode()
    assert "max-links-per-node: 32" in schema
    assert "neighbors-to-explore-at-insert: 200" in schema


def test_vespa_itself_turns_words_into_vectors(engine: Engine) -> None:
    opened(engine, "others").close()
    store = opened(engine, options=f"&text_model={MINI}", dim=512)
    encoder = OnnxEncoder(MINI)
    texts = ["a red car", "Two dogs in the snow!", "the sea at night"]
    for text, vector in zip(texts, encoder.encode_texts(texts), strict=True):
        store.upsert([Record(text, text, vector, {"length": len(text)})])
    for text in texts:
        (hit, *_) = store.engine.search_text(text, 2)
        assert (hit.id, round(hit.score, 2)) == (text, 1.0)
    assert [hit.id for hit in store.engine.search_text(texts[0], 5, {"length": {"$gt": 10}}, 1)] != [texts[0]]
    with pytest.raises(UsageError, match="words"):
        store.engine.search_text("", 1)
    store.close()


def test_words_without_a_text_tower_are_refused(store: VespaStore) -> None:
    with pytest.raises(StoreError, match="find embedder"):
        store.engine.search_text("a red car", 1)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ({"text_cfg": {"no_causal_mask": True}}, "sees the padding"),
        ({"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}, "canonicalize"),
        ({"text_cfg": {}}, "lower"),
        ({"text_cfg": {"tokenizer_kwargs": {"clean": "whitespace", "strip_sep_token": True}}}, "strip_sep_token"),
        ({"text_cfg": {"tokenizer_kwargs": {"clean": "whitespace"}}}, "changes with its padding"),
        ({"textual": None}, "no text_cfg"),
    ],
)
def test_text_towers_that_vespa_cannot_run_are_refused(folder: dict[str, Any], reason: str, tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model", **folder)
    with pytest.raises(UsageError, match=f"{reason}.*leave text_model out"):
        build("photos", TOWER_DIM, text_model=model)


def test_a_text_tower_with_a_mask_is_named_by_its_inputs(tmp_path: Path) -> None:
    plain = {"tokenizer_kwargs": {"clean": "whitespace"}}
    model = make_folder(tmp_path / "model", textual="textual-with-mask", text_cfg=plain)
    services = build("photos", TOWER_DIM, text_model=model).services_to_text
    assert "<transformer-attention-mask>attention_mask</transformer-attention-mask>" in services
    assert "<transformer-token-type-ids>token_type_ids</transformer-token-type-ids>" in services


@pytest.mark.parametrize(
    "where",
    [
        "tokens like 1",
        "tokens in ()",
        "tokens in (12345678901)",
        "!(tokens in (1L))",
        "record contains sameElement(which = 1L)",
        "ordered contains sameElement(other = 1L)",
        "true order by tokens",
        "true order by rest",
        "true limit 20000",
        "(nearestNeighbor(vector, q))",
        "({targetHits: 1, other: 2}nearestNeighbor(vector, q))",
        "true and",
        "tokens in (1L); true",
    ],
)
def test_the_small_server_refuses_what_it_does_not_know(engine: Engine, store: VespaStore, where: str) -> None:
    store.engine.calls.timeout_s = 0.0
    body = {"model.restrict": "photos", "ranking.profile": "unranked", "presentation.summary": "short"}
    with pytest.raises(StoreError, match="refused a call"):
        store.engine._query({"yql": f"select * from sources * where {where}", **body})
