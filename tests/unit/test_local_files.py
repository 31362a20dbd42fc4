"""What is in the folder of an index, and what happens when it is something else."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.records import plain_record

from sightline.errors import (
    DimensionMismatch,
    SightlineError,
    StoreDamaged,
    StoreError,
    StoreNotFound,
    StoreTooNew,
    UsageError,
)
from sightline.stores.base import OPENERS, open_store
from sightline.stores.local.store import LocalStore, repair_store
from sightline.stores.memory import MemoryStore

DIM = 16
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of 100 records, closed."""
    store = LocalStore(tmp_path / "photos.index", DIM)
    store.upsert([plain_record(number, DIM) for number in range(100)])
    store.close()
    return store.path


def test_index_of_format_1_opens(tmp_path: Path) -> None:
    shutil.copytree(DATA / "index-format-1", tmp_path / "old.index")
    store = LocalStore(tmp_path / "old.index")
    assert (store.dim, store.count()) == (20, 9)
    assert store.count({"$match": "picture", "tags": "ü", "taken": datetime(2024, 5, 1, 12, tzinfo=UTC)}) == 8
    assert store.fetch([plain_record(3, 20).id])[0].payload["caption"] == "replaced"
    assert store.count({"sha256": "abc", "flag": True, "ratio": {"$lt": 1}}) == 1
    hit = store.search(plain_record(5, 20).vector[None], 1)[0][0]
    assert hit.id == plain_record(5, 20).id
    assert hit.score == pytest.approx(1.0)
    assert store.notes("index") == {"identity": {"model": "mini"}}
    assert store.verify() == []
    store.upsert([plain_record(7, 20)])
    assert store.count() == 10
    store.close()


def test_what_is_missing_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match=r"no index at .*photos\.index: check the path, or build one"):
        LocalStore(tmp_path / "photos.index")
    assert list(tmp_path.iterdir()) == []


def test_folders_above_the_index_are_created(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "a" / "ü b" / "photos.index", DIM)
    store.upsert([plain_record(1, DIM)])
    store.close()
    store = LocalStore(tmp_path / "a" / "ü b" / "photos.index")
    assert store.count() == 1
    store.close()


@pytest.mark.parametrize("dim", [None, DIM])
def test_folder_of_something_else_is_left_alone(tmp_path: Path, dim: int | None) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"picture")
    with pytest.raises(StoreNotFound, match=r"holds files but no index\.sqlite, expected an index or an empty folder"):
        LocalStore(tmp_path, dim)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("dim", [None, DIM])
def test_database_of_another_program_is_left_alone(tmp_path: Path, dim: int | None) -> None:
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute("CREATE TABLE state (a)")
    connection.close()
    before = (tmp_path / "index.sqlite").read_bytes()
    with pytest.raises(StoreNotFound, match="belongs to another program"):
        LocalStore(tmp_path, dim)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("index.sqlite", before)]


def test_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "photos.index").write_text("")
    with pytest.raises(StoreNotFound, match="is a file, expected the folder of an index"):
        LocalStore(tmp_path / "photos.index", DIM)


def test_interrupted_creation_is_finished(tmp_path: Path) -> None:
    """As a kill leaves it: the database before its first byte, and with its header but no tables."""
    (tmp_path / "index.sqlite").touch()
    LocalStore(tmp_path, DIM).close()
    other = tmp_path / "other"
    other.mkdir()
    header = sqlite3.connect(other / "index.sqlite")
    header.execute(f"PRAGMA application_id = {0x534C4931}")
    header.close()
    with pytest.raises(StoreNotFound, match="never finished"):
        LocalStore(other)
    store = LocalStore(other, DIM)
    store.upsert([plain_record(1, DIM)])
    assert store.count() == 1
    store.close()


def test_other_dimension_is_refused(folder: Path) -> None:
    with pytest.raises(DimensionMismatch, match=r"vectors of 16 dimensions, not 17: open it with the model"):
        LocalStore(folder, 17)
    LocalStore(folder, DIM).close()
    with pytest.raises(UsageError, match="dim is 0"):
        LocalStore(folder.with_name("new"), 0)


