"""What is special about PostgreSQL as a store; what every store does is in tests/contract."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from tests.clip_like import ClipLike
from tests.engines import engine_url
from tests.records import plain_record, random_vector

from sightline.calibration import tuning
from sightline.calibration.tuning import exact_scores, recall
from sightline.errors import (
    DimensionMismatch,
    StoreError,
    StoreForbidden,
    StoreNotFound,
    StoreTooNew,
    StoreUnreachable,
    UsageError,
)
from sightline.filters.where import parse_where
from sightline.stores.base import Droppable, Tunable, open_store
from sightline.stores.pgvector.engine import PgvectorEngine, open_url
from sightline.stores.pgvector.filters import condition_of
from sightline.stores.pgvector.schema import parse_server
from sightline.stores.remote import TunableStore
from sightline.types import Record, Value, Vectors

pytestmark = pytest.mark.skipif(
    "SIGHTLINE_TEST_PGVECTOR_URL" in os.environ, reason="these tests make roles and databases on the server"
)
DIM = 16
PgvectorStore = TunableStore[PgvectorEngine]
FEW, MANY = 2000, 6000
ENGINES = ("pgvector", "pgvector06")


@pytest.fixture
def url() -> str:
    return engine_url("pgvector")


@pytest.fixture
def table(url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a table that is not there yet and is gone afterwards."""
    name = "u" + request.node.name.removeprefix("test_")[:30].replace("[", "_").replace("]", "")
    yield f"{url}?table={name}"
    with psycopg.connect(url) as connection:
        connection.execute(f'DROP TABLE IF EXISTS "{name}", "{name}_notes"')


@pytest.fixture(scope="module", params=ENGINES)
def large(request: pytest.FixtureRequest) -> Iterator[tuple[PgvectorStore, ClipLike]]:
    """A store with so many records that it has a graph; built by closing, as the first writer does."""
    address = f"{engine_url(request.param)}?table=large&m=8&ef_construction=40&exact_below={FEW}"
    pictures = ClipLike(MANY, DIM)
    store = open_url(address, dim=DIM)
    numbers = iter(range(MANY))
    for chunk in pictures.chunks():
        store.upsert([of_number(next(numbers), vector) for vector in chunk])
    assert not has_graph(store)
    store.close()
    store = open_url(address)
    yield store, pictures
    store.drop()


def of_number(number: int, vector: Vectors) -> Record:
    payload: dict[str, Value] = {
        "half": number % 2,
        "rare": number % 100,
        "tags": [f"tag {number % 7}"],
        "name": f"IMG {number}",
    }
    return Record(f"{number:06}", f"file:///{number}", vector, payload)


def has_graph(store: PgvectorStore) -> bool:
    plan = explain(store, "SELECT id FROM {table} ORDER BY {nearness} LIMIT 1", str(random_vector(DIM, 1).tolist()))
    return "_hnsw" in plan


def explain(store: PgvectorStore, statement: str, *parameters: object) -> str:
    def read(connection: psycopg.Connection[tuple[str]]) -> str:
        with connection.transaction():
            connection.execute("SET LOCAL enable_seqscan = off")
            rows = connection.execute(store.engine.table.query(f"EXPLAIN {statement}"), parameters)
            return "\n".join(line for (line,) in rows)

    return store.engine.read(read)


def test_large_table_has_a_graph_and_finds_nearly_all(large: tuple[PgvectorStore, ClipLike]) -> None:
    store, pictures = large
    assert has_graph(store)
    for queries in (pictures.text_queries(30), pictures.image_queries(30)):
        assert recall(store.search(queries, 10), exact_scores(store, queries, 10)) > 0.97


def test_wider_search_finds_more(large: tuple[PgvectorStore, ClipLike]) -> None:
    store, pictures = large
    queries = pictures.text_queries(60)
    truth = exact_scores(store, queries, 10)
    narrow, wide = (recall(store.search_at(queries, 10, width), truth) for width in (store.widths[0], store.widths[-1]))
    assert narrow < wide
    assert wide > 0.99


