"""A database that is not what was written: nothing wrong is answered unsaid, and what is lost can be taken out."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.cli.main import main
from sightline.errors import SightlineError, StoreDamaged
from sightline.stores.local.store import LocalStore, repair_store
from sightline.types import Note, Record, Value, record_id

COUNT, DIM = 150, 8


def known(number: int) -> Record:
    uri = f"file:///pictures/{number}.jpg"
    vector = np.random.default_rng(number).normal(size=DIM).astype(np.float32)
    vector /= np.linalg.norm(vector)
    payload: dict[str, Value] = {
        "caption": f"number {number} of many pictures",
        "sha256": f"{number:064x}",
        "width": number,
    }
    return Record(record_id(uri), uri, vector, payload)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "some.index"
    store = LocalStore(path, DIM)
    store.upsert([known(number) for number in range(COUNT + 20)])
    store.delete([known(number).id for number in range(COUNT, COUNT + 20)])
    store.write_notes(
        "root", {f"file:///{number}": {"indexed": "2026-11-28", "pictures": number} for number in range(20)}
    )
    store.close()
    return path


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Note]]:
    store = LocalStore(path)
    try:
        records = {r.id: (r.uri, dict(r.payload), r.vector.tobytes()) for r in store.scan()}
        return records, store.notes("root")
    finally:
        store.close()


def is_noticed(path: Path) -> bool:
    store = LocalStore(path)
    try:
        return bool(store.verify())
    except StoreDamaged:
        return True
    finally:
        store.close()


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 600))])
def test_a_flipped_bit_is_harmless_or_noticed_and_repaired(tmp_path: Path, whole: Path, seed: int) -> None:
    path = tmp_path / "some.index"
    shutil.copytree(whole, path)
    rng, file = random.Random(seed), path / "index.sqlite"
    data = bytearray(file.read_bytes())
    at = rng.randrange(4096, len(data))  # the first page is SQLite's header and the tables' definitions
    data[at] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    expected = contents(whole)
    try:
        now = contents(path)
    except SightlineError:
        now = ({}, {})
    try:
        noticed = is_noticed(path)
        assert now == expected or noticed
        if noticed:
            repair_store(path)
    except StoreDamaged as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "restore the folder from a backup" in said or "status --repair" in said
        return
    assert not is_noticed(path)
    records, notes = contents(path)
    assert records.items() <= expected[0].items()
    assert notes.items() <= expected[1].items()
    assert len(records) >= COUNT - 2  # a slot that names the record of another one loses both


def damaged(whole: Path, path: Path, statement: str) -> Path:
    shutil.copytree(whole, path)
    with sqlite3.connect(path / "index.sqlite") as connection:
        connection.execute("DROP INDEX IF EXISTS records_sha256")
        connection.execute("DROP INDEX IF EXISTS records_sha256_lists")
        connection.execute(statement)
    connection.close()
    return path


BROKEN = "UPDATE records SET payload = '{\"caption\": ' WHERE id = '{id}'"
OTHER = "UPDATE records SET payload = replace(payload, 'number 7 of', 'number 8 of') WHERE id = '{id}'"


@pytest.mark.parametrize("how", [BROKEN, OTHER, "UPDATE slots SET slot = 9999 WHERE slot = 7"])
def test_one_bad_row_is_named_and_taken_out(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    path = damaged(whole, tmp_path / "some.index", how.replace("{id}", known(7).id))
    assert main(["status", "--index", str(path), "--verify"]) == 2
    assert "1 record" in capsys.readouterr().out
    reads: list[Callable[[LocalStore], object]] = [
        lambda store: store.search(known(7).vector[None], COUNT),
        lambda store: store.search(known(7).vector[None], COUNT, {"width": 7}),
        lambda store: store.fetch([known(7).id]),
        lambda store: list(store.scan()),
    ]
    store = LocalStore(path)
    for read in reads:
        with suppress(StoreDamaged):  # and nothing else
            read(store)
    store.close()
    assert main(["status", "--index", str(path), "--repair"]) == 0
    assert not is_noticed(path)
    records, _ = contents(path)
    assert len(records) == COUNT - 1
    assert known(7).id not in records
    with closing(LocalStore(path)) as again:
        again.upsert([known(7)])
        assert again.count({"sha256": f"{7:064x}"}) == again.count({"$match": "number 7"}) == 1
        assert again.verify() == []


def test_an_index_of_before_the_checksums_gets_them_by_repair(tmp_path: Path) -> None:
    path = tmp_path / "old.index"
    shutil.copytree(Path(__file__).parents[1] / "data" / "index-format-1", path)
    before = contents(path)
    assert not is_noticed(path)
    repair_store(path)
    assert contents(path) == before
    with closing(sqlite3.connect(path / "index.sqlite")) as connection:
        for table in ("records", "notes"):
            assert connection.execute(f"SELECT count(*) FROM {table} WHERE crc IS NULL").fetchone() == (0,)


@pytest.mark.parametrize("wrong", ["generation = 5", "slots = 1000000000000"])
def test_wrong_counters_cost_no_vectors(tmp_path: Path, whole: Path, wrong: str) -> None:
    path = tmp_path / "some.index"
    shutil.copytree(whole, path)
    before = {file.name: file.read_bytes() for file in path.glob("vectors-*")}
    with closing(sqlite3.connect(path / "index.sqlite")) as connection, connection:
        connection.execute(f"UPDATE state SET {wrong}")
    with pytest.raises(StoreDamaged, match="restore the folder from a backup"):
        repair_store(path)
    assert {file.name: file.read_bytes() for file in path.glob("vectors-*")} == before


SHORTENED = """
import os, sys
import numpy as np
from sightline.errors import StoreDamaged
from sightline.stores.local import search
from sightline.stores.local.store import LocalStore
path, file, which = sys.argv[1], sys.argv[2], int(sys.argv[3])
store, cdist, seen = LocalStore(path), search.simsimd.cdist, []
search.THREADS = 1

class Shortening:
    @staticmethod
    def cdist(*args, **options):
        found = np.array(cdist(*args, **options))
        seen.append(len(found))
        if len(seen) == which:
            os.truncate(os.path.join(path, file), 100)
        return found

search.simsimd = Shortening
try:
    store.search(np.eye(1, 64, dtype=np.float32), 3)
except StoreDamaged as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows lets nobody shorten a file that is mapped")
@pytest.mark.parametrize(("file", "block"), [("vectors-0.int8", 1), ("vectors-0.int8", 3), ("vectors-0.float32", 3)])
def test_a_file_that_is_shortened_in_the_middle_of_a_scan_is_an_error(tmp_path: Path, file: str, block: int) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(20_000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with closing(LocalStore(tmp_path / "some.index", 64)) as store:
        store.upsert([Record(f"{at:05}", f"file:///{at}", vector, {}) for at, vector in enumerate(vectors)])
    command = [sys.executable, "-c", SHORTENED, str(tmp_path / "some.index"), file, str(block)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ended by signal {-done.returncode}: {done.stderr}"
    assert "bytes of vectors, expected at least" in done.stdout