@pytest.mark.parametrize("name", ["format", "rotation"])
def test_newer_format_is_refused(folder: Path, name: str) -> None:
    change(folder, f"UPDATE meta SET value = 99 WHERE name = '{name}'")
    with pytest.raises(StoreTooNew, match=r"format .*99.*, expected at most 3\.1: update Sightline"):
        LocalStore(folder)


@pytest.mark.parametrize("name", ["vectors-0.int8", "vectors-0.float32"])
@pytest.mark.parametrize("harm", [lambda path: os.truncate(path, 500), Path.unlink], ids=["truncated", "missing"])
def test_vector_file_that_lost_bytes_is_noticed_at_opening(
    folder: Path, name: str, harm: Callable[[Path], None]
) -> None:
    harm(folder / name)
    with pytest.raises(StoreDamaged, match="restore it from a backup, or run sightline status --repair"):
        LocalStore(folder)
    damages = repair_store(folder)
    assert [damage.count for damage in damages] == [100]
    store = LocalStore(folder)
    is_codes = name.endswith("int8")
    assert store.count() == (100 if is_codes else 0)  # codes are made anew, vectors are not
    assert store.verify() == []
    store.upsert([plain_record(number, DIM) for number in range(100)])
    assert store.search(plain_record(5, DIM).vector[None], 1)[0][0].id == plain_record(5, DIM).id
    store.close()


@pytest.mark.parametrize("start", [0, 5000])
def test_damaged_database_is_noticed(folder: Path, start: int) -> None:
    path = folder / "index.sqlite"
    data = bytearray(path.read_bytes())
    data[start:] = b"\x5a" * (len(data) - start)
    path.write_bytes(data)
    with pytest.raises(StoreDamaged, match="restore"), closing(LocalStore(folder)) as store:
        store.count({"number": 1})


def test_damage_inside_the_database_is_named_by_verify(folder: Path) -> None:
    """An index that lost a row: SQLite's own check finds it."""
    change(folder, "PRAGMA writable_schema = 1", "UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'slots'")
    with pytest.raises(StoreDamaged, match="database"), closing(LocalStore(folder)) as store:
        store.verify()


def test_folder_removed_in_mid_run_is_an_error(folder: Path) -> None:
    store = LocalStore(folder)
    store.upsert([plain_record(200, DIM)])
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match=r"removed|missing"):
        store.upsert([plain_record(201, DIM)])
    store.close()


def test_size_counts_every_file(folder: Path) -> None:
    store = LocalStore(folder)
    assert store.size_bytes() == sum(path.stat().st_size for path in folder.iterdir()) > 100 * DIM * 5
    assert store.path == folder
    store.close()


def test_closed_index_is_whole_without_its_log(folder: Path) -> None:
    """So that it can be copied like any folder."""
    assert {path.name for path in folder.iterdir()} == {
        "index.sqlite",
        "vectors-0.int8",
        "vectors-0.float32",
        "writer.json",
    }


def test_url_names_the_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for url in (str(folder), "photos.index", "./photos.index", "file:photos.index", folder.as_uri()):
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.count() == 100
        store.close()
    assert isinstance(open_store("memory:", dim=3), MemoryStore)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("qdrunt://host/photos", r"unknown scheme 'qdrunt', expected a path or one of file, memory, "),
        ("photos:2024", r"write \./photos:2024 if it is a path"),
        ("memory:", "names no index that exists, expected dim"),
    ],
)
def test_url_that_names_no_store_says_what_is_known(url: str, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        open_store(url)


def test_path_with_a_colon_or_a_drive_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("./photos:2024", "C:photos"):
        open_store(path, dim=3).close()
        assert (tmp_path / path).is_dir()
    assert set(OPENERS) >= {"file", "memory"}


def change(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "index.sqlite")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_an_index_that_is_being_made_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "a.index").mkdir()
    (tmp_path / "a.index" / "index.sqlite").touch()  # what another process leaves for a moment, or for good if killed
    with pytest.raises(StoreNotFound, match="not finished yet"):
        LocalStore(tmp_path / "a.index")
    LocalStore(tmp_path / "a.index", 16).close()
    assert LocalStore(tmp_path / "a.index").count() == 0
