"""Cells keep their types, filters find them, and a broken one is its own row's failure."""

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.pictures import encoded, scene, write

from sightline.index import Index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        write(tmp_path, f"{number}.png", encoded(scene(number, (32, 32)), "PNG"))
    return tmp_path


def test_values_of_parquet_keep_their_types_and_filters_find_them(folder: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the parquet extra")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the parquet extra")
    rows = [
        {
            "image": f"{number}.png",
            "price": Decimal(f"{number}.50"),
            "day": date(2024, 5 + number, 1),
            "at": time(13, 45 + number),
            "ts": datetime(2024, 5, 1, number, tzinfo=UTC),
            "lasts": timedelta(seconds=number),
            "tags": ["red", f"tag{number}"],
            "numbers": [number, 42],
            "size": {"width": number, "unit": {"name": "cm"}},
            "raw": b"\x00\x01",
        }
        for number in range(3)
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "t.parquet")
    with Index(str(folder / "a.index"), model="pixels") as index:
        index.add(folder / "t.parquet")
        payload = dict(index.record(str(folder / "2.png")).payload)
        assert (payload["price"], payload["day"]) == (2.5, datetime(2024, 7, 1, tzinfo=UTC))
        assert (payload["at"], payload["lasts"], payload["numbers"]) == ("13:47:00", 2.0, ["2", "42"])
        assert (payload["size.width"], payload["size.unit.name"], "raw" in payload) == (2, "cm", False)
        for where, count in {
            "price>=1.5": 2,
            "day>=2024-06": 2,
            "day=2024-05-01": 1,
            "ts<=2024": 3,
            "lasts>0": 2,
            "at>13:45:30": 2,
            "tags=tag1": 1,
            "numbers=42": 3,
            "size.width>=1": 2,
            "size.unit.name=cm": 3,
        }.items():
            assert index.count(where) == count, where


BROKEN = {
    "a file: URL of another host": {"image": "file://server/share/a.png"},
    "a list": {"image": ["0.png", "1.png"]},
    "an object": {"image": {"name": "0.png"}},
    "a NUL": {"image": "a\0b.png"},
    "a lone surrogate": {"image": "\ud800.png"},
    "a very long name": {"image": "a" * 5000 + ".png"},
    "a number": {"image": 7},
    "no host": {"image": "http:///a.png"},
    "a bad port": {"image": "http://host:port/a.png"},
    "a bad IPv6 address": {"image": "http://[::1/a.png"},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_cell_is_its_rows_failure_and_the_rest_goes_on(folder: Path, broken: dict[str, Any]) -> None:
    lines = [json.dumps(row) for row in ({"image": "0.png"}, broken, {"image": "1.png"})]
    assert_one_fails(folder, "\n".join(lines))


@pytest.mark.parametrize("line", ["{broken", "[" * 500_000, "[1, 2]", "nothing", '{"image": "' + "a" * 200])
def test_a_broken_line_of_json_is_its_rows_failure_and_the_rest_goes_on(folder: Path, line: str) -> None:
    assert_one_fails(folder, f'{{"image": "0.png"}}\n{line}\n{{"image": "1.png"}}\n')


def assert_one_fails(folder: Path, text: str) -> None:
    (folder / "t.jsonl").write_text(text, "utf-8", "surrogatepass")
    with Index(str(folder / "a.index"), model="pixels") as index:
        summary = index.add(folder / "t.jsonl")
        assert (summary.encoded, summary.failed, index.count()) == (2, 1, 2)
        (failure,) = index.failures()
        assert len(failure.reason) < 6000
        again = index.add(folder / "t.jsonl")
        assert (again.unchanged, index.count()) == (2, 2)
