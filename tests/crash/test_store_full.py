"""A full disk is an error that loses nothing, and ends when there is room again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.records import plain_record

from sightline.errors import StoreError, StoreFull
from sightline.stores.local.store import LocalStore

DIM = 512
ROOT = Path(__file__).parents[2]
LIMITED_WRITER = """
import resource, signal, sys
from pathlib import Path
from sightline.errors import StoreFull
from tests.crash.test_store_full import fill
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
store, count = fill(Path(sys.argv[1]))
print(count)
"""


def fill(folder: Path) -> tuple[LocalStore, int]:
    """Upsert until the disk is full; gives the store, and how many records were acknowledged."""
    store = LocalStore(folder, DIM)
    for start in range(0, 10_000, 100):
        try:
            store.upsert([plain_record(number, DIM) for number in range(start, start + 100)])
        except StoreFull:
            assert store.count() == start
            with pytest.raises(StoreFull, match="no room is left"):
                store.upsert([plain_record(number, DIM) for number in range(start, start + 100)])
            return store, start
    raise AssertionError("the disk never became full")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "full.index"
    command = [sys.executable, "-c", LIMITED_WRITER, str(folder)]
    count = int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    store = LocalStore(folder)
    check(store, count)
    store.close()


def test_full_disk_loses_nothing_and_is_usable_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_500_000))
    store, count = fill(small_disk / "full.index")
    check(store, count)
    store.close()
    store = LocalStore(small_disk / "full.index")
    check(store, count)
    ballast.unlink()
    store.upsert([plain_record(count, DIM)])
    assert store.count() == count + 1
    store.close()


def test_reading_on_a_full_disk_works_or_says_that_it_is_full(small_disk: Path) -> None:
    store = LocalStore(small_disk / "photos.index", DIM)
    store.upsert([plain_record(number, DIM) for number in range(100)])
    store.close()
    with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)):
            pass
    try:
        store = LocalStore(small_disk / "photos.index")
        check(store, 100)
        store.close()
    except StoreFull as error:
        said = str(error)
        assert "no room is left" in said


def test_index_on_a_disk_that_cannot_be_written_is_searched(small_disk: Path) -> None:
    store = LocalStore(small_disk / "photos.index", DIM)
    store.upsert([plain_record(number, DIM) for number in range(100)])
    store.close()
    mount(small_disk, "-o", "remount,ro")
    store = LocalStore(small_disk / "photos.index")
    check(store, 100)
    with pytest.raises(StoreError, match=r"cannot be .*written"):
        store.upsert([plain_record(1, DIM)])
    store.close()


def check(store: LocalStore, count: int) -> None:
    """Everything that was acknowledged is there, and nothing else."""
    assert count >= 100
    assert {record.payload["number"] for record in store.scan()} == set(range(count))
    assert store.verify() == []
    hit = store.search(plain_record(7, DIM).vector[None], 1, {"number": {"$lt": 50}})[0][0]
    assert hit.payload["number"] == 7


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 5 MB, in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or not mount(disk, "-t", "tmpfs", "-o", "size=5m", "tmpfs"):
        pytest.skip("only root may mount a small disk")
    yield disk
    is_free = subprocess.run(["umount", str(disk)], check=False).returncode == 0
    if not is_free:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    assert is_free, "a closed store still holds a file"


def mount(folder: Path, *options: str) -> bool:
    return subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False).returncode == 0
