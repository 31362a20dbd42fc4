"""A killed client, a killed server and a server that is away: what was acknowledged is there, once."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines import engine_url
from tests.records import plain_record, random_vector

from sightline.errors import StoreUnreachable
from sightline.stores.base import Store, open_store
from sightline.stores.remote import TunableStore

pytest.importorskip("pymilvus")
DIM = 8
BATCH = 40
ROOT = Path(__file__).parents[2]
WRITER = f"""
import sys
from tests.records import plain_record
from sightline.stores.base import open_store
store = open_store(sys.argv[1], dim={DIM})
print("open", flush=True)
for number in range(100_000):
    first = number % 50 * {BATCH}  # replaces from the fiftieth on
    store.upsert([plain_record(n, {DIM}, call=number) for n in range(first, first + {BATCH})])
    print(number, flush=True)
"""

FLUSH = f"""
import os, sys
from milvus_lite.storage.wal import WAL
from tests.records import plain_record
from sightline.stores.base import open_store
store = open_store(sys.argv[1], dim={DIM})
store.upsert([plain_record(n, {DIM}, call=0) for n in range({BATCH})])
store.upsert([plain_record(n, {DIM}, call=1) for n in range(10)])
store.write_notes("root", {{"a": {{"count": 1}}}})
WAL.close_and_delete = lambda self: os._exit(9)
store.engine.client.flush("killed")
"""


def test_a_writer_killed_before_it_removes_its_log_leaves_nothing_twice(tmp_path: Path) -> None:
    """Milvus Lite takes the log in again, beside the file that it had made of it."""
    url = f"milvus:{tmp_path}/lite.db?collection=killed"
    assert subprocess.run([sys.executable, "-c", FLUSH, url], cwd=ROOT, check=False).returncode == 9
    for _ in range(2):
        store = open_store(url)
        records = list(store.scan())
        assert [record.id for record in records] == sorted(plain_record(n, DIM).id for n in range(BATCH))
        assert store.count() == len(store.search(random_vector(DIM, 1)[None], 2 * BATCH)[0]) == BATCH
        assert {record.payload["number"]: record.payload["call"] for record in records} == {
            n: int(n < 10) for n in range(BATCH)
        }
        assert store.notes("root") == {"a": {"count": 1}}
        store.close()


def test_killed_writer_of_a_file_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    url = f"milvus:{tmp_path}/lite.db?collection=killed"
    for _ in range(3):
        acknowledged = killed_writer(url, 0.7)
        store = open_store(url, dim=DIM)
        check_nothing_lost_or_doubled(store, acknowledged)
        store.close()


def killed_writer(url: str, after_s: float) -> int:
    """The number of the last call that returned to a writer, which is killed."""
    command = [sys.executable, "-c", WRITER, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        first = process.stdout.readline()  # a busy machine may take longer for the first call than all may last
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        return max(int(line) for line in [first, *process.stdout.read().split()])


def check_nothing_lost_or_doubled(store: Store, acknowledged: int) -> None:
    """Each batch as its last acknowledged call wrote it, or the one after, which may have been on its way."""
    records = list(store.scan())
    assert [record.id for record in records] == sorted({record.id for record in records})
    assert store.count() == len(records)
    found: dict[int, set[int]] = {}
    for record in records:
        found.setdefault(int(str(record.payload["number"])) // BATCH, set()).add(int(str(record.payload["call"])))
    for batch in range(min(50, acknowledged + 1)):
        last = acknowledged - (acknowledged - batch) % 50
        assert max(found.get(batch, {-1})) >= last, (batch, acknowledged)
        assert len([1 for record in records if int(str(record.payload["number"])) // BATCH == batch]) == BATCH


@pytest.fixture
def server_store() -> Iterator[Store]:
    store = open_store(f"{engine_url('milvus')}/crash?patience_s=60", dim=DIM)
    assert isinstance(store, TunableStore)
    yield store
    store.drop()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_writer_of_a_server_loses_nothing_that_was_acknowledged(server_store: Store) -> None:
    url = f"{engine_url('milvus')}/crash"
    for _ in range(2):
        check_nothing_lost_or_doubled(open_store(url), killed_writer(url, 2.0))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_server_comes_back_with_all_that_was_acknowledged(server_store: Store) -> None:
    from tests.engines.milvus import running

    if not running:
        pytest.skip("the server is not ours to kill: SIGHTLINE_TEST_MILVUS_URL names it")
    server_store.upsert([plain_record(n, DIM) for n in range(500)])
    server_store.delete([plain_record(n, DIM).id for n in range(10)])
    server_store.write_notes("index", {"identity": {"model": "mini"}})
    running[0].kill()
    hasty = threading.Timer(3.0, running[0].start)  # meanwhile calls are tried again
    hasty.start()
    server_store.upsert([plain_record(n, DIM) for n in range(490, 510)])
    hasty.join()
    assert server_store.count() == len(list(server_store.scan())) == 500
    assert server_store.notes("index") == {"identity": {"model": "mini"}}
    assert len(server_store.search(random_vector(DIM, 1)[None], 600)[0]) == 500


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_that_stays_away_is_said_so_in_time(server_store: Store) -> None:
    from tests.engines.milvus import running

    if not running:
        pytest.skip("the server is not ours to kill: SIGHTLINE_TEST_MILVUS_URL names it")
    hasty = open_store(f"{engine_url('milvus')}/crash?patience_s=3")
    hasty.upsert([plain_record(1, DIM)])
    running[0].kill()
    began = time.monotonic()
    with pytest.raises(StoreUnreachable, match=r"crash does not answer .* 3 s: start the server"):
        hasty.search(random_vector(DIM, 1)[None], 1)
    with pytest.raises(StoreUnreachable):
        hasty.upsert([plain_record(2, DIM)])
    assert time.monotonic() - began < 20
    running[0].start()
    assert server_store.count() in (1, 2)
    hasty.close()
