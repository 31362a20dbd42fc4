"""`sightline export`: the folder that is written gives the vectors of the library's own model, and says so."""

import json
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the torch extra: pip install 'sightline[torch]'")
for _package in ("onnx", "open_clip", "transformers"):  # open_clip itself cannot be imported before it is mended
    if find_spec(_package) is None:
        pytest.skip("needs the torch extra: pip install 'sightline[torch]'", allow_module_level=True)

from tests import clips, tiny  # noqa: E402

from sightline.cli.main import main  # noqa: E402
from sightline.encoders.base import load_encoder  # noqa: E402
from sightline.encoders.hub import Hub  # noqa: E402
from sightline.encoders.onnx import OnnxEncoder  # noqa: E402
from sightline.encoders.preprocess import as_config, preprocessing, preprocessing_of  # noqa: E402
from sightline.errors import EncoderError, TrainingError  # noqa: E402
from sightline.train import checkpoint, clip  # noqa: E402
from sightline.train.config import Settings  # noqa: E402
from sightline.train.export import REPORT, convert  # noqa: E402

pytestmark = pytest.mark.torch
SOURCES = ("open_clip:{}/tiny-vit", "open_clip:{}/tiny-resnet", "open_clip:{}/tiny-siglip", "hf:{}/clip", "{}/siglip")
SMALLEST = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    tiny.coloured_pictures(path, 16)
    for name in ("tiny-vit", "tiny-resnet", "tiny-siglip"):
        clips.open_clip_folder(path / name, name)
    for kind in ("clip", "siglip"):
        clips.transformers_folder(path / kind, kind)
    return path


@pytest.mark.parametrize(
    ("source", "precision"), [*((source, "int8") for source in SOURCES), (SOURCES[0], "fp16"), (SOURCES[4], "fp16")]
)
def test_an_export_gives_the_vectors_of_the_library_itself(
    folder: Path, tmp_path: Path, source: str, precision: str
) -> None:
    report = convert(source.format(folder), tmp_path / "out", precision, pictures=folder / "captions.tsv")
    assert list(report.precisions) == ["fp32", precision]
    for name, entry in report.precisions.items():
        assert entry["image_cosine"]["min"] > SMALLEST[name]
        assert entry["text_cosine"]["min"] > SMALLEST[name]
    assert report.recall == pytest.approx(report.precisions["fp32"]["recall"], abs=1e-6)
    assert json.loads((tmp_path / "out" / REPORT).read_text())["precisions"] == report.precisions


