"""Damage is found, named and cut out; the room of what was replaced or deleted comes back."""

from pathlib import Path

import numpy as np
import pytest
from tests.records import plain_record, random_vector

from sightline.errors import StoreDamaged
from sightline.stores.local.store import LocalStore
from sightline.stores.local.writes import Corruption
from sightline.types import Record

DIM = 32


def test_whole_index_has_no_corruption(tmp_path: Path) -> None:
    store = filled(tmp_path, batches=3)
    assert store.verify() == []
    assert store.repair() == []
    assert store.count() == 300
    store.close()


def test_lost_vectors_are_named_and_only_their_records_are_removed(tmp_path: Path) -> None:
    store = filled(tmp_path, batches=3)
    store.delete([plain_record(150, DIM).id])
    tear(store.path / "vectors-0.float32", at=130 * DIM * 4)
    ids = tuple(plain_record(number, DIM).id for number in range(100, 200) if number != 150)
    assert store.verify() == [Corruption(100, 100, ids, can_be_rebuilt=False)]
    assert store.repair() == [Corruption(100, 100, ids, can_be_rebuilt=False)]
    assert store.verify() == []
    assert {record.payload["number"] for record in store.scan()} == {*range(100), *range(200, 300)}
    assert store.count({"$match": "picture"}) == 200
    store.upsert([plain_record(number, DIM) for number in range(100, 200)])
    assert best(store, 130) == 130
    store.close()


def test_lost_codes_are_made_anew_and_no_record_is_lost(tmp_path: Path) -> None:
    store = filled(tmp_path, batches=2)
    before = store.search(plain_record(3, DIM).vector[None], 200)
    whole = (store.path / "vectors-0.int8").read_bytes()
    tear(store.path / "vectors-0.int8", at=0)
    assert [damage.can_be_rebuilt for damage in store.verify()] == [True]
    assert len(store.repair()[0].ids) == 100
    assert store.verify() == []
    assert (store.path / "vectors-0.int8").read_bytes() == whole
    assert store.search(plain_record(3, DIM).vector[None], 200) == before
    store.close()


def test_first_write_after_a_torn_commit_says_what_was_lost(tmp_path: Path) -> None:
    filled(tmp_path, batches=3).close()
    store = LocalStore(tmp_path / "upkeep.index")
    tear(store.path / "vectors-0.float32", at=299 * DIM * 4)
    with pytest.raises(StoreDamaged, match=r"lost the vectors of its last commit \(100 records from slot 200\)"):
        store.upsert([plain_record(300, DIM)])
    assert store.count() == 300
    store.repair()
    store.upsert([plain_record(number, DIM) for number in range(200, 301)])
    assert store.count() == 301
    store.close()


def test_replaced_and_deleted_records_give_their_room_back(tmp_path: Path) -> None:
    store = filled(tmp_path, batches=40)
    size = vector_bytes(store)
    queries = np.stack([random_vector(DIM, seed) for seed in range(20)])
    for number in range(0, 4000, 100):
        store.upsert([plain_record(n, DIM, caption=f"picture {n}", round=2) for n in range(number, number + 100)])
    assert store.delete([plain_record(number, DIM).id for number in range(1000)]) == 1000
    assert vector_bytes(store) <= 4000 / 3000 * size
    assert store.count() == store.count({"round": 2}) == store.count({"$match": "picture"}) == 3000
    assert store.verify() == []
    vectors = np.stack([plain_record(number, DIM).vector for number in range(1000, 4000)])
    for query, hits in zip(queries, store.search(queries, 5), strict=True):
        expected = np.argsort(-(vectors @ query))[:5] + 1000
        assert [hit.payload["number"] for hit in hits] == expected.tolist()
    assert store.count({"$match": "1234"}) == 1
    store.close()


def test_compacted_index_opens_again(tmp_path: Path) -> None:
    store = filled(tmp_path, batches=40)
    store.delete([plain_record(number, DIM).id for number in range(3000)])
    store.close()
    assert sorted(path.name for path in store.path.glob("vectors-*")) == ["vectors-1.float32", "vectors-1.int8"]
    store = LocalStore(store.path)
    assert store.count() == 1000
    assert best(store, 3500) == 3500
    assert store.count({"number": {"$gte": 3900}}) == 100
    store.close()


def test_reader_goes_on_through_compactions(tmp_path: Path) -> None:
    """One that searched before, with filter columns, and one that iterates."""
    store = filled(tmp_path, batches=20)
    reader = LocalStore(store.path)
    scan = reader.scan()
    next(scan)
    assert reader.count({"number": {"$lt": 1000}}) == 1000
    store.delete([plain_record(number, DIM).id for number in range(1200)])
    assert not list(store.path.glob("vectors-0.*"))
    assert best(reader, 1500) == 1500
    assert reader.count({"number": {"$lt": 1300}}) == 100
    assert {record.payload["number"] for record in scan} >= set(range(1200, 2000))
    store.close()
    reader.close()


def test_emptied_index_takes_new_records(tmp_path: Path) -> None:
    store = filled(tmp_path, batches=20)
    assert store.delete([record.id for record in store.scan()]) == 2000
    assert vector_bytes(store) == 0
    assert store.search(random_vector(DIM, 1)[None], 5) == [[]]
    store.upsert([plain_record(7, DIM)])
    assert best(store, 7) == 7
    store.close()


def test_damaged_index_is_not_compacted(tmp_path: Path) -> None:
    """Copied rows would get a checksum that says they are well."""
    store = filled(tmp_path, batches=40)
    tear(store.path / "vectors-0.float32", at=3999 * DIM * 4)
    store.delete([plain_record(number, DIM).id for number in range(3000)])
    assert [damage.first_slot for damage in store.verify()] == [3900]
    store.repair()
    store.delete([plain_record(3000, DIM).id])
    assert store.count() == 899
    assert vector_bytes(store) == 899 * DIM * 5
    store.close()


def test_files_that_a_killed_compaction_left_are_removed(tmp_path: Path) -> None:
    filled(tmp_path, batches=1).close()
    store = LocalStore(tmp_path / "upkeep.index")
    (store.path / "vectors-1.int8").write_bytes(b"half")
    (store.path / "vectors-1.float32").write_bytes(b"half")
    store.upsert([plain_record(500, DIM)])
    assert sorted(path.name for path in store.path.glob("vectors-*")) == ["vectors-0.float32", "vectors-0.int8"]
    store.close()


def filled(folder: Path, *, batches: int) -> LocalStore:
    """An index of batches of 100 records."""
    store = LocalStore(folder / "upkeep.index", DIM)
    for start in range(0, 100 * batches, 100):
        store.upsert([plain_record(n, DIM, caption=f"picture {n}") for n in range(start, start + 100)])
    return store


def best(store: LocalStore, number: int) -> object:
    """The number of the record nearest to the vector of a number."""
    return store.search(Record("", "", random_vector(DIM, number)).vector[None], 1)[0][0].payload["number"]


def tear(path: Path, *, at: int) -> None:
    """Overwrite 40 bytes with zeros, as a page that never reached the disk."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(40))


def vector_bytes(store: LocalStore) -> int:
    return sum(path.stat().st_size for path in store.path.glob("vectors-*"))
