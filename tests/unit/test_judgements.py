"""Tables of captions and grades as people have them."""

from pathlib import Path

import pytest
from tests.pictures import scene

from sightline.errors import SourceError
from sightline.evaluate import report
from sightline.evaluate.judgements import load, load_qrels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        scene(ord(name[0])).resize((32, 32)).save(tmp_path / name)
    return tmp_path


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "table.tsv"
    path.write_bytes(text.encode(encoding))
    return path


def test_each_caption_is_a_query_and_duplicate_rows_count_once(folder: Path) -> None:
    rows = "image\tcaption\na.png\ta dog\nb.png\ta dog\na.png\tanother\na.png\tanother\n"
    judged = load(table(folder, rows))
    assert list(judged.queries) == ["a dog", "a dog", "another"]
    assert [path.name for path in judged.images] == ["a.png", "b.png"]
    assert judged.pairs.tolist() == [[0, 0], [1, 1], [2, 0]]


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [("\t", "utf-8-sig"), (",", "utf-8"), (";", "cp1252"), ("\t", "utf-16")]
)
def test_delimiters_and_encodings_are_found_out(folder: Path, delimiter: str, encoding: str) -> None:
    rows = f"image{delimiter}caption\na.png{delimiter}ein hübscher Hund\n"
    assert list(load(table(folder, rows, encoding)).queries) == ["ein hübscher Hund"]


def test_a_caption_with_a_comma_in_quotes_stays_whole(folder: Path) -> None:
    assert list(load(table(folder, 'image,caption\na.png,"a dog, running"\n')).queries) == ["a dog, running"]


def test_captions_of_missing_pictures_are_counted(folder: Path) -> None:
    judged = load(table(folder, "image\tcaption\na.png\tone\nnowhere.png\ttwo\n"))
    assert (judged.missing, len(judged.queries)) == (1, 1)


def test_a_split_takes_its_rows_only(folder: Path) -> None:
    rows = "image\tsplit\tcaption\na.png\tdev\tone\nb.png\ttrain\ttwo\n"
    judged = load(table(folder, rows), split="dev")
    assert (judged.name, list(judged.queries)) == ("table:dev", ["one"])
    with pytest.raises(SourceError, match=r"no split 'test', expected one of dev, train"):
        load(table(folder, rows), split="test")


def test_grades_make_one_query_of_one_text(folder: Path) -> None:
    judged = load(table(folder, "query\timage\tgrade\ndog\ta.png\t2\ndog\tb.png\t1\ndog\tc.png\t0\n"))
    assert (list(judged.queries), judged.grades.tolist()) == (["dog"], [2.0, 1.0])


def test_trec_qrels_are_read(folder: Path) -> None:
    topics = folder / "topics.tsv"
    topics.write_text("7\ta dog\n")
    judged = load_qrels(table(folder, "7 0 a.png 2\n7 0 b.png 0\n"), topics, images=folder)
    assert (list(judged.queries), judged.grades.tolist()) == (["a dog"], [2.0])


def test_what_is_left_out_of_class_folders_is_counted_and_said(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/notes.md", "dog/b.png", "dog/raw.cr2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        scene(1).resize((32, 32)).save(tmp_path / name, "PNG")
    judged = load(tmp_path)
    assert (len(judged.images), judged.left_out) == (2, 2)
    assert "2 pictures, 2 queries, left out: 2 files not named like a picture" in report.terminal([], judged)


def test_class_folders_are_queries(tmp_path: Path) -> None:
    for number, name in enumerate(["red_panda", "red_panda", "cat"]):
        (tmp_path / name).mkdir(exist_ok=True)
        scene(number).resize((32, 32)).save(tmp_path / name / f"{number}.png")
    judged = load(tmp_path)
    assert (list(judged.queries), judged.is_classes) == (["cat", "red panda"], True)
    assert judged.pairs.tolist() == [[0, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"\(none\), expected image and caption"),
        ("one\ttwo\n1\t2\n", "columns one, two, expected image and caption"),
        ("image\tcaption\n", "judges no picture"),
        ("query\timage\tgrade\ndog\ta.png\tgood\n", "grade 'good', expected a number"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(folder: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load(table(folder, text))


def test_names_are_matched_as_the_index_matches_them(folder: Path) -> None:
    judged = load(table(folder, "image\tcaption\nA.PNG\tone\n.\\b.png\ttwo\n"))
    assert ([path.name for path in judged.images], judged.missing) == (["a.png", "b.png"], 0)
