"""Tables of every kind give the same rows."""

import gzip
import json
from pathlib import Path

import pytest

from sightline.errors import SourceError
from sightline.sources.files import is_table
from sightline.sources.rows import open_rows

ROWS = [{"image": "a.jpg", "caption": 'a "red" car, fast'}, {"image": "ü.jpg", "caption": "zwei Hunde"}]


def rows_of(path: Path) -> list[dict[str, object]]:
    rows = open_rows(path)
    assert list(rows.walk()) == list(rows.walk())
    return list(rows.walk())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "|"])
def test_delimiter_and_encoding_are_read_off_the_file(tmp_path: Path, encoding: str, delimiter: str) -> None:
    quoted = [f'{row["image"]}{delimiter}"{row["caption"].replace(chr(34), chr(34) * 2)}"' for row in ROWS]
    path = tmp_path / "a.csv"
    path.write_bytes("\r\n".join([f"image{delimiter}caption", *quoted, ""]).encode(encoding))
    assert rows_of(path) == ROWS
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    assert is_table(packed)
    assert rows_of(packed) == ROWS


def test_quotation_marks_in_tab_separated_captions_are_just_marks(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('image\tcaption\na.jpg\t"Stop" sign\nb.jpg\t5" disk\n')
    assert [row["caption"] for row in rows_of(path)] == ['"Stop" sign', '5" disk']


def test_a_line_with_a_url_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a dog in the snow\thttp://a.example/1.jpg\ntwo cats\thttps://a.example/2.jpg\n")
    assert rows_of(path) == [
        {"caption": "a dog in the snow", "url": "http://a.example/1.jpg"},
        {"caption": "two cats", "url": "https://a.example/2.jpg"},
    ]


def test_json_lines_may_have_other_fields_in_each_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n\n" for row in [*ROWS, {"image": "c", "tags": ["x"]}]))
    assert rows_of(path) == [*ROWS, {"image": "c", "tags": ["x"]}]
    assert open_rows(path).columns == ("image", "caption", "tags")


def test_parquet_is_read_in_pieces(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the parquet extra")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the parquet extra")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.Table.from_pylist(ROWS * 2000), path)
    assert rows_of(path) == ROWS * 2000


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.jsonl", b'{"image": 1}\n{broken\n', "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", r"line 1 is \[1\]"),
        ("a.parquet", b"nothing of the kind", "is not a valid Parquet file"),
        ("a.csv.gz", b"nothing of the kind", "cannot be read"),
        ("a.csv.gz", gzip.compress(b"image\n" + b"a.jpg\n" * 999, mtime=0)[:40], "ends too early"),
    ],
)
def test_what_is_no_such_table_is_said(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="needs the parquet extra")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=told):
        list(open_rows(tmp_path / name).walk())


def test_an_empty_file_has_neither_columns_nor_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    rows = open_rows(tmp_path / "a.csv")
    assert (rows.columns, list(rows.walk())) == ((), [])
