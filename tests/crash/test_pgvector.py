"""PostgreSQL loses nothing that was acknowledged: killed clients, a restarted, a killed and a vanished server."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines.pgvector import NEW, Server
from tests.records import plain_record

from sightline.errors import StoreUnreachable
from sightline.stores.base import Droppable, Store, open_store

ROOT = Path(__file__).parents[2]
DIM = 8
BATCH = 200
WRITER = f"""
import sys
from itertools import count
from sightline.stores.base import open_store
from tests.records import plain_record
store = open_store(sys.argv[1], dim={DIM})
for call in count(int(sys.argv[2])):
    store.upsert([plain_record(number, {DIM}, call=call, caption="word") for number in range({BATCH})])
    store.upsert([plain_record({BATCH} + call, {DIM}, call=call)])
    print(call, flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(NEW)
    yield server
    server.remove()


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    store = open_store(f"{server.url}?table=crash&patience_s=20", dim=DIM)
    yield store
    assert isinstance(store, Droppable)
    store.drop()


def test_killed_writers_lose_no_call_and_leave_no_half(server: Server, store: Store) -> None:
    """Every call replaces all of the same records: half a call would show two numbers."""
    url, calls = f"{server.url}?table=crash", 0
    for kill in range(4):
        calls = write_until_killed(url, calls, after_s=0.5 + 0.13 * kill)
        at_work = store.count({"caption": "word"})
        numbers = {record.payload["call"] for record in store.scan({"caption": "word"})}
        assert at_work == BATCH
        assert len(numbers) == 1
        assert calls - 1 <= int(str(numbers.pop())) <= calls + 1  # the last may have been committed without a word
        loose = [record.payload["call"] for record in store.scan({"caption": {"$exists": False}})]
        assert set(range(calls)) <= set(loose)
        assert len(loose) == len(set(loose))
    assert calls > 4


def write_until_killed(url: str, first: int, *, after_s: float) -> int:
    """Run a writer; gives how many of its calls have returned by the time it is dead, with those before it."""
    command = [sys.executable, "-c", WRITER, url, str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return int([line for line in lines if line.endswith("\n")][-1]) + 1


def test_restart_is_waited_for(server: Server, store: Store) -> None:
    store.upsert([plain_record(number, DIM) for number in range(1200)])
    names = list[str]()
    for record in store.scan():
        if len(names) == 100:
            server.stop()
            threading.Timer(1.0, server.start).start()
        names.append(record.id)
    assert names == sorted(plain_record(number, DIM).id for number in range(1200))
    store.upsert([plain_record(5000, DIM)])
    assert store.count() == 1201


def test_killed_server_has_all_that_was_acknowledged(server: Server, store: Store) -> None:
    written = list[int]()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            number = len(written)
            store.upsert([plain_record(number, DIM)])
            store.write_notes("failure", {str(number): {"n": number}})
            written.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(2):
        time.sleep(0.5)
        server.crash()
        server.start()
    time.sleep(0.3)
    stop.set()
    thread.join()
    assert len(written) > 10
    assert store.count() == len(written)  # nothing lost, nothing doubled, though calls were tried again
    assert len(store.notes("failure")) == len(written)


def test_server_that_stays_away_is_said_and_its_return_is_noticed(server: Server) -> None:
    store = open_store(f"{server.url}?table=away&patience_s=1", dim=DIM)
    store.upsert([plain_record(1, DIM)])
    server.stop()
    calls = (
        lambda: store.upsert([plain_record(2, DIM)]),
        lambda: store.search(plain_record(1, DIM).vector[None], 1),
        store.count,
    )
    for call in calls:
        began = time.monotonic()
        with pytest.raises(
            StoreUnreachable, match=r"table=away does not answer .* start the server.*acknowledged is kept"
        ) as caught:
            call()
        assert 0.9 < time.monotonic() - began < 5
        assert "secret" not in str(caught.value)
    server.start()
    assert store.count() == 1
    store.close()


def test_closing_without_a_server_does_not_wait(server: Server) -> None:
    store = open_store(f"{server.url}?table=closing", dim=DIM)
    store.upsert([plain_record(1, DIM)])
    server.stop()
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 5
    server.start()
