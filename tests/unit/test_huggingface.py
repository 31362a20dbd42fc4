"""A data set of the hub's kind becomes items, read as a stream."""

import json
import time
from pathlib import Path

import pytest
from tests.pages import web
from tests.pictures import encoded, scene, write

from sightline.errors import SourceError
from sightline.index import Index
from sightline.sources.base import open_source, read_uri

datasets = pytest.importorskip("datasets", reason="needs the datasets extra")
pytestmark = pytest.mark.filterwarnings("ignore")  # the package's own


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", tmp_path / "hf-modules")


def make_parquet(folder: Path) -> str:
    """Two splits with a column of pictures, labels, captions and vectors."""
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "text": datasets.Value("string"),
            "tags": datasets.Sequence(datasets.Value("string")),
            "vector": datasets.Sequence(datasets.Value("float32")),
        }
    )
    (folder / "set" / "data").mkdir(parents=True)
    for split, numbers in {"train": [0, 1, 2], "test": [3]}.items():
        rows = [
            {
                "photo": {"bytes": encoded(scene(n), "JPEG"), "path": None},
                "label": n % 2,
                "text": f"caption {n}",
                "tags": ["x", "y"],
                "vector": [0.5] * 4,
            }
            for n in numbers
        ]
        path = folder / "set" / "data" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))
    return f"hf://datasets/{folder / 'set'}"


def test_a_column_of_pictures_with_what_is_known_of_them(tmp_path: Path) -> None:
    url = make_parquet(tmp_path)
    items = list(open_source(f"{url}?split=train&caption=text"))
    assert [item.read() for item in items] == [encoded(scene(n), "JPEG") for n in range(3)]
    assert [item.payload["label"] for item in items] == ["cat", "dog", "cat"]
    assert [item.payload["caption"] for item in items] == [f"caption {n}" for n in range(3)]
    assert items[0].payload["tags"] == ["x", "y"]
    assert "vector" not in items[0].payload
    assert [read_uri(item.uri) for item in items] == [item.read() for item in items]


def test_without_a_split_all_of_them(tmp_path: Path) -> None:
    url = make_parquet(tmp_path)
    items = list(open_source(url))
    assert sorted(str(item.payload["split"]) for item in items) == ["test", "train", "train", "train"]
    assert read_uri(items[3].uri) == items[3].read()
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(url).encoded == 4
        assert index.add(url).unchanged == 4


def test_a_folder_of_pictures_and_its_metadata(tmp_path: Path) -> None:
    for number, name in enumerate(["cat/a.jpg", "dog/b.jpg"]):
        write(tmp_path / "set", name, encoded(scene(number), "JPEG"))
    items = list(open_source(f"hf://datasets/{tmp_path / 'set'}?split=train"))
    assert {(item.payload["name"], item.payload["label"]) for item in items} == {("a.jpg", "cat"), ("b.jpg", "dog")}
    assert sorted(item.read() for item in items) == sorted(encoded(scene(n), "JPEG") for n in range(2))


def test_a_column_of_urls(tmp_path: Path) -> None:
    with web(lambda path: encoded(scene(int(path[-1])), "JPEG")) as served:
        rows = [{"image_url": f"{served.url}/ok/{n}", "caption": f"caption {n}"} for n in range(3)]
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        items = list(open_source(f"hf://datasets/{tmp_path / 'set'}?split=train"))
        assert [item.payload["caption"] for item in items] == [f"caption {n}" for n in range(3)]
        assert [item.read() for item in items] == [encoded(scene(n), "JPEG") for n in range(3)]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    url = make_parquet(tmp_path)
    with pytest.raises(SourceError, match=r"option 'spilt', expected some of split, config"):
        open_source(f"{url}?spilt=train")
    with pytest.raises(SourceError, match="cannot be had"):
        open_source(f"{url}?split=dev")
    with pytest.raises(SourceError, match="no column 'foto', expected --image-column to be one of"):
        open_source(f"{url}?split=train&image=foto")
    with pytest.raises(SourceError, match="has no picture in row 99"):
        open_source(f"{url}?split=train#99")


def test_a_hub_that_is_not_there_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"http://127.0.0.1:1 cannot be reached .*Connection refused.*name a folder"):
        open_source("hf://datasets/owner/name")
    assert time.monotonic() - began < 6
