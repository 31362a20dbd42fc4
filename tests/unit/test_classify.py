"""Pictures and labels become the probabilities that each model family defines."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.pictures import scene

from sightline.analysis.classify import TEMPLATES, classify, label_vectors, probabilities, tag_pictures
from sightline.cli.main import main
from sightline.encoders.base import load_encoder
from sightline.errors import UsageError
from sightline.evaluate.report import confusion_html
from sightline.evaluate.run import confusion
from sightline.index import Index
from sightline.stores.memory import MemoryStore
from sightline.types import Payload, Record, Vectors, record_id


@dataclass(frozen=True)
class Scale:
    logit_scale: float
    logit_bias: float | None = None


CORNERS = np.eye(3, dtype=np.float32)
PICTURE = np.array([[0.8, 0.6, 0.0]], np.float32)


def test_the_clip_family_gives_the_softmax_of_scaled_cosines() -> None:
    expected = np.exp([8.0, 6.0, 0.0]) / np.exp([8.0, 6.0, 0.0]).sum()
    assert np.allclose(probabilities(PICTURE, CORNERS, Scale(10.0))[0], expected, atol=1e-6)  # type: ignore[arg-type]


def test_the_siglip_family_gives_each_label_its_own_sigmoid() -> None:
    found = probabilities(PICTURE, CORNERS, Scale(10.0, -5.0))[0]  # type: ignore[arg-type]
    assert np.allclose(found, 1 / (1 + np.exp([-3.0, -1.0, 5.0])), atol=1e-6)
    assert found.sum() > 1.5


def test_several_templates_are_averaged_as_unit_vectors() -> None:
    encoder = load_encoder("mini")
    templates = ["a photo of {}", "a drawing of {}"]
    texts = [encoder.encode_texts([template.replace("{}", "dog")])[0] for template in templates]
    mean = (texts[0] + texts[1]) / np.linalg.norm(texts[0] + texts[1])
    assert np.allclose(label_vectors(["dog", "cat"], encoder, templates)[0], mean, atol=1e-4)


def test_every_named_set_has_a_place_for_the_label() -> None:
    assert all("{}" in template for templates in TEMPLATES.values() for template in templates)
    with pytest.raises(UsageError, match="where the label goes"):
        classify(PICTURE, ["dog", "cat"], load_encoder("mini"), templates=["a photo"])


def index_of(count: int) -> MemoryStore:
    store = MemoryStore(3)
    turned = [CORNERS[n % 3] for n in range(count)]
    payload: Payload = {"tags": ["mine", "old"], "name": "x"}
    store.upsert([Record(record_id(f"p:{n}"), f"p:{n}", vector, payload) for n, vector in enumerate(turned)])
    return store


def chances(vectors: Vectors) -> Vectors:
    return probabilities(vectors, CORNERS, Scale(10.0))  # type: ignore[arg-type]


def test_tags_are_set_and_removed_and_those_of_others_stay() -> None:
    store = index_of(6)
    done = tag_pictures(store, ["cat", "dog", "old"], chances)
    assert (done.seen, done.changed, done.counts) == (6, 4, {"cat": 2, "dog": 2, "old": 2})
    by_uri = {record.uri: record.payload for record in store.scan()}
    assert by_uri["p:0"] == {"tags": ["mine", "cat"], "name": "x"}
    assert by_uri["p:2"] == {"tags": ["mine", "old"], "name": "x"}
    assert store.count({"tags": "cat"}) == 2


def test_a_second_run_writes_only_what_is_new() -> None:
    store = index_of(6)
    tag_pictures(store, ["cat", "dog", "old"], chances)
    store.upsert([Record(record_id("p:new"), "p:new", CORNERS[0])])
    done = tag_pictures(store, ["cat", "dog", "old"], chances)
    assert (done.seen, done.changed) == (7, 1)


def test_what_is_below_the_threshold_or_beyond_the_top_is_no_tag() -> None:
    store = index_of(3)
    assert set(tag_pictures(store, ["cat", "dog", "bird"], chances, threshold=1.0).counts.values()) == {0}
    assert sum(tag_pictures(store, ["cat", "dog", "bird"], chances, threshold=0.0, top=2).counts.values()) == 6
    with pytest.raises(UsageError, match="0 to 1"):
        tag_pictures(store, ["cat", "dog"], chances, threshold=2)


def test_class_folders_give_an_accuracy_and_what_is_confused(tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for seed in range(3):
            scene(seed + 10 * (name == "red")).save(tmp_path / "classes" / name / f"{seed}.png")
    found = confusion(load_encoder("mini"), tmp_path / "classes", tmp_path / "cache", ["{}"])
    assert found.counts.sum() == 6
    assert found.counts.sum(axis=1).tolist() == [3, 3]
    assert found.top1.mean == pytest.approx(np.trace(found.counts) / 6)
    assert sum(times for _, _, times in found.mistakes) == 6 - np.trace(found.counts)
    assert confusion_html(found, "a & b").count("<rect") == 1 + np.count_nonzero(found.counts)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled") / "photos"
    folder.mkdir()
    for seed in range(4):
        scene(seed).save(folder / f"{seed}.png")
    return folder


def test_the_command_says_which_label_fits_and_what_could_not_be_read(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = photos.parent / "labels.txt"
    labels.write_text("a red circle\na dog\n\na blue square\na dog\n")
    (photos.parent / "broken.png").write_text("no picture")
    sources = [str(photos), str(photos.parent / "broken.png")]
    assert main(["classify", *sources, "--labels", str(labels), "--top", "2", "--model", "mini", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [Path(one["uri"]).name for one in found] == [f"{seed}.png" for seed in range(4)]
    assert all(one["labels"][0]["probability"] >= one["labels"][1]["probability"] for one in found)
    assert "broken.png" in printed.err
    assert main(["classify", str(photos), "--model", "mini"]) == 2
    assert "--labels is missing" in capsys.readouterr().err


def test_tags_outlive_indexing_a_touched_file_again(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(photos.parent / "photos.index")
    with Index(url, model="mini") as index:
        index.add(photos)
    assert main(["tag", "--index", url, "--labels", "circle,square", "--threshold", "0", "--top", "1"]) == 0
    with Index(url) as index:
        before = {record.uri: record.payload["tags"] for record in index.store.scan()}
        os.utime(photos / "0.png", (1, 1))
        assert index.add(photos).reused == 1
        assert {record.uri: record.payload["tags"] for record in index.store.scan()} == before
    assert len(before) == 4


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("cat", "'cat' has 1 label, expected two or more"),
        ("{folder}/none.txt", "none.txt holds 0 labels, expected two or more"),
        ("{folder}/missing.txt", "cannot read"),
    ],
)
def test_too_few_labels_are_told_with_where_they_come_from(
    photos: Path, labels: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos.parent / "none.txt").write_text("\n")
    text = labels.format(folder=photos.parent)
    assert main(["classify", str(photos), "--labels", text, "--model", "mini"]) == 2
    assert told in capsys.readouterr().err


def test_options_that_would_do_nothing_are_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "--evaluate", str(photos), "--labels", "a,b", "--model", "mini"]) == 2
    assert "--labels cannot be used with --evaluate" in capsys.readouterr().err
    assert main(["classify", str(photos), "--labels", "a,b", "--html", "a.html", "--model", "mini"]) == 2
    assert "--html is the page of --evaluate" in capsys.readouterr().err


def test_nothing_to_classify_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(tmp_path), "--labels", "a,b", "--model", "mini"]) == 1
    printed = capsys.readouterr()
    assert (printed.out, "no picture found in" in printed.err) == ("", True)


def test_pictures_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    for number, name in enumerate(("red", "blue")):
        (tmp_path / "classes" / name).mkdir(parents=True)
        scene(number).save(tmp_path / "classes" / name / "a.png")
    (tmp_path / "classes" / "red" / "b.png").write_text("no picture")
    found = confusion(load_encoder("mini"), tmp_path / "classes", tmp_path / "cache", ["{}"])
    assert (found.counts.sum(), found.unreadable) == (2, 1)


def test_of_a_thousand_labels_those_that_fit_are_printed_and_the_filter_can_be_copied(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(photos.parent / "many.index")
    with Index(url, model="mini") as index:
        index.add(photos)
    (photos.parent / "many.txt").write_text("a red circle\n" + "".join(f"label {n}\n" for n in range(999)))
    tagged = ["tag", "--labels", str(photos.parent / "many.txt"), "--index", url]
    assert main([*tagged, "--threshold", "0", "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 4 + 2
    assert "of 1,000 do not fit any picture" in printed
    assert "--where 'tags=" in printed


def test_a_label_cannot_write_over_the_terminal(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(photos), "--labels", "cat,d\x1b[31mog", "--top", "2", "--model", "mini"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "d\\u001b[31mog" in printed


def test_only_commands_that_keep_what_is_done_say_so_when_they_are_stopped(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sightline.encoders.base.choose_model", stopped)
    assert main(["classify", str(photos), "--labels", "a,b"]) == 130
    assert "stopped; nothing was changed" in capsys.readouterr().err
    monkeypatch.setattr("sightline.analysis.classify.tag_pictures", stopped)
    with Index(str(photos.parent / "stopped.index"), model="mini") as index:
        index.add(photos)
    assert main(["tag", "--labels", "a,b", "--index", str(photos.parent / "stopped.index")]) == 130
    assert "run the same command to continue" in capsys.readouterr().err