@pytest.mark.parametrize(("name", "is_free"), [("tiny-vit", True), ("tiny-siglip", False)])
def test_batch_and_length_are_free_where_the_tower_is_causal(
    folder: Path, tmp_path: Path, name: str, is_free: bool
) -> None:
    convert(f"open_clip:{folder}/{name}", tmp_path / "out", pictures=folder)
    encoder = OnnxEncoder(tmp_path / "out")
    texts = ["a", "a red cat on a mat", "two"]
    together, alone = encoder.encode_texts(texts), np.concatenate([encoder.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert encoder._texts is not None
    assert encoder._texts.latency_session().runs_short is is_free
    pixels = np.stack([encoder.preprocess(Image.open(folder / f"{n}.png")) for n in range(3)])
    singly = np.concatenate([encoder.encode_images(one[None]) for one in pixels])
    np.testing.assert_allclose(encoder.encode_images(pixels), singly, atol=1e-5)


def test_the_folder_says_what_the_source_says(folder: Path, tmp_path: Path) -> None:
    convert(f"open_clip:{folder}/tiny-siglip", tmp_path / "out", pictures=folder)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_cfg"]["no_causal_mask"] is True
    assert config["text_cfg"]["tokenizer_kwargs"] == {"clean": "canonicalize"}
    assert config["logit_bias"] == -10
    assert config["logit_scale"] == pytest.approx(1 / 0.07)
    preprocess = json.loads((tmp_path / "out" / "visual" / "preprocess_cfg.json").read_text())
    assert (preprocess["size"], preprocess["resize_mode"]) == ([160, 160], "shortest")


def test_the_same_model_is_written_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        convert(f"open_clip:{folder}/tiny-vit", tmp_path / name, pictures=folder)
    for part in ("visual", "textual"):
        one, other = ((tmp_path / name / part / "model.onnx").read_bytes() for name in ("one", "other"))
        assert one == other


def test_an_export_that_gives_other_vectors_is_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config that promises another mean than the model has is a fault that only a comparison of vectors finds."""
    model = clips.open_clip_folder(tmp_path / "model")
    real = clip.load_towers

    def faulty(*given: Any) -> Any:
        towers = real(*given)
        return replace(towers, preprocessing=replace(towers.preprocessing, mean=(0.9, 0.1, 0.9)))

    monkeypatch.setattr(clip, "load_towers", faulty)
    with pytest.raises(TrainingError, match=r"the image vectors .* cosine of .* expected 0.999 or more"):
        convert(f"open_clip:{model}", tmp_path / "out", pictures=folder)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TrainingError, match=r"file.out cannot be written .* expected room for the model"):
        convert(f"open_clip:{folder}/tiny-vit", tmp_path / "file" / "out", pictures=folder)


def test_eight_bits_of_a_convolutional_tower_need_pictures(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"convolutional.*expected --pictures"):
        convert(f"open_clip:{folder}/tiny-resnet", tmp_path / "out", "int8")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_our_own_towers_are_exported_too(folder: Path, tmp_path: Path, precision: str) -> None:
    tiny.write(tmp_path / "own")
    report = convert(str(tmp_path / "own"), tmp_path / "out", precision, pictures=folder / "captions.tsv")
    assert report.precisions[precision]["text_cosine"]["min"] > SMALLEST[precision]
    assert report.precisions["fp32"]["image_cosine"]["median"] > 0.999


def test_a_checkpoint_of_an_unfinished_run_is_exported_with_its_average(folder: Path, tmp_path: Path) -> None:
    name = f"open_clip:{folder}/tiny-vit"
    run = clip.start_from(clip.load_towers(name, Hub()), Settings())
    state = {name: torch.zeros_like(value) for name, value in run.model.state_dict().items()}
    trained = {"trainer": {"model": state, "average": run.model.state_dict()}, "model": run.description}
    checkpoint.save(tmp_path / "run", trained, asdict(Settings()))
    report = convert(str(tmp_path / "run"), tmp_path / "out", pictures=folder)
    assert report.precisions["fp32"]["image_cosine"]["min"] > 0.9999
    expected = load_encoder(name).encode_texts(["a red cat"])
    assert float((OnnxEncoder(tmp_path / "out").encode_texts(["a red cat"]) * expected).sum()) > 0.9999


def test_the_command_prints_the_report_and_the_folder_searches(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out")
    assert main(["export", f"open_clip:{folder}/tiny-vit", "--output", output, "--precision", "int8"]) == 0
    printed = capsys.readouterr().out
    assert "on 24 generated pictures (give --pictures for your own) and 12 texts" in printed
    assert "fp32" in printed
    assert "int8" in printed
    index = str(tmp_path / "photos.index")
    assert main(["index", str(folder), "--index", index, "--model", output]) == 0
    capsys.readouterr()
    assert main(["search", "a red cat", "--index", index, "--json"]) == 0
    assert "png" in capsys.readouterr().out
    arguments = ["export", output, "--output", str(tmp_path / "again")]
    assert main(arguments) == 2
    assert "holds no torch model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
         ([224, 224], "shortest", "bicubic")),
        ({"size": {"height": 256, "width": 256}, "resample": 2}, ([256, 256], "squash", "bilinear")),
    ],
)  # fmt: skip
def test_the_preprocessor_of_transformers_is_understood(processor: dict[str, Any], expected: tuple[Any, ...]) -> None:
    how = preprocessing_of({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, **processor}, "hf:x")
    found = as_config(how)
    assert (found["size"], found["resize_mode"], found["interpolation"]) == expected
    assert preprocessing(found) == how


def test_a_preprocessor_that_we_cannot_follow_is_refused() -> None:
    processor = {"size": {"shortest_edge": 256}, "do_center_crop": False}
    with pytest.raises(EncoderError, match=r"hf:x resizes pictures to .*256.* expected a square"):
        preprocessing_of({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **processor}, "hf:x")
