"""Indexes moved between stores, as a user moves them: copy, verify, tune, status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.pictures import encoded, scene
from tests.records import plain_record

from sightline.cli.main import main
from sightline.errors import StoreNotFound
from sightline.index import Index
from sightline.stores.base import open_store

DIM = 512


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An index of 20,000 made-up records."""
    path = tmp_path / "a.index"
    store = open_store(str(path), dim=DIM)
    store.upsert([plain_record(number, DIM) for number in range(20_000)])
    store.write_notes("index", {"index": {"encoder": "mini", "fingerprint": "x", "load": "mini"}})
    store.close()
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of a few pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(encoded(scene(number), "JPEG"))
    return folder


def has_records(target: Path) -> bool:
    try:
        store = open_store(str(target))
    except StoreNotFound:
        return False
    count = store.count()
    store.close()
    return count > 0


def test_a_copy_that_was_killed_is_finished_by_the_next_one(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "b.index"
    process = subprocess.Popen([sys.executable, "-m", "sightline", "copy", str(source), str(target), "--quiet"])
    while not has_records(target):
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    code, out, _ = run("copy", str(source), str(target), "--json", capsys=capsys)
    copied = json.loads(out)
    assert code == 0
    assert copied["total"] == 20_000 == copied["written"] + copied["same"]
    assert copied["same"] > 0
    code, out, _ = run("verify", str(source), str(target), "--sample", "5", "--model", "pixels", capsys=capsys)
    assert code == 2  # the pixels model did not build this index: nothing is compared
    with Index(str(source)) as one, Index(str(target)) as other:
        assert {record.id for record in one.store.scan()} == {record.id for record in other.store.scan()}
        assert other.info()["model"] == "mini"


def test_verify_says_what_is_missing_and_exits_with_1(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = str(tmp_path / "a.index"), str(tmp_path / "b.index")
    assert run("index", str(pictures), "--index", one, "--model", "mini", "-q", capsys=capsys)[0] == 0
    assert run("copy", one, other, capsys=capsys)[0] == 0
    code, out, _ = run("verify", one, other, "--sample", "20", capsys=capsys)
    assert code == 0
    assert out.endswith("the same\n")
    with Index(other) as index:
        gone = next(index.store.scan())
        index.remove([gone.id])
    code, out, _ = run("verify", one, other, "--sample", "20", capsys=capsys)
    assert code == 1
    assert f"missing    1: {gone.uri}" in out


def test_another_models_index_is_not_copied_into(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(tmp_path / "b.index")
    store = open_store(other, dim=DIM)
    store.write_notes("index", {"index": {"encoder": "clip", "fingerprint": "y"}})
    store.close()
    code, _, err = run("copy", str(source), other, capsys=capsys)
    assert code == 2
    assert "was built with 'clip', not 'mini', expected the same model" in err


def test_an_exact_store_needs_no_tuning(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("tune", "--index", str(source), capsys=capsys)
    assert (code, out) == (0, "this index is searched exactly: there is nothing to tune\n")


def test_no_command_prints_the_key_of_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "qdrant://:hidden-key@127.0.0.1:1/photos?patience_s=0&grpc=false"
    for arguments in (
        ("status", "--index", url),
        ("status", "--verify", "--index", url),
        ("search", "a dog", "--index", url, "--model", "mini"),
        ("remove", "a", "--index", url),
        ("copy", url, str(tmp_path / "a.index")),
        ("verify", url, url),
        ("tune", "--index", url),
    ):
        code, out, err = run(*arguments, capsys=capsys)
        assert code == 2, arguments
        assert "hidden-key" not in out + err, arguments
        assert err.startswith("sightline: "), arguments
