"""SIGKILL at random moments of an indexing run: what was acknowledged is there once, and the next run does the rest."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.pictures import encoded, scene, write

from sightline.index import Index

PICTURES = 400
RUN = """
import sys
from sightline import ingest
from sightline.index import Index
from sightline.stores.local.store import LocalStore
upsert = LocalStore.upsert
def acknowledging(store, records):
    upsert(store, records)
    print(*(record.uri for record in records), sep="\\n", flush=True)
LocalStore.upsert = acknowledging
ingest._COMMIT_RECORDS, ingest._COMMIT_SECONDS = 16, 0.05  # many commits, so that many kills fall into one
print("ready", flush=True)
Index(sys.argv[1], model="pixels").add(sys.argv[2])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        write(folder, f"{number}.png", encoded(scene(number, (160, 120)), "PNG", compress_level=1))
    return folder


@pytest.mark.parametrize("kills", [8, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_nothing_acknowledged_is_lost(folder: Path, tmp_path: Path, kills: int) -> None:
    chance = random.Random(kills)
    url = tmp_path / "photos.index"
    rounds, killed_in_mid_run = 0, 0
    acknowledged: set[str] = set()
    while rounds < kills:
        rounds += 1
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(url), str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        lines = [process.stdout.readline() for _ in range(chance.randrange(100))]
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        lines += process.communicate()[0].splitlines(keepends=True)
        acknowledged |= {line.strip() for line in lines if line.endswith("\n")}
        killed_in_mid_run += process.returncode != 0
        if acknowledged:
            check(url, acknowledged)
        if len(acknowledged) > PICTURES / 2:  # begin anew, before a run is done sooner than it is killed
            acknowledged.clear()
            for path in url.iterdir():
                path.unlink()
            url.rmdir()
    assert killed_in_mid_run > kills / 2
    with Index(str(url), model="pixels") as index:
        summary = index.add(folder)
        assert index.count() == PICTURES
    assert summary.encoded + summary.unchanged + summary.reused == PICTURES


def check(url: Path, acknowledged: set[str]) -> None:
    """The index opens as it is, in a process of its own, and holds each acknowledged picture once."""
    command = [sys.executable, "-m", "sightline", "status", "--index", str(url), "--json", "--verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["damaged"] == []
    with Index(str(url)) as index:
        uris = [record.uri for record in index.store.scan()]
    assert len(set(uris)) == len(uris)
    assert acknowledged <= set(uris)


def test_ten_search_while_one_indexes_and_one_removes(folder: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "photos.index")
    with Index(url, model="pixels") as index:
        for number in range(20):
            index.add(folder / f"{number}.png")
    search = """
import sys, time
from sightline.index import Index
until = time.monotonic() + 5
searches = 0
with Index(sys.argv[1]) as index:
    while time.monotonic() < until:
        number = searches % 20
        hits = index.search(image=f"{sys.argv[2]}/{number}.png", k=3)
        names = [hit.payload["name"] for hit in hits]
        assert hits[0].score > 0.999 and names[0] == f"{number}.png", (number, hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        searches += 1
print(searches)
"""
    write_forever = """
import sys, time
from sightline.index import Index
until = time.monotonic() + 5
with Index(sys.argv[1]) as index:
    while time.monotonic() < until:
        for number in range(int(sys.argv[3]), int(sys.argv[4])):
            index.add(f"{sys.argv[2]}/{number}.png")
        index.remove([f"{sys.argv[2]}/{number}.png" for number in range(int(sys.argv[3]), int(sys.argv[4]))])
print("wrote")
"""
    arguments = [url, str(folder)]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for code, more in [
            *[(search, arguments)] * 10,
            (write_forever, [*arguments, "100", "140"]),
            (write_forever, [*arguments, "200", "240"]),
        ]
    ]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert output.strip()
