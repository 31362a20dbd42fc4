"""Many processes at one index: readers see whole commits only, writers take turns."""

import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
from tests.records import plain_record, random_vector

from sightline.errors import StoreBusy, StoreError
from sightline.filters.where import parse_where
from sightline.stores.local.database import read_state
from sightline.stores.local.store import LocalStore
from sightline.stores.local.views import Stale, passing
from sightline.types import Record

DIM, COUNT = 16, 200
CONTEXT = multiprocessing.get_context("spawn")


def test_readers_see_whole_commits_while_two_writers_write(tmp_path: Path) -> None:
    """One process replaces every record again and again, one adds and deletes others; compactions come often."""
    folder = tmp_path / "busy.index"
    store = LocalStore(folder, DIM)
    store.upsert(of_round(0))
    stop = CONTEXT.Event()
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(3)]
    readers = [CONTEXT.Process(target=read, args=(folder, stop, sending)) for _, sending in pipes]
    writers = [CONTEXT.Process(target=target, args=(folder, stop)) for target in (replace_all, add_and_delete)]
    for process in (*readers, *writers):
        process.start()
    for receiving, _ in pipes:
        assert receiving.poll(60)
        assert receiving.recv() == "ready"
    time.sleep(3)
    stop.set()
    results = [receiving.recv() for receiving, _ in pipes if receiving.poll(30)]
    for process in (*readers, *writers):
        process.join(30)
        assert process.exitcode == 0
    assert len(results) == 3
    for faults, searches, rounds in results:
        assert faults == []
        assert searches > 20
        assert rounds > 3
    assert store.verify() == []
    assert not (folder / "vectors-0.int8").exists()
    store.close()


def of_round(number: int) -> list[Record]:
    """The records whose vectors tell their round, so that a vector of another round than its payload is seen."""
    return [
        Record(f"all {n}", str(n), random_vector(DIM, 1000 * number + n), {"round": number, "n": n})
        for n in range(COUNT)
    ]


def replace_all(folder: Path, stop: Event) -> None:
    store = LocalStore(folder)
    number = 0
    while not stop.is_set():
        number += 1
        store.upsert(of_round(number))
    store.close()


def add_and_delete(folder: Path, stop: Event) -> None:
    store = LocalStore(folder)
    others = [plain_record(number, DIM) for number in range(300)]
    while not stop.is_set():
        store.upsert(others)
        assert store.delete([record.id for record in others]) == 300
    store.close()


def read(folder: Path, stop: Event, sending: Connection) -> None:
    """Search in two threads; sends what was wrong, how many searches and how many rounds were seen."""
    store = LocalStore(folder)
    sending.send("ready")
    faults, searches, rounds = list[str](), list[int](), set[object]()

    def search() -> None:
        while not stop.is_set():
            query = random_vector(DIM, len(searches))
            hits = store.search(query[None], COUNT, {"round": {"$gte": 0}})[0]
            searches.append(1)
            seen = {hit.payload["round"] for hit in hits}
            rounds.update(seen)
            if len(hits) != COUNT or len(seen) != 1:
                faults.append(f"{len(hits)} hits of the rounds {seen}")
            for hit in hits[:3]:
                vector = random_vector(DIM, 1000 * int(str(hit.payload["round"])) + int(str(hit.payload["n"])))
                if abs(float(np.dot(vector, query)) - hit.score) > 1e-5:
                    faults.append(f"{hit} has another vector")

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    sending.send((faults, len(searches), len(rounds)))


def test_processes_that_create_one_index_at_once_agree(tmp_path: Path) -> None:
    processes = [CONTEXT.Process(target=create, args=(tmp_path / "new.index", number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    store = LocalStore(tmp_path / "new.index")
    assert store.count() == 40
    assert store.verify() == []
    store.close()


def create(folder: Path, number: int) -> None:
    store = LocalStore(folder, DIM)
    store.upsert([plain_record(10 * number + n, DIM) for n in range(10)])
    store.close()


def test_second_writer_waits_or_says_who_writes(tmp_path: Path) -> None:
    first = LocalStore(tmp_path / "busy.index", DIM)
    second = LocalStore(tmp_path / "busy.index", timeout_s=0.3)
    with first._database.writing():  # a commit that takes long
        began = time.perf_counter()
        with pytest.raises(StoreBusy, match=rf"written by process {os.getpid()} on \S+ since \d{{4}}-.*: wait until"):
            second.upsert([plain_record(1, DIM)])
        assert 0.2 < time.perf_counter() - began < 5
        assert second.count() == 0  # readers do not wait
    second.upsert([plain_record(1, DIM)])
    assert first.count() == 1
    first.close()
    second.close()


def test_filter_that_another_thread_built_later_is_not_used(tmp_path: Path) -> None:
    """Its column misses the records that this transaction still sees."""
    store = LocalStore(tmp_path / "shared.index", DIM)
    store.upsert(of_round(0))
    with store._database.reading() as connection:
        view = store._views.of(connection)
        store.upsert(of_round(1))
        assert store.count({"round": 1}) == COUNT
        with pytest.raises(Stale):
            passing(connection, view, parse_where({"round": 0}))
    store.close()


def test_transaction_older_than_the_view_begins_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "shared.index", DIM)
    store.upsert(of_round(0))
    with store._database.reading() as connection:
        read_state(connection)
        store.upsert(of_round(1))
        assert store.count() == COUNT
        with pytest.raises(Stale):
            store._views.of(connection)
    store.close()


def test_threads_may_share_a_store(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "shared.index", DIM)
    faults = list[BaseException]()

    def work(start: int) -> None:
        try:
            for number in range(start, start + 20):
                store.upsert([plain_record(number, DIM)])
                hit = store.search(random_vector(DIM, number)[None], 1, {"number": {"$gte": start}})[0][0]
                assert hit.payload["number"] == number
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert store.count() == 120
    store.close()


def test_closing_under_other_threads_is_an_error_of_the_store(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "shared.index", DIM)
    store.upsert([plain_record(number, DIM) for number in range(20_000)])
    errors = list[BaseException]()
    started = threading.Barrier(5)

    def work() -> None:
        started.wait()
        try:
            while True:
                assert len(store.search(random_vector(DIM, 1)[None], 5, {"number": {"$gte": 0}})[0]) == 5
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.3)
    store.close()
    for thread in threads:
        thread.join()
    assert [type(error) for error in errors] == [StoreError] * 4
