"""A part of a source is the same part each time, and the rest of the index stays."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.pictures import encoded, scene, write

from sightline.errors import UsageError, WhereError
from sightline.index import Index
from sightline.sources.base import open_source
from sightline.sources.select import Selected
from sightline.types import Item

ITEMS = [Item(f"file:///{n:03}.jpg", "1", bytes, {"n": n}) for n in range(200)]


def numbers(items: Iterable[Item]) -> list[int]:
    return [int(item.uri[-7:-4]) for item in items]


def test_a_sample_is_the_same_each_time_and_in_the_order_of_the_source() -> None:
    drawn = numbers(Selected(ITEMS, sample=20))
    assert drawn == numbers(Selected(iter(ITEMS), sample=20)) == sorted(drawn)
    assert len(drawn) == 20
    assert drawn != numbers(Selected(ITEMS, sample=20, seed=1))
    assert max(drawn) > 100 > min(drawn)


def test_one_picture_more_changes_one_of_the_sample_at_most() -> None:
    before = set(numbers(Selected(ITEMS[:-1], sample=20)))
    assert len(before - set(numbers(Selected(ITEMS, sample=20)))) <= 1


def test_conditions_come_first_then_the_sample_then_the_limit() -> None:
    drawn = numbers(Selected(ITEMS, where={"n": {"$gte": 100}}, sample=10, limit=5))
    assert len(drawn) == 5
    assert drawn == numbers(Selected(ITEMS[100:], sample=10))[:5]
    assert len(numbers(Selected(ITEMS, sample=1000))) == 200


@pytest.mark.parametrize("name", ["limit", "sample"])
def test_none_of_them_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 0, expected at least 1"):
        Selected(ITEMS, **{name: 0})  # type: ignore[arg-type]


def test_what_is_left_out_stays_in_the_index(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "photos", f"{number}.jpg", encoded(scene(number), "JPEG"))
    source = open_source(tmp_path / "photos")
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(Selected(source, limit=2)).encoded == 2
        assert index.add(source).encoded == 2
        summary = index.add(Selected(source, limit=1))
        assert (summary.seen, summary.removed, index.count()) == (1, 0, 4)


def test_a_condition_on_a_field_that_no_picture_has_names_those_there_are() -> None:
    with pytest.raises(WhereError, match="no picture has the field 'm', expected one of n"):
        list(Selected(ITEMS, where={"m": {"$gte": 100}}))
    assert list(Selected(ITEMS, where={"n": {"$gte": 1000}})) == []
    assert len(list(Selected(ITEMS, where={"m": {"$exists": False}}))) == 200
