"""Power loss: what was never synced may be dropped or torn; what the disk had promised and lost is named."""

import random
import shutil
from pathlib import Path

import pytest
from tests.records import plain_record

from sightline.errors import StoreDamaged
from sightline.stores.local.store import LocalStore

DIM = 32
PAGE = 4096


@pytest.mark.parametrize("seed", range(8))
def test_bytes_of_an_unfinished_commit_may_be_anything(tmp_path: Path, seed: int) -> None:
    """A writer that had not committed leaves bytes behind the published ones: some pages of them, zeros or rubbish."""
    source = random.Random(seed)
    folder = copied_in_mid_run(tmp_path)
    for path in folder.glob("vectors-*"):
        with path.open("ab") as file:
            file.write(source.choice([b"", bytes(PAGE), source.randbytes(3 * PAGE), source.randbytes(17)]))
    with (folder / "index.sqlite-wal").open("ab") as file:
        file.write(source.choice([b"", bytes(PAGE), source.randbytes(5000)]))
    store = LocalStore(folder)
    assert numbers(store) == set(range(500))
    assert store.verify() == []
    store.upsert([plain_record(number, DIM) for number in range(500, 600)])
    assert store.verify() == []
    assert numbers(store) == set(range(600))
    store.close()


@pytest.mark.parametrize("seed", range(8))
def test_torn_log_gives_a_state_that_once_was(tmp_path: Path, seed: int) -> None:
    """A disk that lost the end of the log takes back whole commits only, never a part of one."""
    folder = copied_in_mid_run(tmp_path)
    log = folder / "index.sqlite-wal"
    with log.open("r+b") as file:
        file.truncate(random.Random(seed).randrange(log.stat().st_size))
    if (folder / "index.sqlite").stat().st_size <= PAGE:  # nothing of the index had left the log
        return
    store = LocalStore(folder)
    assert len(numbers(store)) % 100 == 0
    assert numbers(store) == set(range(len(numbers(store))))
    assert store.verify() == []
    store.upsert([plain_record(number, DIM) for number in range(600)])
    assert numbers(store) == set(range(600))
    assert store.verify() == []
    store.close()


@pytest.mark.parametrize("suffix", ["int8", "float32"])
@pytest.mark.parametrize("seed", range(4))
def test_torn_batch_is_named_and_indexed_again(tmp_path: Path, suffix: str, seed: int) -> None:
    """A disk that lost pages it had promised: verify names the batch, repair cuts it out, indexing brings it back."""
    source = random.Random(seed)
    folder = copied_in_mid_run(tmp_path)
    path = folder / f"vectors-0.{suffix}"
    batch_bytes = path.stat().st_size // 5
    with path.open("r+b") as file:
        file.seek(4 * batch_bytes + source.randrange(batch_bytes - 50))
        file.write(source.choice([bytes(50), source.randbytes(50)]))
    store = LocalStore(folder)
    (damage,) = store.verify()
    assert (damage.first_slot, damage.count) == (400, 100)
    assert set(damage.ids) == {plain_record(number, DIM).id for number in range(400, 500)}
    with pytest.raises(StoreDamaged, match="last commit"):
        store.upsert([plain_record(500, DIM)])
    assert store.repair() == [damage]
    assert numbers(store) == (set(range(500)) if damage.can_be_rebuilt else set(range(400)))
    store.upsert([plain_record(number, DIM) for number in range(400, 600)])
    assert numbers(store) == set(range(600))
    assert store.verify() == []
    store.close()


def copied_in_mid_run(folder: Path) -> Path:
    """The folder as five commits of 100 records each leave it, before SQLite has emptied its log."""
    store = LocalStore(folder / "running.index", DIM)
    for start in range(0, 500, 100):
        store.upsert([plain_record(number, DIM) for number in range(start, start + 100)])
    shutil.copytree(folder / "running.index", folder / "copied.index")
    store.close()
    return folder / "copied.index"


def numbers(store: LocalStore) -> set[object]:
    return {record.payload["number"] for record in store.scan()}
