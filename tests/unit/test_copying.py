"""An index copied into another store, after interruptions too, and compared with it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.records import plain_record, random_vector

from sightline.errors import DimensionMismatch, StoreError
from sightline.exchange import copy as copying
from sightline.exchange.copy import Copied, copy_records, verify
from sightline.stores.base import open_store
from sightline.stores.memory import MemoryStore
from sightline.types import Record

DIM = 16


def filled(count: int) -> MemoryStore:
    store = MemoryStore(DIM)
    store.upsert([plain_record(number, DIM, caption=f"picture {number}") for number in range(count)])
    return store


class Dying(MemoryStore):
    """A store that goes away after so many writes."""

    left = 2

    def upsert(self, records: Sequence[Record]) -> None:
        self.left -= 1
        if self.left < 0:
            raise StoreError("the server went away")
        super().upsert(records)


def test_a_copy_holds_the_same_and_answers_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH_RECORDS", 1000)
    source, target = filled(2500), open_store(str(tmp_path / "b.index"), dim=DIM)
    told = list[Copied]()
    copied = copy_records(source, target, on_progress=told.append)
    assert (copied.total, copied.written, copied.same) == (2500, 2500, 0)
    assert [one.written for one in told] == [1000, 2000, 2500]
    queries = np.stack([random_vector(DIM, 9000 + number) for number in range(50)])
    verdict = verify(source, target, {"text": queries})
    assert verdict.is_same
    assert (verdict.source_count, verdict.target_count) == (2500, 2500)
    assert verdict.answers["text"].overlap == verdict.answers["text"].same_order == 1.0
    target.close()


def test_an_interrupted_copy_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH_RECORDS", 100)
    source, target = filled(1000), Dying(DIM)
    with pytest.raises(StoreError, match="went away"):
        copy_records(source, target)
    assert target.count() == 200
    target.left = 1000
    copied = copy_records(source, target)
    assert (copied.written, copied.same) == (800, 200)
    assert verify(source, target, {}).is_same


def test_a_second_copy_brings_over_what_changed_and_prune_takes_away_what_left() -> None:
    source, target = filled(30), MemoryStore(DIM)
    copy_records(source, target)
    changed = plain_record(3, DIM, caption="other words")
    source.upsert([changed])
    source.delete([plain_record(4, DIM).id])
    copied = copy_records(source, target)
    assert (copied.written, copied.same, copied.removed) == (1, 28, 0)
    assert target.fetch([changed.id])[0].payload == changed.payload
    verdict = verify(source, target, {})
    assert (verdict.extra, verdict.named["extra"]) == (1, [plain_record(4, DIM).uri])
    assert copy_records(source, target, prune=True).removed == 1
    assert verify(source, target, {}).is_same


def test_every_kind_of_difference_is_counted_and_named() -> None:
    source, target = filled(10), filled(10)
    target.delete([plain_record(1, DIM).id])
    target.upsert([plain_record(99, DIM), plain_record(2, DIM, caption="changed")])
    target.upsert([Record(plain_record(3, DIM).id, plain_record(3, DIM).uri, random_vector(DIM, 77), {"number": 3})])
    verdict = verify(source, target, {"image": np.stack([plain_record(3, DIM).vector])})
    assert (verdict.missing, verdict.extra, verdict.different) == (1, 1, 2)
    assert verdict.named["missing"] == ["file:///pictures/1.jpg"]
    assert verdict.named["extra"] == ["file:///pictures/99.jpg"]
    assert set(verdict.named["different"]) == {"file:///pictures/2.jpg", "file:///pictures/3.jpg"}
    assert verdict.answers["image"].same_order == 0
    assert not verdict.is_same


def test_stores_of_other_dimensions_are_refused() -> None:
    with pytest.raises(DimensionMismatch, match="16 dimensions and the target of 8"):
        copy_records(filled(1), MemoryStore(8))
