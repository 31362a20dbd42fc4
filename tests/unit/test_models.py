"""The commands that help to choose a model: what they list, fetch, remove, time and estimate."""

import json
import re
from pathlib import Path

import pytest
from tests.pictures import scene

from sightline.cli.main import main
from sightline.encoders import base, speed
from sightline.encoders.baselines import PixelsEncoder
from sightline.encoders.catalog import catalog
from sightline.encoders.hub import Hub
from sightline.encoders.speed import Speed
from sightline.errors import HubUnreachable, SourceError
from sightline.evaluate.recommend import FolderSample, estimates, sample_folder
from sightline.types import Pixels, Vectors


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIGHTLINE_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(30):
        scene(number, (320, 240)).save(folder / f"{number}.jpg")
    return folder


def lie_in_cache(cache: Path, name: str) -> Path:
    folder = cache / "models" / catalog()[name].repository.replace("/", "--")
    (folder / "visual").mkdir(parents=True)
    (folder / "visual" / "model.onnx").write_bytes(b"x" * 1000)
    return folder


def test_the_table_says_what_is_here_and_who_may_use_it(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    lie_in_cache(cache, "clip-b32")
    assert main(["models"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["clip-b32"].split()[1] == "yes"
    assert rows["clip-b16"].split()[1] == "512"
    assert "47.2" in rows["siglip2-b32"]
    assert "CC-BY-NC-4.0 (no commercial use)" in rows["nllb-base"]


def test_a_model_is_timed_once_and_the_table_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "bench", "pixels", "--json"]) == 0
    timed = json.loads(capsys.readouterr().out)
    assert timed["pictures_per_s"] > 100
    assert timed["text_ms"] is None
    assert main(["models", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["pixels"]["speed"]["pictures_per_s"] == timed["pictures_per_s"]
    assert listed["mini"]["speed"] is None


def test_a_damaged_note_of_speeds_is_none(cache: Path) -> None:
    cache.mkdir()
    (cache / "speeds.json").write_text('{"mini": {"unknown": 1}}')
    assert speed.speeds(Hub(cache=cache)) == {}
    speed.keep("mini", Speed(10, 2.0, "now"), Hub(cache=cache))
    assert speed.speeds(Hub(cache=cache)) == {"mini": Speed(10, 2.0, "now")}


def test_a_licence_that_forbids_commercial_use_is_asked_for_before_anything_is_fetched(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models", "get", "nllb-base"]) == 2
    assert "CC-BY-NC-4.0, forbids commercial use: give --yes" in capsys.readouterr().err
    assert main(["models", "get", "nllb-base", "--yes"]) == 2
    assert "offline mode is on" in capsys.readouterr().err


def test_it_is_said_wherever_such_a_model_is_fetched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HubUnreachable):
        base.load_encoder("nllb-base", hub=Hub(cache=tmp_path, offline=True))
    assert "nllb-base, CC-BY-NC-4.0, forbids commercial use" in caplog.text
    caplog.clear()
    with pytest.raises(HubUnreachable):
        base.load_encoder("clip-b32", hub=Hub(cache=tmp_path, offline=True))
    assert caplog.text == ""


def test_what_is_here_is_not_fetched_again(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    lie_in_cache(cache, "clip-b32")
    assert main(["models", "get", "clip-b32"]) == 0
    assert "is already on this disk" in capsys.readouterr().out


def test_a_removed_model_is_gone_and_the_others_stay(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    folders = [lie_in_cache(cache, name) for name in ("clip-b32", "clip-b16")]
    assert main(["models", "rm", "clip-b32"]) == 0
    assert "1.0 kB freed" in capsys.readouterr().out
    assert [folder.exists() for folder in folders] == [False, True]
    assert main(["models", "rm", "clip-b32"]) == 1


@pytest.mark.parametrize("name", ["mini", "pixels", "timm:resnet50", "./folder"])
def test_only_what_was_fetched_by_name_can_be_removed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "rm", name]) == 2
    assert "is not a model that can be removed" in capsys.readouterr().err


def test_a_folder_is_counted_and_a_few_files_are_timed(pictures: Path) -> None:
    (pictures / "broken.jpg").write_bytes(b"not a picture")
    sample = sample_folder(pictures)
    assert sample.pictures == 31
    assert sample.tried == 12
    assert all(0 < taken < 1 for taken in sample.decode_s.values())


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no picture found"):
        sample_folder(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(SourceError, match="none of 1 files"):
        sample_folder(tmp_path)


def test_hours_are_decoding_and_encoding_of_all_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.evaluate import recommend

    monkeypatch.setattr(recommend, "all_threads", lambda: 2)
    hub = Hub(cache=tmp_path, offline=True)
    speed.keep("clip-b32", Speed(20, 5.0, "now"), hub)
    speed.keep("pixels", Speed(5000, None, "now"), hub)
    sample = FolderSample(72_000, 1e6, {224: 0.02, 384: 0.04}, 12, 0)
    quick, slow = estimates(sample, hub, names=["clip-b32", "pixels"])
    assert (quick.model.name, quick.binds) == ("pixels", "decode")
    assert (slow.model.name, slow.binds) == ("clip-b32", "encode")
    assert slow.hours == pytest.approx(72_000 * (0.02 / 2 + 1 / 20) / 3600)
    assert slow.is_measured
    assert slow.download_mb == catalog()["clip-b32"].size_mb
    assert slow.disk_mb == pytest.approx(72_000 * (512 * 5 + 1000) / 1e6)


def test_what_is_not_here_is_estimated_from_its_arithmetic(tmp_path: Path) -> None:
    sample = FolderSample(1000, 1e6, {224: 1e-6, 384: 1e-6}, 12, 0)
    small, large = estimates(sample, Hub(cache=tmp_path, offline=True), names=["clip-l14", "clip-b32"])
    assert not small.is_measured
    assert large.hours / small.hours == pytest.approx(162 / 8.8, rel=0.01)


def test_recommend_lists_the_models_for_a_folder(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", str(pictures), "--model", "pixels", "--model", "siglip2-b32"]) == 0
    out = capsys.readouterr().out
    assert "30 pictures of about" in out
    assert "~" in next(line for line in out.splitlines() if line.startswith("siglip2-b32"))
    assert main(["recommend", str(pictures), "--model", "siglip"]) == 2


def test_an_encoder_is_timed_with_as_many_pictures_as_it_ran() -> None:
    calls = list[int]()

    class Counting(PixelsEncoder):
        def encode_images(self, pixels: Pixels) -> Vectors:
            calls.append(len(pixels))
            return super().encode_images(pixels)

    encoder = Counting()
    timed = speed.measure(encoder, least_s=0.2)
    assert sum(calls) - encoder.batch_size == pytest.approx(timed.pictures_per_s * 0.2, rel=0.7)


def test_the_table_can_be_asked_for_by_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert main(["models", "list"]) == 0
    assert capsys.readouterr().out == table
    assert main(["models", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "mini"


@pytest.mark.parametrize(("name", "told"), [("mini", "part of the package"), ("clip-b3", "did you mean clip-b32")])
def test_why_a_model_cannot_be_removed_is_said(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "rm", name]) == 2
    assert told in capsys.readouterr().err


def test_an_estimate_has_two_digits_and_a_misspelt_model_its_nearest(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", str(pictures), "--model", "clip-l14"]) == 0
    assert re.search(r"~[\d.]{1,3} (s|min|h)  ", capsys.readouterr().out)
    assert main(["recommend", str(pictures), "--model", "clip-l4"]) == 2
    assert "did you mean clip-l14" in capsys.readouterr().err
