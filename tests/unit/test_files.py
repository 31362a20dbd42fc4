"""Files appear whole or not at all, and a cache keeps to its bounds."""

import os
import threading
from pathlib import Path

import pytest

from sightline.files import DiskCache, replacing, write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_atomically(path, "ä")
    write_atomically(path, b"2")
    assert path.read_bytes() == b"2"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_atomically(path, b"old")

    def write() -> None:
        with replacing(path) as part:
            assert part.suffix == ".npy"
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_many_writers_of_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "a"
    threads = [threading.Thread(target=write_atomically, args=(path, bytes([n]) * 9999)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(path.read_bytes()) == 9999
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_of_the_longest_kind_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120 + ".json")
    write_atomically(path, "1")
    assert path.read_text() == "1"


def test_a_cache_forgets_what_was_not_read_for_longest(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit_bytes=250, check_every=1)
    for at, name in enumerate(("aa", "bb")):
        cache.put(name, bytes(100))
        os.utime(tmp_path / name / name, (at, at))
    assert cache.get("aa") == bytes(100)  # read just now
    cache.put("cc", bytes(100))
    assert [cache.get(name) is not None for name in ("aa", "bb", "cc")] == [True, False, True]


def test_a_cache_that_cannot_be_written_keeps_nothing_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file", limit_bytes=100)
    cache.put("a", b"1")
    assert cache.get("a") is None
