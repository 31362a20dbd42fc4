"""What a filter means."""

import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from tests.records import random_payload, random_where

from sightline.errors import WhereError
from sightline.filters.documents import words_of
from sightline.filters.where import check_where, matches
from sightline.types import Value

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
PAYLOAD: dict[str, Value] = {
    "color": "red",
    "width": 800,
    "ratio": 1.5,
    "flag": True,
    "tags": ["red", "round"],
    "none": [],
    "taken": NOON,
    "caption": "A Dog in the Snow",
    "name": "IMG_1234-Käse.jpg",
}


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"color": "red"},
        {"color": {"$eq": "red"}, "width": 800},
        {"color": {"$ne": "blue"}},
        {"width": 800.0},
        {"width": {"$gt": 799, "$lt": 801}},
        {"width": {"$gte": 800, "$lte": 800}},
        {"ratio": {"$gt": 1}},
        {"color": {"$gt": "rea", "$lt": "ree"}},
        {"flag": True},
        {"flag": {"$gt": False}},
        {"tags": "round"},
        {"tags": {"$in": ["square", "round"]}},
        {"tags": {"$gt": "red"}},
        {"color": {"$in": ["blue", "red"]}},
        {"color": {"$in": {"red"}}},
        {"color": {"$nin": ["blue"]}},
        {"color": {"$nin": []}},
        {"taken": NOON},
        {"taken": datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))},
        {"taken": {"$lt": NOON + timedelta(microseconds=1)}},
        {"none": {"$exists": True}},
        {"missing": {"$exists": False}},
        {"missing": {"$ne": 1}},
        {"missing": {"$nin": [1]}},
        {"missing": {"$not": {"$gt": 1}}},
        {"$not": {"missing": 1}},
        {"$and": [{"color": "red"}, {"$or": [{"width": 1}, {"flag": True}]}]},
        {"$match": "dog SNOW"},
        {"$match": "kase 1234"},
        {"$match": "img dog"},
        {"$or": [{"$match": "cat"}, {"$match": "dog"}]},
    ],
)
def test_matches(where: dict[str, Any]) -> None:
    assert matches(PAYLOAD, where)
    assert not matches(PAYLOAD, {"$not": where})


@pytest.mark.parametrize(
    "where",
    [
        {"color": "Red"},
        {"color": {"$ne": "red"}},
        {"width": "800"},
        {"width": True},
        {"flag": 1},
        {"flag": {"$gte": 0}},
        {"color": {"$gt": 1}},
        {"taken": "2024-05-01T12:00:00+00:00"},
        {"taken": {"$gt": 0}},
        {"missing": 1},
        {"missing": {"$lt": 1}},
        {"missing": {"$in": [1]}},
        {"missing": {"$exists": True}},
        {"tags": {"$ne": "red"}},
        {"tags": {"$nin": ["round"]}},
        {"tags": "re"},
        {"none": {"$gte": ""}},
        {"none": ""},
        {"color": {"$in": []}},
        {"width": {"$gt": 1, "$lt": 2}},
        {"color": "red", "width": 1},
        {"$or": [{"color": "blue"}, {"width": {"$lt": 0}}]},
        {"$match": "dog cat"},
        {"$match": "sno"},
    ],
)
def test_does_not_match(where: dict[str, Any]) -> None:
    assert not matches(PAYLOAD, where)
    assert matches(PAYLOAD, {"$not": where})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ([], r"\[\], expected a mapping: write it like"),
        ({"width": {"$get": 1}}, r"'\$get' is not a valid operator, expected one of \$eq .*: did you mean \$gte?\?"),
        ({"$nor": [{}]}, r"'\$nor' is not a valid operator, expected one of \$and \$or \$not \$match: did you mean"),
        ({"$gte": 1}, r"\$gte stands in the wrong place, expected it below a field"),
        ({"width": {"$or": []}}, r"\$or stands in the wrong place"),
        ({"width": {}}, "'width' has no condition, expected one of"),
        ({"width": {"a": 1}}, "'a' is not a valid operator"),
        ({"width": {1: 1}}, "1 is not a valid operator"),
        ({1: 1}, "a field of the filter is 1, expected text"),
        ({"": 1}, "a field of the filter is ''"),
        ({"tags": ["a"]}, r"\$eq of 'tags' is \['a'\], expected one value: use \$in"),
        ({"tags": {"$in": "abc"}}, r"\$in of 'tags' is 'abc', expected a list"),
        ({"tags": {"$in": [["a"]]}}, "expected one value"),
        ({"width": None}, r"\$eq of 'width' is None, expected text, a number"),
        ({"width": {"$gt": float("nan")}}, "nan, expected a finite number"),
        ({"width": {"$gt": 2**53}}, "expected an integer within 53 bits"),
        ({"color": "\udcff"}, "expected valid Unicode"),
        ({"taken": datetime(2024, 1, 1)}, "expected a time zone: add tzinfo"),
        ({"a": {"$exists": 1}}, r"\$exists of 'a' is 1, expected true or false"),
        ({"a": {"$not": 1}}, r"\$not of 'a' is 1, expected conditions: use \$ne"),
        ({"$not": 1}, "the filter is 1, expected a mapping"),
        ({"$and": {}}, r"\$and is \{\}, expected a list of at least one filter"),
        ({"$or": []}, r"\$or is \[\], expected a list of at least one filter"),
        ({"$match": "-- _"}, r"\$match is '-- _', expected words"),
        ({"$match": 3}, r"\$match is 3, expected words"),
    ],
)
def test_what_cannot_be_understood_says_what_was_expected(where: Any, message: str) -> None:
    with pytest.raises(WhereError, match=message):
        check_where(where)


def test_random_filters_are_valid_and_negation_negates() -> None:
    source = random.Random(1)
    found = 0
    for _ in range(500):
        where, payload = random_where(source), random_payload(source)
        assert matches(payload, {"$not": where}) is not matches(payload, where)
        found += matches(payload, where)
    assert 100 < found < 400


def test_words_have_neither_case_nor_diacritics() -> None:
    assert words_of("Crème BRÛLÉE, l'été_2024!") == ["creme", "brulee", "l", "ete", "2024"]
    assert words_of("Straße ŁÓDŹ") == ["strasse", "łodz"]
    assert words_of("雪山 の犬 dog犬2") == ["雪", "山", "の", "犬", "dog", "犬", "2"]
    assert words_of("ＦＵＬＬ ﬁn") == ["full", "fin"]
    assert words_of("") == words_of("🙂 -") == []
