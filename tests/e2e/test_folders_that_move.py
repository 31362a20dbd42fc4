"""Folders that move, vanish or are no longer wanted: the index follows, and says what it did."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.pictures import encoded, scene, write

from sightline.cli.main import main
from sightline.index import Index
from sightline.stores.local.store import LocalStore
from sightline.types import Record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(6):
        write(folder, f"{'sub/' * (number % 2)}{number}.png", encoded(scene(number, (64, 48)), "PNG"))
    write(folder, "broken.png", b"no picture")
    return folder


@pytest.fixture
def index(folder: Path, tmp_path: Path) -> Index:
    index = Index(tmp_path / "i.index", model="pixels")
    index.add(folder)
    return index


def paths(index: Index) -> set[str]:
    return {record.uri for record in index.store.scan()}


def command(index: Index, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sightline", *arguments, "--index", index.url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_folder_that_moved_is_not_encoded_again_and_leaves_nothing_behind(
    folder: Path, index: Index, tmp_path: Path
) -> None:
    moved = folder.rename(tmp_path / "elsewhere")
    summary = index.add(moved)
    assert (summary.encoded, summary.reused, summary.moved, summary.failed) == (0, 6, 6, 1)
    assert paths(index) == {path.as_uri() for path in moved.rglob("[0-9].png")}
    assert list(index.info()["roots"]) == [moved.as_uri()]
    assert [failure.uri for failure in index.failures()] == [(moved / "broken.png").as_uri()]


def test_a_folder_that_moved_into_another_is_recognised(folder: Path, index: Index, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    moved = folder.rename(tmp_path / "all" / "photos of 2024")
    assert index.add(tmp_path / "all").moved == 6
    assert paths(index) == {path.as_uri() for path in moved.rglob("[0-9].png")}


def test_a_copy_moves_nothing_and_what_was_not_found_again_stays(folder: Path, index: Index, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert index.add(tmp_path / "copy").moved == 0
    assert index.count() == 12
    shutil.rmtree(folder)
    (tmp_path / "copy" / "0.png").rename(tmp_path / "0.png")
    shutil.rmtree(tmp_path / "copy")
    summary = index.add(tmp_path / "0.png")
    assert (summary.moved, index.count()) == (0, 13)  # a single picture moves no folder


def test_a_folder_that_is_gone_is_dropped_by_one_command(folder: Path, index: Index) -> None:
    shutil.rmtree(folder)
    assert "not there now" in command(index, "status").stdout
    done = command(index, "remove", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"removed 6 pictures from {index.url}\n"
    assert (index.count(), index.info()["roots"], index.failures()) == (0, {}, [])


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("photos/sub", {"0.png", "2.png", "4.png"}),
        ("photos/*.png", {"1.png", "3.png", "5.png"}),
        ("photos/**/[0-3].png", {"4.png", "5.png"}),
        ("photos/sub/1.png", {"0.png", "2.png", "3.png", "4.png", "5.png"}),
    ],
)
def test_folders_and_patterns_are_removed_and_their_files_stay(
    folder: Path, index: Index, tmp_path: Path, name: str, left: set[str]
) -> None:
    assert index.remove([str(tmp_path / name)]) == 6 - len(left)
    assert {Path(uri).name for uri in paths(index)} == left
    assert len(list(folder.rglob("*.png"))) == 7
    assert (folder.as_uri() in index.info()["roots"]) is True


def test_what_removes_nothing_is_said(folder: Path, index: Index, tmp_path: Path) -> None:
    done = command(index, "remove", "nope", str(folder / "0.png"), str(tmp_path / "*.gif"))
    assert done.returncode == 1
    assert done.stdout == f"removed 1 picture from {index.url}\n"
    lines = done.stderr.splitlines()
    assert [line.split("'")[1] for line in lines] == ["nope", str(tmp_path / "*.gif")]
    assert all("expected the path, URI or id of an indexed picture, a folder" in line for line in lines)


def test_the_command_looks_all_names_up_at_once(folder: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, fetch = list[int](), LocalStore.fetch

    def counting(store: LocalStore, ids: Sequence[str]) -> list[Record]:
        asked.append(len(ids))
        return fetch(store, ids)

    monkeypatch.setattr(LocalStore, "fetch", counting)
    assert main(["remove", *(str(folder / f"{number}.png") for number in (0, 2, 4)), "--index", str(index.url)]) == 0
    assert asked == [3]


def test_what_is_excluded_leaves_the_index_and_comes_back(folder: Path, index: Index) -> None:
    done = command(index, "index", str(folder), "--exclude", "sub/", "--json")
    summary = json.loads(done.stdout)
    assert (summary["unchanged"], summary["removed"]) == (3, 3)
    done = command(index, "index", str(folder / "0.png"), "--exclude", "sub/")
    assert done.returncode == 2
    assert "--exclude is for folders" in done.stderr
    assert index.add(folder).encoded == 3
