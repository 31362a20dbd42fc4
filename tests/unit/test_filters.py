"""Filters as people write them become filters as stores take them."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from sightline.errors import WhereError
from sightline.filters.dates import with_local_times
from sightline.filters.fields import Fields
from sightline.filters.where import matches
from sightline.types import Payload

EMPTY = Fields(lambda name: iter(()))


class Pictures:
    """Payloads, and how often they were asked for."""

    def __init__(self, *payloads: Payload) -> None:
        self.payloads, self.asked = payloads, 0

    def __call__(self, name: str | None) -> Iterator[Payload]:
        self.asked += 1
        return (payload for payload in self.payloads if name is None or name in payload)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("color=red", {"color": {"$eq": "red"}}),
        ("width>=800", {"width": {"$gte": 800}}),
        ("ratio < 1.5", {"ratio": {"$lt": 1.5}}),
        ("camera!=Canon EOS", {"camera": {"$ne": "Canon EOS"}}),
        ("public=true", {"public": {"$eq": True}}),
        ('year="2024"', {"year": {"$eq": "2024"}}),
        ("taken=2024-05-06T07:08:09Z", {"taken": {"$eq": datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)}}),
        ('{"$or": [{"a": 1}, {"b": 2}]}', {"$or": [{"a": 1}, {"b": 2}]}),
        ("größe in px>3", {"größe in px": {"$gt": 3}}),
        ("code=1_000", {"code": {"$eq": "1_000"}}),
    ],
)
def test_a_filter_is_read(text: str, where: dict[str, Any]) -> None:
    assert EMPTY.read(text) == where


@pytest.mark.parametrize("text", ["", "color", "=red", "{broken", "color ~ red", "width=>3", "width>="])
def test_a_broken_filter_says_what_was_expected(text: str) -> None:
    with pytest.raises(WhereError, match="expected"):
        EMPTY.read(text)


@pytest.mark.parametrize(
    ("where", "is_found"),
    [
        ("taken>=2024", True),
        ("taken>2024", False),
        ("taken>2024-04", True),
        ("taken<2024-05-01", False),
        ("taken<=2024-05-01", True),
        ("taken=2024-05-01", True),
        ("taken!=2024-05-01", False),
        ("taken=2024-04-30", False),
        ("taken<2024-05-01T00:30:01", True),
        ("taken<=2024-05-01 00:30:00", True),
        ("taken<2024-05-01 00:30:00", False),
        ("taken=2024-04-30T22:30:00Z", True),
        ("taken<=9999", True),
        ("taken<9999-12-31", True),
        ({"taken": {"$gte": 2024}}, True),
        ({"taken": date(2024, 5, 1)}, True),
        ({"taken": {"$lt": date(2024, 5, 1)}}, False),
        ({"taken": {"$not": {"$lt": "2024-05"}, "$exists": True}}, True),
        ({"$not": "taken=2024-05-01"}, False),
        ({"taken": {"$gt": datetime(2024, 4, 30, 22, tzinfo=UTC)}}, True),
    ],
)
def test_a_day_is_a_day_of_the_camera(where: Any, is_found: bool) -> None:
    moment = datetime(2024, 5, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    read = EMPTY.read(where)
    assert matches(with_local_times({"taken": moment}), read) is is_found
    assert matches(with_local_times({"taken": moment.replace(tzinfo=UTC)}), read) is is_found or "Z" in str(where)


def test_what_was_written_without_its_wall_clock_is_compared_in_utc() -> None:
    moment = datetime(2024, 5, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    assert matches({"taken": moment}, EMPTY.read("taken=2024-04-30"))


def test_a_value_is_read_as_its_field_holds_it() -> None:
    shot = datetime(2024, 5, 1, tzinfo=UTC)
    fields = Fields(Pictures({"code": "0042", "number": 42, "shot": shot, "is_new": True, "tags": ["7"], "mixed": 1}))
    assert fields.read("code=0042") == {"code": {"$eq": "0042"}}
    assert fields.read("number=0042") == {"number": {"$eq": 42}}
    assert fields.read("tags=7") == {"tags": {"$eq": "7"}}
    assert fields.read("is_new=TRUE") == {"is_new": {"$eq": True}}
    assert matches({"shot": shot}, fields.read("shot=2024-05"))
    assert matches({"shot": shot}, fields.read({"shot": {"$lte": "2024"}}))
    with pytest.raises(WhereError, match="'2024-5' is not a valid date, expected YYYY"):
        fields.read("shot=2024-5")
    with pytest.raises(WhereError, match="'no' is not true or false, which 'is_new' holds"):
        fields.read("is_new=no")
    with pytest.raises(WhereError, match="42 is not text, which 'code' holds: put it in quotes"):
        fields.read({"code": 42})


def test_a_rarer_kind_is_found_before_a_filter_is_refused() -> None:
    fields = Fields(Pictures(*[{"size": 1}] * 500, {"size": "large"}))
    assert fields.read("size=large") == {"size": {"$eq": "large"}}
    assert fields.read("size=1") == {"size": {"$eq": 1}}


def test_pictures_are_asked_for_a_field_once_and_never_for_the_usual_ones() -> None:
    pictures = Pictures({"mood": "calm", "width": 3})
    fields = Fields(pictures)
    assert fields.read_known("mood=calm") is None
    for _ in range(3):
        fields.read({"mood": "calm", "width": {"$gt": 1}, "name": "a.jpg", "other": {"$exists": False}})
    assert pictures.asked == 1
    assert fields.read_known("mood=calm") == {"mood": {"$eq": "calm"}}


def test_a_field_that_no_picture_has_is_said_with_the_nearest() -> None:
    fields = Fields(Pictures({"color": "red", "stamp": "1"}, {"price": 3}))
    with pytest.raises(WhereError, match="no picture has the field 'colour', expected one of color, price: did you"):
        fields.read("colour=red")
    assert EMPTY.read("colour=red") == {"colour": {"$eq": "red"}}


def test_a_filter_that_is_nested_without_end_is_refused() -> None:
    where: dict[str, Any] = {"a": 1}
    for _ in range(100):
        where = {"$not": where}
    with pytest.raises(WhereError, match="nested more than 20 levels"):
        EMPTY.read(where)