def test_width_is_kept_for_all_who_have_the_table_open(large: tuple[PgvectorStore, ClipLike]) -> None:
    store, pictures = large
    assert isinstance(store, Tunable)
    other = open_url(f"{store.engine.server.name.replace('***', 'secret')}&exact_below={FEW}")
    queries = pictures.text_queries(60)
    store.set_width(1000)
    wide = other.search(queries, 10)
    store.set_width(40)
    assert other.width == 40
    assert other.search(queries, 10) == store.search_at(queries, 10, 40) != wide
    tuned = tuning.tune(store, {"text": queries})
    assert tuned.reached
    assert other.width == tuned.width > 40
    with pytest.raises(UsageError, match="width is 3, expected 40 to 1000"):
        store.set_width(3)
    other.close()


def test_filtered_search_of_a_large_table_gives_k_hits(large: tuple[PgvectorStore, ClipLike]) -> None:
    store, pictures = large
    vectors = np.concatenate(list(pictures.chunks()))
    queries = pictures.text_queries(20)
    numbers = np.arange(MANY)
    for where, passes in (
        ({"rare": 7}, numbers % 100 == 7),
        ({"half": 1}, numbers % 2 == 1),
        ({"rare": {"$gte": 5}}, numbers % 100 >= 5),
        ({"tags": {"$ne": "tag 3"}}, numbers % 7 != 3),
    ):
        rows = np.flatnonzero(passes)
        truth = -np.sort(-(queries @ vectors[rows].T), axis=1)[:, :15]
        found = store.search(queries, 10, where, offset=5)
        assert {len(hits) for hits in found} == {10}
        assert {int(hit.id) for hits in found for hit in hits} <= set(rows.tolist())
        assert recall(store.search(queries, 15, where), truth) > 0.97


def test_pages_beyond_the_reach_of_the_graph_are_exact(large: tuple[PgvectorStore, ClipLike]) -> None:
    store, pictures = large
    query = pictures.text_queries(1)
    truth = exact_scores(store, query, 3000)[0]
    hits = store.search(query, 500, offset=2500)[0]
    assert [hit.score for hit in hits] == pytest.approx(truth[2500:], abs=1e-5)


def test_scan_of_many_matches_goes_by_id(large: tuple[PgvectorStore, ClipLike]) -> None:
    store, _ = large
    names = [record.id for record in store.scan({"half": 0})]  # more than are sorted in memory
    assert names == [f"{number:06}" for number in range(0, MANY, 2)]


def test_replaced_records_are_found_in_the_graph(large: tuple[PgvectorStore, ClipLike]) -> None:
    store, _ = large
    best = plain_record(1, DIM)
    before = store.fetch(["000000"])
    store.upsert([Record("000000", "new", best.vector, {"new": True})])
    assert [hit.uri for hit in store.search(best.vector[None], 1)[0]] == ["new"]
    store.upsert(before)
    assert store.count({"new": True}) == 0


@pytest.mark.parametrize("where", [{"sha256": {"$in": ["a", "b"]}}, {"folders": "file:///a"}, {"$match": "two words"}])
def test_equalities_use_the_index(large: tuple[PgvectorStore, ClipLike], where: dict[str, object]) -> None:
    condition = condition_of(parse_where(where))
    assert "_gin" in explain(large[0], f"SELECT id FROM {{table}} WHERE {condition.sql}", *condition.parameters)


def test_writer_that_waits_for_its_model_gets_a_graph_on_the_way(table: str) -> None:
    store = open_url(f"{table}&m=4&ef_construction=16&exact_below={FEW}", dim=4)
    store.upsert([Record(f"{n:06}", str(n), random_vector(4, n)) for n in range(FEW - 100)])
    assert not has_graph_now(store)
    store.engine._began -= 1000  # as if that had taken a quarter of an hour
    store.upsert([Record(f"{n:06}", str(n), random_vector(4, n)) for n in range(FEW, FEW + 2100)])
    assert has_graph_now(store)
    store.drop()


def has_graph_now(store: PgvectorStore) -> bool:
    with psycopg.connect(engine_url("pgvector")) as connection:
        found = connection.execute("SELECT 1 FROM pg_class WHERE relname = %s", (f"{store.engine.server.table}_hnsw",))
        return found.fetchone() is not None


