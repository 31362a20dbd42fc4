"""What is said of a model that could be better: an export with the wrong activation, an index of the bundled model."""

import logging
import shutil
from pathlib import Path

import pytest
from tests.models import GOLDEN_CLIP
from tests.pictures import scene

from sightline.cli.main import main
from sightline.encoders.base import has_other_activation, load_encoder
from sightline.encoders.catalog import catalog
from sightline.encoders.hub import Hub

BEST = next(entry for entry in catalog().values() if entry.recommended)


def kept(hub: Hub, repository: str) -> Path:
    """The golden model in the place of a fetched one."""
    folder = hub.cache / "models" / repository.replace("/", "--")
    return Path(shutil.copytree(GOLDEN_CLIP, folder))


@pytest.mark.parametrize(
    ("operators", "is_other"), [(b"\x22\x03Erf", True), (b"\x22\x07Sigmoid", False), (b"\x22\x04Relu", False)]
)
def test_an_export_of_openais_clip_with_gelu_is_said(
    operators: bytes, is_other: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(cache=tmp_path, offline=True)
    graph = kept(hub, catalog()["clip-b32"].repository) / "textual" / "model.onnx"
    head = graph.read_bytes()
    graph.write_bytes(
        head.replace(b"\x22\x03Erf", b"\x22\x03Abs").replace(b"\x22\x07Sigmoid", b"\x22\x07Softmax") + operators
    )
    with caplog.at_level(logging.WARNING):
        load_encoder("clip-b32", hub=hub)
    assert has_other_activation(graph) is is_other
    assert ("laion-b32" in caplog.text) is is_other


def test_other_models_may_have_gelu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(cache=tmp_path, offline=True)
    graph = kept(hub, BEST.repository) / "textual" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x22\x03Erf")
    load_encoder(BEST.name, hub=hub)
    assert not caplog.records


def test_an_index_of_the_bundled_model_says_when_a_better_one_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIGHTLINE_OFFLINE", "1")
    (tmp_path / "photos").mkdir()
    scene(0, (64, 48)).save(tmp_path / "photos" / "0.png")
    url, better = str(tmp_path / "photos.index"), f"--index NEW --model {BEST.name}"
    assert main(["index", str(tmp_path / "photos"), "--index", url]) == 0
    assert main(["status", "--index", url]) == 0
    assert better not in capsys.readouterr().out
    kept(Hub(cache=tmp_path / "cache"), BEST.repository)
    assert main(["index", str(tmp_path / "photos"), "--index", url]) == 0
    assert better in capsys.readouterr().out
    assert main(["status", "--index", url]) == 0
    assert better in capsys.readouterr().out
