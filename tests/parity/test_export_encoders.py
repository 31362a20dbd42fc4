"""`sightline export` of other libraries' models: the folder gives the vectors of the model in torch."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra: pip install 'sightline[torch]'")
for _package in ("onnx", "open_clip", "transformers", "timm", "sentence_transformers"):
    if find_spec(_package) is None:
        pytest.skip("needs the torch extra: pip install 'sightline[torch]'", allow_module_level=True)

from tests import tiny, towers  # noqa: E402  needs torch

from sightline.cli.main import main  # noqa: E402
from sightline.encoders.base import load_encoder  # noqa: E402
from sightline.encoders.onnx import OnnxEncoder  # noqa: E402
from sightline.encoders.torch.libraries import quietly  # noqa: E402
from sightline.errors import TextNotSupported  # noqa: E402
from sightline.train.export import convert  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # the libraries warn of themselves
MODELS = {
    "timm": lambda folder: towers.timm_state(folder),
    "simclr": lambda folder: towers.simclr_checkpoint(folder),
    "dinov2": lambda folder: f"dinov2:{towers.transformers_folder(folder, 'dinov2')}",
    "hf dinov2": lambda folder: f"hf:{towers.transformers_folder(folder, 'dinov2')}",
    "blip": lambda folder: f"hf:{towers.transformers_folder(folder, 'blip')}",
    "align": lambda folder: f"hf:{towers.transformers_folder(folder, 'align')}",
    "sentence-transformers": lambda folder: f"st:{towers.sentence_folder(folder)}",
    "a fine-tuned state": lambda folder: towers.open_clip_state(folder),
}
WITHOUT_WORDS = ("timm", "simclr", "dinov2", "hf dinov2")


def saved(model: str, folder: Path) -> str:
    with quietly():
        return MODELS[model](folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.coloured_pictures(tmp_path_factory.mktemp("pictures"), 8)


@pytest.mark.parametrize("model", MODELS)
def test_an_export_gives_the_vectors_of_the_encoder(model: str, tmp_path: Path, pictures: Path) -> None:
    name = saved(model, tmp_path)
    report = convert(name, tmp_path / "out", "fp16", pictures=pictures)
    for precision, least in (("fp32", 0.9999), ("fp16", 0.999)):
        entry = report.precisions[precision]
        assert entry["image_cosine"]["min"] >= least
        assert (entry["text_cosine"] is None) == (model in WITHOUT_WORDS)
        assert entry["text_cosine"] is None or entry["text_cosine"]["min"] >= least
    encoder, other = OnnxEncoder(tmp_path / "out"), load_encoder(name)
    assert (encoder.dim, encoder.image_size) == (other.dim, other.image_size)
    assert encoder.knows_words == (model not in WITHOUT_WORDS)


def test_a_model_of_pictures_alone_has_no_text_tower(tmp_path: Path, pictures: Path) -> None:
    convert(saved("timm", tmp_path), tmp_path / "out", pictures=pictures)
    assert "text_cfg" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert not (tmp_path / "out" / "textual").exists()
    with pytest.raises(TextNotSupported):
        OnnxEncoder(tmp_path / "out").encode_texts(["a dog"])


def test_texts_of_any_length_and_batch_are_those_of_the_encoder(tmp_path: Path, pictures: Path) -> None:
    name = saved("blip", tmp_path)
    convert(name, tmp_path / "out", pictures=pictures)
    texts = ["a", "a red dog", "a photo of a dog that is red and a dog " * 5]
    exported = OnnxEncoder(tmp_path / "out").encode_texts(texts)
    assert np.einsum("nd,nd->n", exported, load_encoder(name).encode_texts(texts)).min() > 0.9999


def test_eight_bits_of_a_network_are_calibrated_on_pictures(tmp_path: Path, pictures: Path) -> None:
    report = convert(saved("timm", tmp_path), tmp_path / "out", "int8", pictures=pictures)
    assert report.precisions["int8"]["image_cosine"]["median"] > 0.95
    assert report.precisions["int8"]["size_bytes"] < 0.5 * report.precisions["fp32"]["size_bytes"]


def test_the_command_says_what_it_wrote_and_the_folder_searches_by_picture(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out")
    assert main(["export", saved("timm", tmp_path), "--output", output]) == 0
    assert "on 24 generated pictures (give --pictures for your own) and 0 texts" in capsys.readouterr().out
    index = str(tmp_path / "look.index")
    assert main(["index", str(pictures), "--index", index, "--model", output]) == 0
    capsys.readouterr()
    assert main(["search", "--image", str(pictures / "3.png"), "--index", index, "--paths", "-k", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(pictures / "3.png")