def test_url_gives_libpq_its_options_and_hides_the_password() -> None:
    server = parse_server("postgresql://ada:s3cret@db.example:5433/pics?table=photos&sslmode=require&patience_s=3&m=8")
    assert server.name == "postgresql://ada:***@db.example:5433/pics?table=photos"
    assert (server.table, server.options["patience_s"], server.options["m"]) == ("photos", 3, 8)
    expected = {"user": "ada", "password": "s3cret", "host": "db.example", "port": "5433", "dbname": "pics"}
    assert expected.items() <= server.connect.items()
    assert server.connect["sslmode"] == "require"
    assert "s3cret" not in repr(server)
    assert not {"table", "patience_s", "m"} & server.connect.keys()
    socket = parse_server("postgresql:///pics?host=/run/postgresql&user=ada")
    assert (socket.connect["host"], socket.connect["user"], socket.table) == ("/run/postgresql", "ada", "sightline")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("db?table=a.b", "'a.b' of .* is not a valid name, expected at most 40 letters"),
        ("db?table=" + "a" * 41, "is not a valid name"),
        ("db?tabel=a", "unknown option 'tabel', expected .*table"),
        ("db?patience_s=long", "patience_s=long .* is not a number"),
        ("", "names no index"),
    ],
)
def test_url_that_cannot_be_is_refused(rest: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_store(f"postgresql://localhost/{rest}", dim=DIM)


def test_password_behind_the_question_mark_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="key_file") as caught:
        open_store("postgresql://localhost/db?password=s3cret")
    assert "s3cret" not in str(caught.value)


def test_key_file_holds_the_password(table: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    store = open_store(f"{table.replace(':secret', '')}&key_file={tmp_path / 'key'}", dim=DIM)
    assert store.count() == 0
    store.close()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ((":secret@", ":wr0ng@"), StoreForbidden, "refuses .*password authentication failed.*expected a user"),
        (("/postgres?", "/nowhere?"), StoreNotFound, 'database "nowhere" does not exist.*createdb'),
    ],
)
def test_server_that_cannot_be_used_is_said(
    table: str, change: tuple[str, str], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        open_store(f"{table.replace(*change)}&patience_s=0", dim=DIM)
    assert "wr0ng" not in str(caught.value)


def test_absent_server_is_asked_again_until_patience_ends() -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnreachable, match=r"127.0.0.1:1/db\?table=t does not answer .*refused.* for 1 s"):
        open_store("postgresql://127.0.0.1:1/db?table=t&patience_s=1", dim=DIM)
    assert 0.9 < time.monotonic() - began < 5


