"""Captions tables and class folders as people have them, with everything that does not fit."""

from pathlib import Path
from typing import Any

import pytest

from sightline.errors import SourceError
from sightline.train.config import DataSettings
from sightline.train.data import read_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def texts(folder: Path, **settings: Any) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    found = read_set(DataSettings(table="table", **settings), folder)
    return {picture.path.name: picture.texts for picture in found.pictures}, dict(found.dropped)


def test_every_caption_of_a_picture_is_kept_in_order(folder: Path) -> None:
    (folder / "table").write_text("image\tcaption\na.jpg\tone\nb.jpg\tthree\na.jpg\ttwo\n")
    assert texts(folder) == ({"a.jpg": ("one", "two"), "b.jpg": ("three",)}, {})


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_delimiter_and_encoding_are_read_off_the_file(folder: Path, delimiter: str, encoding: str) -> None:
    (folder / "table").write_text(f"image{delimiter}caption\na.jpg{delimiter}un café crème\n", encoding=encoding)
    assert texts(folder)[0] == {"a.jpg": ("un café crème",)}


def test_a_quotation_mark_in_a_tab_separated_caption_swallows_nothing(folder: Path) -> None:
    (folder / "table").write_text('image\tcaption\na.jpg\t"love" on a bib\nb.jpg\ta 5" pipe\nc.jpg\tend\n')
    assert list(texts(folder)[0]) == ["a.jpg", "b.jpg", "c.jpg"]


def test_what_cannot_be_used_is_dropped_and_counted(folder: Path) -> None:
    (folder / "table").write_text("image\tcaption\na.jpg\tone\na.jpg\tone\nb.jpg\t \ngone.jpg\tx\ngone.jpg\ty\n")
    used, dropped = texts(folder)
    assert used == {"a.jpg": ("one",)}
    assert dropped == {
        "captioned pictures do not exist": 1,
        "rows have no caption": 1,
        "captions are repeated": 1,
        "pictures have no caption": 1,
    }


def test_only_the_rows_of_the_split_are_used(folder: Path) -> None:
    (folder / "table").write_text("image\tcaption\tsplit\na.jpg\tone\ttrain\nb.jpg\ttwo\tdev\n")
    assert texts(folder, split="dev")[0] == {"b.jpg": ("two",)}


def test_an_empty_split_names_the_splits_there_are(folder: Path) -> None:
    (folder / "table").write_text("image\tcaption\tsplit\na.jpg\tone\ttrain\nb.jpg\ttwo\tdev\n")
    with pytest.raises(SourceError, match="no split 'test', expected one of dev, train"):
        texts(folder, split="test")


def test_a_missing_column_names_the_columns_there_are(folder: Path) -> None:
    (folder / "table").write_text("one\ttwo\na.jpg\tone\n")
    with pytest.raises(SourceError, match="no column 'image', expected the configured one to be one of one, two"):
        texts(folder)


def test_a_set_without_any_usable_picture_is_an_error_that_says_why(folder: Path) -> None:
    (folder / "table").write_text("image\tcaption\ngone.jpg\tone\n")
    with pytest.raises(SourceError, match="captioned pictures do not exist"):
        texts(folder)


def test_held_out_and_used_pictures_are_apart_and_together_everything(folder: Path) -> None:
    (folder / "all").mkdir()
    rows = "".join(f"all/{n}.jpg\tnumber {n}\n" for n in range(200))
    for n in range(200):
        (folder / "all" / f"{n}.jpg").write_bytes(b"")
    (folder / "table").write_text("image\tcaption\n" + rows)
    settings = DataSettings(table="table", hold_out_percent=20)
    used = {one.path for one in read_set(settings, folder).pictures}
    held = {one.path for one in read_set(settings, folder, is_held_out=True).pictures}
    assert not used & held
    assert len(used | held) == 200
    assert 20 < len(held) < 60


def test_class_folders_become_names_in_templates_and_are_held_out_whole(tmp_path: Path) -> None:
    for name in ("water_lilly", "cat", "dog", "car", "cup", "fish"):
        (tmp_path / name).mkdir()
        for n in range(3):
            (tmp_path / name / f"{n}.jpg").write_bytes(b"")
    settings = DataSettings(
        images=".", kind="folders", templates=("a {}", "{}"), names={"water_lilly": "water lily"}, hold_out_percent=50
    )
    used = read_set(settings, tmp_path).pictures
    held = read_set(settings, tmp_path, is_held_out=True).pictures
    texts_of = {picture.texts for picture in (*used, *held)}
    assert ("a water lily", "water lily") in texts_of
    assert len(used) + len(held) == 18
    assert not {one.texts for one in used} & {one.texts for one in held}
