"""What goes to a cluster, and what comes back, without a cluster."""

import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.pictures import encoded, scene, write

from sightline.cli.main import main
from sightline.distribute.driver import Cluster, open_cluster
from sightline.distribute.worker import Chunk, Plan, Worker, chunks, singles
from sightline.encoders.hub import Hub
from sightline.errors import IndexMismatch, SourceError, UsageError
from sightline.index import Index
from sightline.ingest import Summary
from sightline.sources.base import Opening, open_source
from sightline.sources.folder import Folder
from sightline.stores.url import StoreUrl
from sightline.types import Item

SERVER = "postgresql://ada:secret@db/pictures"


def plan(url: str, place: Path | None = None) -> Plan:
    return Plan(StoreUrl(url), Hub(), False, 1, 1, 0, None, str(place) if place else None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number in range(5):
        write(folder, f"{number}.png", encoded(scene(number), "PNG"))
    write(folder, "broken.png", b"no picture")
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """An index that knows its model and holds one picture."""
    index = Index(str(tmp_path / "photos.index"), model="pixels")
    one = write(tmp_path, "one.png", encoded(scene(99), "PNG"))
    index.add(one)
    return index


def test_a_worker_commits_what_it_did_and_answers_with_the_counts(index: Index, folder: Path) -> None:
    (chunk,) = chunks(Folder(folder), {})
    answer = Worker(plan(index.url)).answer(pickle.loads(pickle.dumps(chunk)))
    assert isinstance(answer, Summary)
    assert (answer.encoded, answer.failed, index.count(), len(index.failures())) == (5, 1, 6, 1)


def test_a_chunk_that_is_tried_again_encodes_nothing_twice(index: Index, folder: Path) -> None:
    (chunk,) = chunks(Folder(folder), {})
    worker = Worker(plan(index.url))
    worker.answer(chunk)
    answer = worker.answer(chunk)
    assert isinstance(answer, Summary)
    assert (answer.encoded, answer.unchanged, index.count()) == (0, 5, 6)


def test_a_worker_counts_the_retries_of_what_failed_before(index: Index, folder: Path) -> None:
    index.add(folder)
    (chunk,) = chunks([item for item in Folder(folder) if "broken" in item.uri], index.store.notes("failure"))
    Worker(plan(index.url)).answer(chunk)
    assert [failure.retries for failure in index.failures()] == [1]


def test_a_worker_without_the_pictures_says_so_with_its_host(index: Index, folder: Path, tmp_path: Path) -> None:
    (chunk,) = chunks(Folder(folder), {})
    answer = Worker(plan(index.url, tmp_path / "elsewhere")).answer(chunk)
    assert isinstance(answer, SourceError)
    assert str(answer).startswith(f"on {socket.gethostname()}: {tmp_path / 'elsewhere'} is not there")


def test_a_worker_with_other_weights_refuses(index: Index, folder: Path) -> None:
    identity = index.store.notes("index")["index"]
    index.store.write_notes("index", {"index": identity | {"fingerprint": "other", "pictures": "other"}})
    (chunk,) = chunks(Folder(folder), {})
    answer = Worker(plan(index.url)).answer(chunk)
    assert isinstance(answer, IndexMismatch)
    assert "other weights of 'pixels'" in str(answer)
    assert index.count() == 1


def test_items_of_a_folder_and_of_the_web_travel(folder: Path, tmp_path: Path) -> None:
    table = write(tmp_path, "table.csv", f"url,caption\nhttps://example.org/a.jpg,far\n{folder}/0.png,near\n".encode())
    source = open_source(table, Opening(cache=tmp_path / "cache"))
    far, near = pickle.loads(pickle.dumps(list(source)))
    assert (far.uri, far.payload["caption"], far.is_slow) == ("https://example.org/a.jpg", "far", True)
    assert far.read.func.__self__.cache == tmp_path / "cache"
    assert near.read() == (folder / "0.png").read_bytes()


def test_a_downloader_travels_after_use(tmp_path: Path) -> None:
    (item,) = open_source("https://localhost:1/a.jpg", Opening(cache=tmp_path))
    with pytest.raises(SourceError):
        item.read()
    assert pickle.loads(pickle.dumps(item)).uri == item.uri


def test_chunks_hold_every_item_once_and_more_of_slow_ones() -> None:
    items = [Item(f"file:///{number}", "", partial(bytes, b"")) for number in range(130)]
    assert [len(chunk.items) for chunk in chunks(items, {})] == [64, 64, 2]
    assert [item for chunk in chunks(items, {}) for item in chunk.items] == items
    slow = [replace(item, is_slow=True) for item in items] * 8
    assert [len(chunk.items) for chunk in chunks(slow, {})] == [512, 512, 16]


def test_single_pictures_have_numbers_of_their_own() -> None:
    items = [Item(f"file:///{number}", "", partial(bytes, b""), is_slow=True) for number in range(1024)]
    alone: list[Chunk] = [single for chunk in chunks(items, {"file:///7": {"retries": 0}}) for single in singles(chunk)]
    assert [item for single in alone for item in single.items] == items
    assert len({single.number for single in alone}) == 1024
    assert [bool(single.failed_before) for single in alone].index(True) == 7


def test_an_address_becomes_a_cluster() -> None:
    assert open_cluster("ray://head", SERVER) == Cluster("head", 10001, StoreUrl(SERVER))
    full = open_cluster("ray://head:1234?workers=8&cpus=2&gpus=1", SERVER)
    assert (full.port, full.workers, full.cpus, full.gpus) == (1234, 8, 2, 1)
    assert "secret" not in repr(full)


@pytest.mark.parametrize(
    "address",
    ["ray://", "http://head:1", "ray://head:no", "ray://head?cpu=2", "ray://head?cpus=two", "ray://h?cpus=-1"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="not a cluster"):
        open_cluster(address, SERVER)


@pytest.mark.parametrize(
    "url", ["photos.index", "./a:b", "memory:", "file:///photos", "qdrant:///folder?collection=a", "milvus:///a.db"]
)
def test_a_store_on_this_machine_alone_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="on this machine alone"):
        open_cluster("ray://head", url)


def test_without_ray_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from sightline.distribute.driver import open_cluster; from sightline.index import Index\n"
        f"Index('memory:', model='pixels').add([], by=open_cluster('ray://head', {SERVER!r}).ingest)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ExtraMissing" in done.stderr
    assert "pip install 'sightline[ray]'" in done.stderr


def test_workers_are_a_number_or_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["index", "photos", "--workers", "many"])
    assert "'many' is not valid, expected a number or a Ray cluster such as ray://head:10001" in capsys.readouterr().err
    assert main(["index", ".", "--workers", "ray://head", "--index", "photos.index"]) == 2
    assert "photos.index is on this machine alone" in capsys.readouterr().err