def test_user_without_rights_is_told(table: str, url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'x'")
    with pytest.raises(StoreForbidden, match=r"permission denied for schema public.*grant"):
        open_store(table.replace("postgres:secret", "guest:x"), dim=DIM)
    open_store(table, dim=DIM).close()
    store = open_store(table.replace("postgres:secret", "guest:x"))
    with pytest.raises(StoreForbidden, match="permission denied for table"):
        store.count()
    store.close()
    with psycopg.connect(url) as connection:
        connection.execute("DROP ROLE guest")


def test_table_of_someone_else_is_left_alone(table: str, url: str) -> None:
    name = table.partition("=")[2]
    with psycopg.connect(url) as connection:
        connection.execute(f'CREATE TABLE "{name}" (id int)')
    with pytest.raises(StoreError, match=r"made by something else, expected .* another \?table="):
        open_store(table, dim=DIM)
    with psycopg.connect(url) as connection:
        assert connection.execute(f'SELECT count(*) FROM "{name}"').fetchone() == (0,)


def test_absent_table_other_dim_and_newer_format_are_said(table: str, url: str) -> None:
    with pytest.raises(StoreNotFound, match="there is no index at"):
        open_store(table)
    open_store(table, dim=DIM).close()
    with pytest.raises(DimensionMismatch, match=f"{DIM} dimensions, expected 8"):
        open_store(table, dim=8)
    name = table.partition("=")[2]
    with psycopg.connect(url) as connection:
        (mark,) = connection.execute("SELECT obj_description(%s::regclass)", (name,)).fetchone() or ("",)
        newer = mark.replace('"version": 1', '"version": 2')
        connection.execute(f"""COMMENT ON TABLE "{name}" IS '{newer}'""")
    with pytest.raises(StoreTooNew, match="format 2, expected at most 1: upgrade"):
        open_store(table)


def test_database_of_another_encoding_is_refused(table: str, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS latin")
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match=r"encoding LATIN1, expected UTF8: .*createdb"):
        open_store(table.replace("/postgres?", "/latin?"), dim=DIM)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP DATABASE latin")


def test_dims_beyond_the_graph_are_searched_exactly_and_beyond_the_type_refused(table: str) -> None:
    with pytest.raises(StoreError, match="dim is 16001, expected at most 16000"):
        open_store(table, dim=16_001)
    store = open_url(table, dim=4500)
    store.upsert([plain_record(number, 4500) for number in range(5)])
    assert store.search(plain_record(3, 4500).vector[None], 1)[0][0].id == plain_record(3, 4500).id
    assert not store.engine.table.can_have_graph
    store.close()


def test_id_longer_than_an_index_entry_is_refused(table: str) -> None:
    store = open_store(table, dim=DIM)
    with pytest.raises(UsageError, match="expected at most 2600 bytes"):
        store.upsert([Record("x" * 3000, "x", random_vector(DIM, 1))])
    store.write_notes("failure", {"file:///" + "x" * 10_000: {"stage": "read"}, "nul\0": {}})
    assert store.notes("failure") == {"file:///" + "x" * 10_000: {"stage": "read"}, "nul\0": {}}
    store.close()


def test_what_no_database_can_hold_is_only_not_found(table: str) -> None:
    store = open_store(table, dim=DIM)
    store.upsert([plain_record(1, DIM, color="a", name="b")])
    for where, count in (
        ({"color": "a\0"}, 0),
        ({"color": {"$ne": "a\0"}}, 1),
        ({"color": {"$lt": "a\0b"}}, 1),
        ({"color": {"$gt": "a\0b"}}, 0),
        ({"color": {"$gte": "\0"}}, 1),
        ({"a\0": 1}, 0),
        ({"\udcff": {"$exists": False}}, 1),
        ({'"': {"$gt": 1}}, 0),
        ({"color": {"$in": [str(number) for number in range(5000)] + ["a"]}}, 1),
    ):
        assert store.count(where) == count, where
    assert store.fetch(["a\0", "\udcff"]) == []
    assert store.delete(["a\0", "\udcff"]) == 0
    store.close()


def test_removed_table_is_said(table: str) -> None:
    store, other = (open_store(table, dim=DIM) for _ in range(2))
    assert isinstance(other, Droppable)
    other.drop()
    with pytest.raises(StoreNotFound, match="was removed: build the index again"):
        store.count()
    store.close()


def test_threads_that_create_write_and_read_agree(table: str) -> None:
    """More threads than connections, each with every record, in other orders: no deadlock is seen, nothing doubled."""
    faults = list[BaseException]()
    shared = open_url(f"{table}&connections=2", dim=DIM)

    def work(number: int) -> None:
        try:
            own = open_store(table, dim=DIM)
            for store in (own, shared):
                for at in range(0, 300, 50):
                    start = (at + 37 * number) % 300
                    store.upsert([plain_record(n % 300, DIM, by=number) for n in range(start, start + 50)])
                    assert store.search(random_vector(DIM, start)[None], 1)[0][0].score > 0.99
            own.close()
        except BaseException as error:
            faults.append(error)

    run_together([lambda number=number: work(number) for number in range(6)])  # type: ignore[misc]
    assert faults == []
    assert shared.count() == 300
    shared.close()


def test_stores_that_create_one_table_at_once_agree(table: str) -> None:
    faults = list[BaseException]()

    def create(number: int) -> None:
        try:
            store = open_store(table, dim=DIM)
            store.upsert([plain_record(number, DIM)])
            store.close()
        except BaseException as error:
            faults.append(error)

    run_together([lambda number=number: create(number) for number in range(8)])  # type: ignore[misc]
    assert faults == []
    store = open_store(table)
    assert store.count() == 8
    store.close()


def run_together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_unix_socket_and_size(url: str, table: str) -> None:
    with psycopg.connect(url) as connection:
        folder = connection.execute("SHOW unix_socket_directories").fetchone()
    rest = table.partition("?")[2]
    port = url.rpartition(":")[2].partition("/")[0]
    assert folder
    store = open_url(f"postgresql:///postgres?user=postgres&host={folder[0]}&port={port}&{rest}", dim=DIM)
    before = store.engine.size_bytes()
    store.upsert([plain_record(number, DIM) for number in range(500)])
    assert store.engine.size_bytes() > before > 0
    store.close()
