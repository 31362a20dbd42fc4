"""A table or a folder of classes that one command takes, all take, with the same words."""

from pathlib import Path

import pytest
from tests.pictures import encoded, scene

from sightline.evaluate.judgements import load
from sightline.sources.base import open_source
from sightline.sources.delimited import CAPTION_COLUMNS, IMAGE_COLUMNS
from sightline.train.config import DataSettings
from sightline.train.data import read_set


def test_class_folders_hold_the_same_pictures_and_words_for_all(tmp_path: Path) -> None:
    for number, name in enumerate(
        ["dog/a.jpg", "dog/notes.md", "red-panda/b.jfif", "red-panda/c.mpo", "red_fox/d.JPG"]
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(scene(number, (32, 32)), "JPEG"))
    indexed = {item.uri.rsplit("/", 1)[1] for item in open_source(tmp_path) if not item.uri.endswith(".md")}
    judged = load(tmp_path)
    trained = read_set(DataSettings(kind="folders", images="."), tmp_path)
    assert indexed == {path.name for path in judged.images} == {"a.jpg", "b.jfif", "c.mpo", "d.JPG"}
    assert {picture.path.name for picture in trained.pictures} == indexed
    assert list(judged.queries) == ["dog", "red panda", "red fox"]
    assert {text for picture in trained.pictures for text in picture.texts} == set(judged.queries)
    assert trained.dropped == {"files are not pictures by their names": 1}


@pytest.mark.parametrize("image", IMAGE_COLUMNS)
@pytest.mark.parametrize("caption", CAPTION_COLUMNS)
def test_a_table_with_usual_columns_is_read_by_all(tmp_path: Path, image: str, caption: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(scene(1, (32, 32)), "PNG"))
    (tmp_path / "t.tsv").write_text(f"{image}\t{caption}\na.png\ta dog\n")
    (item,) = open_source(tmp_path / "t.tsv")
    assert item.payload["title" if caption == "title" else "caption"] == "a dog"
    judged = load(tmp_path / "t.tsv")
    assert ([path.name for path in judged.images], list(judged.queries)) == (["a.png"], ["a dog"])
    (picture,) = read_set(DataSettings(table="t.tsv"), tmp_path).pictures
    assert (picture.path.name, picture.texts) == ("a.png", ("a dog",))
