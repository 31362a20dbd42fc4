"""Filters as people type them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sightline.cli.where import parse_where
from sightline.errors import WhereError


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("color=red", {"color": {"$eq": "red"}}),
        ("width>=800", {"width": {"$gte": 800}}),
        ("ratio < 1.5", {"ratio": {"$lt": 1.5}}),
        ("camera!=Canon EOS", {"camera": {"$ne": "Canon EOS"}}),
        ("public=true", {"public": {"$eq": True}}),
        ('year="2024"', {"year": {"$eq": "2024"}}),
        ("taken>=2024", {"taken": {"$gte": datetime(2024, 1, 1, tzinfo=UTC)}}),
        ("taken<2024-05", {"taken": {"$lt": datetime(2024, 5, 1, tzinfo=UTC)}}),
        ("taken=2024-05-06T07:08:09Z", {"taken": {"$eq": datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)}}),
        ('{"$or": [{"a": 1}, {"b": 2}]}', {"$or": [{"a": 1}, {"b": 2}]}),
    ],
)
def test_a_filter_is_read(text: str, where: dict[str, Any]) -> None:
    assert parse_where(text) == where


@pytest.mark.parametrize("text", ["", "color", "=red", "{broken", "color ~ red"])
def test_a_broken_filter_says_what_was_expected(text: str) -> None:
    with pytest.raises(WhereError, match="expected"):
        parse_where(text)
