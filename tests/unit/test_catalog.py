"""The models that can be used by name, and what a name can mean."""

import shutil
from pathlib import Path

import pytest
from tests.models import GOLDEN_CLIP

from sightline.encoders.base import is_folder, load_encoder
from sightline.encoders.baselines import PixelsEncoder
from sightline.encoders.catalog import BUNDLED, CatalogEntry, bundled_folder, catalog
from sightline.encoders.hub import Hub
from sightline.errors import HubUnreachable, ModelNotFound

OPENAI = {"clip-rn50", "clip-rn101", "clip-rn50x4", "clip-b32", "clip-b16", "clip-l14"}


@pytest.mark.parametrize("entry", catalog().values(), ids=list(catalog()))
def test_every_entry_is_complete(entry: CatalogEntry) -> None:
    assert entry.summary
    assert entry.licence
    assert entry.languages
    assert entry.dim > 0
    assert entry.image_size > 0
    assert (entry.kind == "hub") == bool(entry.repository)
    assert (entry.coco_recall_at_1 is None) == (entry.source == "")
    assert entry.coco_recall_at_1 is None or 0 < entry.coco_recall_at_1 < 100
    assert "/" not in entry.name


def test_one_model_is_recommended_and_one_is_bundled() -> None:
    entries = catalog().values()
    assert [entry.name for entry in entries if entry.recommended] == ["siglip2-b32"]
    assert [entry.name for entry in entries if entry.kind == "bundled"] == [BUNDLED]


def test_the_openai_family_is_there_and_no_repository_twice() -> None:
    assert set(catalog()) >= OPENAI
    repositories = [entry.repository for entry in catalog().values() if entry.repository]
    assert len(set(repositories)) == len(repositories)


def test_the_bundled_model_is_as_its_entry_says() -> None:
    if not (bundled_folder(BUNDLED) / "config.json").is_file():
        pytest.skip("the bundled model has not been trained yet: python -m sightline.train makes it")
    encoder, entry = load_encoder(BUNDLED), catalog()[BUNDLED]
    size_bytes = sum(path.stat().st_size for path in bundled_folder(BUNDLED).rglob("*") if path.is_file())
    assert (encoder.name, encoder.dim, encoder.image_size) == (BUNDLED, entry.dim, entry.image_size)
    assert size_bytes / 1e6 == pytest.approx(entry.size_mb, abs=1)


def test_pixels_by_name() -> None:
    assert isinstance(load_encoder("pixels"), PixelsEncoder)
    assert load_encoder("pixels").dim == catalog()["pixels"].dim


def test_a_folder_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(GOLDEN_CLIP, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    encoders = [load_encoder(name) for name in ("./mine", "mine", str(tmp_path / "mine"), "mine/")]
    assert {encoder.name for encoder in encoders} == {"mine"}
    assert len({encoder.fingerprint for encoder in encoders}) == 1


def test_a_catalog_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(GOLDEN_CLIP, tmp_path / "clip-b32")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubUnreachable):
        load_encoder("clip-b32", hub=Hub(cache=tmp_path / "cache", offline=True))
    assert load_encoder("./clip-b32").dim == 16


@pytest.mark.parametrize(
    ("name", "near"), [("siglip2b32", "siglip2-b32"), ("clip_b16", "clip-b16"), ("Mini", "mini"), ("pixel", "pixels")]
)
def test_an_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ModelNotFound, match=f"no model '{name}'.*did you mean .*{near}"):
        load_encoder(name)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ModelNotFound, match=r"expected one of auto, mini, siglip2-b32.*a folder is written \./name"):
        load_encoder("zzzzzz")


@pytest.mark.parametrize("name", ["./nowhere", "../nowhere", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_path_without_a_model_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound, match="there is no folder"):
        load_encoder(name)


def test_what_is_written_as_a_path_is_a_folder() -> None:
    assert all(is_folder(name) for name in ("./a", "a/b", "~/a", r"C:\a", "."))
    assert not any(is_folder(name) for name in ("a", "clip-b32", "auto"))


def test_a_plug_in_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package is what pip would leave: a module and its metadata."""
    (tmp_path / "plugged.py").write_text(
        "from sightline.encoders.baselines import PixelsEncoder\ndef make():\n    return PixelsEncoder(side=4)\n"
    )
    metadata = tmp_path / "plugged-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[sightline.encoders]\ntiny-grid = plugged:make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_encoder("tiny-grid").dim == 48
    with pytest.raises(ModelNotFound, match="did you mean tiny-grid"):
        load_encoder("tinygrid")
