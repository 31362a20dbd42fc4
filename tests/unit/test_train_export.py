"""A model written as ONNX gives the vectors it gave in training, and comes back from its 8 bits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs the torch extra")
onnx = pytest.importorskip("onnx", reason="export needs the train extra")

import onnxruntime  # noqa: E402
from tests import tiny  # noqa: E402

from sightline.errors import ModelDamaged, ModelNotFound  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """Coarse blocks of random colours: unlike fine noise they differ after pooling."""
    coarse = np.random.default_rng(0).integers(0, 256, (16, 3, 4, 4), dtype=np.uint8)
    return coarse.repeat(16, axis=2).repeat(16, axis=3)


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float") / "model"
    tiny.write(folder)
    return folder


@pytest.fixture(scope="module")
def int8_folder(tmp_path_factory: pytest.TempPathFactory, pictures: NDArray[np.uint8]) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "model"
    tiny.write(folder, "int8", calibration=pictures)
    return folder


def run(folder: Path, part: str, **inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(folder / part / "model.onnx"), providers=["CPUExecutionProvider"])
    vectors: NDArray[np.float32] = session.run(["embedding"], inputs)[0]
    return vectors


def test_float_image_graph_gives_the_vectors_of_the_model(float_folder: Path, pictures: NDArray[np.uint8]) -> None:
    with torch.no_grad():
        expected = tiny.model().image(torch.from_numpy(pictures)).numpy()
    np.testing.assert_allclose(run(float_folder, "visual", image=pictures), expected, atol=1e-5)


def test_float_text_graph_gives_the_vectors_of_the_model(float_folder: Path) -> None:
    ids = np.array([[2, 4, 9, 10, 5, 3], [2, 4, 6, 3, 0, 0]], np.int32)
    with torch.no_grad():
        expected = tiny.model().text(torch.from_numpy(ids).long()).numpy()
    np.testing.assert_allclose(run(float_folder, "textual", text=ids), expected, atol=1e-5)


def test_padding_changes_no_vector(float_folder: Path) -> None:
    alone = run(float_folder, "textual", text=np.array([[2, 4, 6, 3]], np.int32))
    padded = run(float_folder, "textual", text=np.array([[2, 4, 6, 3, 0, 0, 0]], np.int32))
    np.testing.assert_allclose(alone, padded, atol=1e-6)


def test_int8_towers_stay_near_the_float_towers(
    float_folder: Path, int8_folder: Path, pictures: NDArray[np.uint8]
) -> None:
    images = [run(folder, "visual", image=pictures) for folder in (float_folder, int8_folder)]
    assert (images[0] @ images[0].T).min() < 0.95  # different pictures, different vectors
    assert (images[0] * images[1]).sum(axis=1).min() > 0.95
    ids = np.array([[2, 4, 9, 10, 5, 3], [2, 4, 6, 3, 0, 0]], np.int32)
    texts = [run(folder, "textual", text=ids) for folder in (float_folder, int8_folder)]
    assert (texts[0] * texts[1]).sum(axis=1).min() > 0.98


def test_int8_towers_are_a_quarter_of_the_size_or_little_more(float_folder: Path, int8_folder: Path) -> None:
    float_bytes, int8_bytes = (
        (folder / "visual" / "model.onnx").stat().st_size for folder in (float_folder, int8_folder)
    )
    assert int8_bytes < 0.35 * float_bytes


def test_a_float_model_is_restored_exactly(float_folder: Path) -> None:
    model = tiny.restore(float_folder)
    for tower, original in ((model.image, tiny.model().image), (model.text, tiny.model().text)):
        expected = tiny.state_of(original)
        for name, value in tiny.state_of(tower).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_an_int8_model_is_restored_to_within_half_a_step_of_each_weight(int8_folder: Path) -> None:
    model = tiny.restore(int8_folder)
    for tower, original in ((model.image, tiny.model().image), (model.text, tiny.model().text)):
        expected = tiny.state_of(original)
        for name, value in tiny.state_of(tower).items():
            # Biases of quantised convolutions are rounded in steps of the product of two scales, which are finer.
            step = np.abs(expected[name]).max() / 127
            assert np.abs(value - expected[name]).max() <= 0.51 * step + 1e-3 * name.endswith("bias"), name


def test_the_folder_says_how_to_use_the_model(float_folder: Path) -> None:
    config = json.loads((float_folder / "config.json").read_text())
    preprocessing = json.loads((float_folder / "visual" / "preprocess_cfg.json").read_text())
    assert config["embed_dim"] == 16
    assert config["text_cfg"]["context_length"] == 8
    assert preprocessing["size"] == [64, 64]
    assert preprocessing["resize_mode"] == "squash"
    assert {path.name for path in (float_folder / "textual").iterdir()} == {
        "model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no model"):
        tiny.restore(tmp_path)


def test_a_graph_that_lacks_a_weight_is_damaged(float_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(float_folder, folder)
    graph = onnx.load(folder / "visual" / "model.onnx")
    del graph.graph.initializer[3]
    onnx.save(graph, folder / "visual" / "model.onnx")
    with pytest.raises(ModelDamaged, match="lacks"):
        tiny.restore(folder)
