"""Shards as others pack them: members in any order, keys with dots, masks beside pictures, captions that have none."""

import random
from pathlib import Path

import pytest
from tests.archives import make_tar, make_zip
from tests.pictures import encoded, scene

from sightline.sources.archive import Archive
from sightline.sources.base import Opening, open_source

PICTURE = encoded(scene(1, (32, 32)), "JPEG")


def read(path: Path, image: str | None = None) -> tuple[dict[object, object], dict[str, int]]:
    source = open_source(path, Opening(image=image))
    assert isinstance(source, Archive)
    for _ in range(2):
        items = list(source)
        assert all(item.read() for item in items)
    return {item.payload["name"]: item.payload.get("caption") for item in items}, dict(source.left_out)


def sample(key: str) -> dict[str, bytes]:
    names = (f"{key}.jpg", f"{key}.seg.png", f"{key}.depth.png", f"{key}.txt")
    return {name: key.encode() if name.endswith("txt") else PICTURE for name in names}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
@pytest.mark.parametrize("order", ["by key", "by kind", "reversed", "at random"])
def test_members_may_come_in_any_order(tmp_path: Path, suffix: str, order: str) -> None:
    members = {name: data for number in range(9) for name, data in sample(f"set/00{number}").items()}
    names = list(members)
    if order == "by kind":
        names.sort(key=lambda name: name.rpartition(".")[2])
    elif order == "reversed":
        names.reverse()
    elif order == "at random":
        random.Random(1).shuffle(names)
    shuffled, path = {name: members[name] for name in names}, tmp_path / f"a{suffix}"
    if suffix == ".zip":
        make_zip(path, shuffled)
    else:
        make_tar(path, shuffled, "w:gz" if suffix == ".tar.gz" else "w")
    found, left_out = read(path)
    assert found == {f"00{number}.jpg": f"set/00{number}" for number in range(9)}
    assert left_out == {".seg.png": 9, ".depth.png": 9}


def test_keys_may_have_dots(tmp_path: Path) -> None:
    members = {"v1.0_a.jpg": PICTURE, "v1.0_b.jpg": PICTURE, "v1.0_a.txt": b"first", "v1.0_b.txt": b"second"}
    assert read(make_tar(tmp_path / "a.tar", members)) == ({"v1.0_a.jpg": "first", "v1.0_b.jpg": "second"}, {})


def test_which_member_is_the_picture_can_be_chosen(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", sample("a") | sample("b"))
    assert read(path, "seg.png") == (
        {"a.seg.png": "a", "b.seg.png": "b"},
        {".jpg": 2, ".depth.png": 2},
    )


def test_of_two_pictures_with_one_caption_one_is_the_picture(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"a.png": PICTURE, "a.txt": b"one", "a.jpg": PICTURE})
    assert read(path) == ({"a.jpg": "one"}, {".png": 1})


@pytest.mark.parametrize("names", [["a.jpg", "a.png"], ["a.b.jpg", "a.c.jpg"], ["a.depth.png"], ["a.jpg", "a.1.jpg"]])
def test_pictures_that_are_no_sample_are_all_taken(tmp_path: Path, names: list[str]) -> None:
    found, left_out = read(make_zip(tmp_path / "a.zip", dict.fromkeys(names, PICTURE)))
    assert (sorted(map(str, found)), left_out) == (sorted(names), {})


def test_a_caption_without_a_picture_is_said(tmp_path: Path) -> None:
    members = {"a.jpg": PICTURE, "a.txt": b"one", "b.txt": b"two", "c.mp3": b"", "d.json": b"{}"}
    assert read(make_tar(tmp_path / "a.tar", members)) == ({"a.jpg": "one"}, {".txt": 1, ".mp3": 1, ".json": 1})


def test_what_shards_leave_out_is_said_of_all_of_them(tmp_path: Path) -> None:
    for number in range(3):
        make_tar(tmp_path / f"{number}.tar", sample(f"{number}"))
    source = open_source(str(tmp_path / "{0..2}.tar"))
    assert len(list(source)) == 3
    assert getattr(source, "left_out", None) == {".seg.png": 3, ".depth.png": 3}


def test_a_caption_that_cannot_be_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(make_tar(tmp_path / "a.tar", {"a.jpg": PICTURE, "a.json": b"{broken"}))[0] == {"a.jpg": None}
    assert "a.json tells nothing of the picture beside it" in caplog.text


def listed(path: Path) -> dict[object, object]:
    return {item.payload["name"]: item.payload.get("caption") for item in open_source(path, Opening())}


def test_lists_of_shards_are_read_as_their_pictures(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for shard in ("00000", "00001"):
        make_tar(tmp_path / "shards" / f"{shard}.tar", sample(f"{shard}_a"))
    both = {"00000_a.jpg": "00000_a", "00001_a.jpg": "00001_a"}
    text, index = tmp_path / "train.txt", tmp_path / "index.json"
    text.write_text("shards/00000.tar\n\nshards/00001.tar\n")
    index.write_text('{"wids_version": 1, "shardlist": [{"url": "shards/00000.tar", "nsamples": 1}]}')
    assert listed(text) == both
    assert listed(index) == {"00000_a.jpg": "00000_a"}
    text.write_text("shards/00000.tar\nshards/gone.tar\n")
    assert list(listed(text)) == ["00000_a.jpg", "gone.tar"]


def test_the_table_beside_a_shard_of_img2dataset_stands_for_the_shard(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    make_tar(tmp_path / "00000.tar", sample("000000000"))
    rows = {"url": ["http://127.0.0.1:9/a.jpg"], "caption": ["x"], "key": ["000000000"], "status": ["success"]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "00000.parquet")
    assert listed(tmp_path / "00000.parquet") == {"000000000.jpg": "000000000"}
