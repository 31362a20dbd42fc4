"""How a model folder is opened, what its graphs may look like, and what is said when something is wrong with it."""

import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models import DIM, GOLDEN_CLIP, GOLDEN_SIGLIP, SIDE, make_folder
from tests.pictures import scene

from sightline.encoders.layout import fingerprint
from sightline.encoders.onnx import OnnxEncoder
from sightline.encoders.sessions import PROVIDERS, choose_provider
from sightline.errors import EncoderError, ModelDamaged, ModelNotFound, TextNotSupported, UsageError
from sightline.types import Pixels, Vectors

REQUIRED = (
    "config.json",
    "visual/model.onnx",
    "visual/preprocess_cfg.json",
    "textual/model.onnx",
    "textual/tokenizer.json",
    "textual/tokenizer_config.json",
)
TEXTS = ("a dog runs through the snow", "a cat", "a cat sleeps on the sofa")


def pixels_of(encoder: OnnxEncoder, count: int) -> Pixels:
    return np.stack([encoder.preprocess(scene(seed)) for seed in range(count)])


def cosines(some: Vectors, others: Vectors) -> Vectors:
    both: Vectors = np.einsum("nd,nd->n", some, others)  # (n, dim), (n, dim) -> (n,)
    return both


def runs_at_real_length(encoder: OnnxEncoder) -> bool:
    assert encoder._texts is not None
    return encoder._texts.latency_session().runs_short


def copy_of(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


def test_a_folder_gives_its_name_and_sizes() -> None:
    encoder = OnnxEncoder(GOLDEN_CLIP)
    assert (encoder.name, encoder.dim, encoder.image_size, encoder.batch_size) == ("clip", 16, 32, 8)
    assert OnnxEncoder(GOLDEN_CLIP, name="other").name == "other"


def test_opening_loads_no_graph_and_using_one_tower_loads_only_that(tmp_path: Path) -> None:
    folder = copy_of(GOLDEN_CLIP, tmp_path)
    (folder / "textual" / "model.onnx").write_bytes(b"not a graph")
    encoder = OnnxEncoder(folder)
    assert encoder.encode_images(pixels_of(encoder, 2)).shape == (2, 16)
    with pytest.raises(ModelDamaged, match=r"textual.*model\.onnx"):
        encoder.encode_texts(["a dog"])


def test_float16_graphs_give_the_vectors_of_their_weights(tmp_path: Path) -> None:
    encoder = OnnxEncoder(make_folder(tmp_path / "m", visual="visual-half"))
    vectors = encoder.encode_images(pixels_of(encoder, 3))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_pixels_are_normalised_by_the_models_own_mean_and_deviation(tmp_path: Path) -> None:
    """A graph without bias maps the mean to no direction at all, and everything else away from it."""
    how = {"mean": [0.2, 0.4, 0.6], "std": [0.1, 0.2, 0.3]}
    encoder = OnnxEncoder(make_folder(tmp_path / "m", pixels=how))
    mean = np.zeros((1, 3, SIDE, SIDE), np.uint8) + np.array([51, 102, 153], np.uint8).reshape(1, 3, 1, 1)
    brighter, darker = mean + np.uint8(20), mean - np.uint8(20)
    with pytest.raises(EncoderError, match="without a direction"):
        encoder.encode_images(mean)
    assert cosines(encoder.encode_images(brighter), encoder.encode_images(darker)) == pytest.approx(-1, abs=1e-4)


def test_a_dynamically_quantised_graph_does_not_mix_the_pictures_of_a_batch(tmp_path: Path) -> None:
    """In one run, the brightest picture would set the scale for all, and faint ones would drown."""
    encoder = OnnxEncoder(make_folder(tmp_path / "m", visual="visual-dynamic-int8", pixels={"mean": [0.004] * 3}))
    faint, bright = np.eye(SIDE, dtype=np.uint8)[None].repeat(3, axis=0), np.full((3, SIDE, SIDE), 255, np.uint8)
    alone = encoder.encode_images(faint[None])
    together = encoder.encode_images(np.stack([bright, faint]))
    np.testing.assert_array_equal(together[1], alone[0])


def test_of_several_outputs_the_vector_is_taken(tmp_path: Path) -> None:
    encoder = OnnxEncoder(make_folder(tmp_path / "m", visual="visual-several-outputs"))
    assert encoder.encode_images(pixels_of(encoder, 2)).shape == (2, DIM)


def test_a_text_tower_with_a_mask_runs_at_real_length_and_ignores_padding(tmp_path: Path) -> None:
    encoder = OnnxEncoder(make_folder(tmp_path / "m", textual="textual-with-mask"))
    assert runs_at_real_length(encoder)
    singly = np.concatenate([encoder.encode_texts([text]) for text in TEXTS])
    assert cosines(encoder.encode_texts(TEXTS), singly).min() > 0.99999


def test_a_causal_text_tower_runs_at_real_length() -> None:
    assert runs_at_real_length(OnnxEncoder(GOLDEN_CLIP))


@pytest.mark.parametrize("textual", ["textual-sees-padding", "textual-only-whole"])
def test_a_text_tower_that_needs_its_padding_gets_it(textual: str, tmp_path: Path) -> None:
    encoder = OnnxEncoder(make_folder(tmp_path / "m", textual=textual))
    assert not runs_at_real_length(encoder)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode_texts(TEXTS), axis=1), 1, atol=1e-6)


def test_a_model_trained_on_padding_is_not_tried_without(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", textual="textual-with-mask", text_cfg={"no_causal_mask": True})
    assert not runs_at_real_length(OnnxEncoder(folder))


def test_a_config_that_says_so_spares_the_trial(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", textual="textual-sees-padding", text_cfg={"masks_padding": True})
    assert runs_at_real_length(OnnxEncoder(folder))


def test_padding_goes_to_the_side_that_the_tokenizer_says(tmp_path: Path) -> None:
    right = OnnxEncoder(make_folder(tmp_path / "right", textual="textual-only-whole"))
    left = OnnxEncoder(make_folder(tmp_path / "left", textual="textual-only-whole", tokens={"padding_side": "left"}))
    assert cosines(right.encode_texts(TEXTS), left.encode_texts(TEXTS)).max() < 0.99


def test_a_fixed_batch_of_one_takes_any_number() -> None:
    encoder = OnnxEncoder(GOLDEN_SIGLIP)
    pixels = pixels_of(encoder, 3)
    singly = np.concatenate([encoder.encode_images(one[None]) for one in pixels])
    assert cosines(encoder.encode_images(pixels), singly).min() > 0.99999
    assert encoder.encode_texts(TEXTS).shape == (3, 16)


def test_a_long_text_is_cut_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    encoder = OnnxEncoder(GOLDEN_CLIP)
    with caplog.at_level(logging.WARNING):
        vectors = encoder.encode_texts(["dog " * 1000, "a dog"])
    assert vectors.shape == (2, 16)
    assert len(caplog.records) == 1
    assert "reads 24 tokens" in caplog.text


def test_threads_of_ones_own_give_the_same_vectors() -> None:
    usual, own = OnnxEncoder(GOLDEN_CLIP), OnnxEncoder(GOLDEN_CLIP, threads=3)
    pixels = pixels_of(usual, 4)
    assert cosines(usual.encode_images(pixels), own.encode_images(pixels)).min() > 0.99999
    with pytest.raises(UsageError, match="threads is 0"):
        OnnxEncoder(GOLDEN_CLIP, threads=0)


def test_one_picture_uses_the_session_that_is_there_rather_than_a_second_one() -> None:
    encoder = OnnxEncoder(GOLDEN_CLIP)
    encoder.encode_images(pixels_of(encoder, 2))
    batches = encoder._images.throughput_session()
    encoder.encode_images(pixels_of(encoder, 1))
    assert encoder._images.latency_session() is batches


def test_after_unloading_the_next_call_loads_again(tmp_path: Path) -> None:
    folder = copy_of(GOLDEN_CLIP, tmp_path)
    encoder = OnnxEncoder(folder)
    before = encoder.encode_texts(TEXTS)
    encoder.unload()
    graph = (folder / "textual" / "model.onnx").read_bytes()
    (folder / "textual" / "model.onnx").unlink()
    with pytest.raises(ModelDamaged):
        encoder.encode_texts(TEXTS)
    (folder / "textual" / "model.onnx").write_bytes(graph)
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS), before)


def test_many_threads_load_a_tower_once() -> None:
    encoder = OnnxEncoder(GOLDEN_CLIP)
    seen = set[int]()
    threads = [threading.Thread(target=lambda: seen.add(id(encoder._images.throughput_session()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = copy_of(GOLDEN_CLIP, tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelDamaged, match=f"{Path(name).name} is missing"):
        OnnxEncoder(folder)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("content", [b"", b"\x00\xff garbage", b"[1, 2]"])
def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    folder = copy_of(GOLDEN_CLIP, tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelDamaged, match=Path(name).name):
        use_everything(folder)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("tower", ["visual", "textual"])
def test_a_truncated_graph_is_damaged(tower: str, kept: float, tmp_path: Path) -> None:
    folder = copy_of(GOLDEN_CLIP, tmp_path)
    graph = folder / tower / "model.onnx"
    data = graph.read_bytes()
    graph.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelDamaged, match=tower):
        use_everything(folder)


def use_everything(folder: Path) -> None:
    encoder = OnnxEncoder(folder)
    encoder.encode_images(pixels_of(encoder, 1))
    encoder.encode_texts(["a dog"])


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"embed_dim": None}),
        ("config.json", {"embed_dim": "many"}),
        ("config.json", {"text_cfg": {"tokenizer_kwargs": {"clean": "scrub"}}}),
        ("visual/preprocess_cfg.json", {"size": 0}),
        ("visual/preprocess_cfg.json", {"size": []}),
        ("visual/preprocess_cfg.json", {"mean": [0.5, 0.5]}),
        ("visual/preprocess_cfg.json", {"resize_mode": "stretch"}),
    ],
)
def test_a_config_without_sense_is_damaged(file: str, change: dict[str, Any], tmp_path: Path) -> None:
    folder = copy_of(GOLDEN_CLIP, tmp_path)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(ModelDamaged, match="expected"):
        OnnxEncoder(folder)


def test_a_graph_of_another_size_than_the_config_is_damaged(tmp_path: Path) -> None:
    encoder = OnnxEncoder(make_folder(tmp_path / "m", config={"embed_dim": 8}))
    with pytest.raises(ModelDamaged, match=r"gives \[1, 4\], expected \(n, 8\)"):
        encoder.encode_images(pixels_of(encoder, 1))


def test_vectors_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    encoder = OnnxEncoder(make_folder(tmp_path / "m", visual="visual-not-a-number"))
    with pytest.raises(EncoderError, match="without a direction"):
        encoder.encode_images(pixels_of(encoder, 2))


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_a_model_is_not_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match=name):
        OnnxEncoder(tmp_path / name)


def test_an_image_only_model_knows_no_words(tmp_path: Path) -> None:
    encoder = OnnxEncoder(make_folder(tmp_path / "m", textual=None))
    assert encoder.encode_images(pixels_of(encoder, 2)).shape == (2, DIM)
    with pytest.raises(TextNotSupported, match="has no text encoder"):
        encoder.encode_texts(["a dog"])


@pytest.mark.parametrize("shape", [(1, 3, 5, 5), (3, 32, 32), (1, 1, 32, 32)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected uint8 \(n, 3, 32, 32\)"):
        OnnxEncoder(GOLDEN_CLIP).encode_images(np.zeros(shape, np.uint8))


def test_the_models_own_logit_values_are_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", config={"logit_scale": 100, "logit_bias": -12.5})
    encoder = OnnxEncoder(folder)
    assert (encoder.logit_scale, encoder.logit_bias) == (100.0, -12.5)
    assert OnnxEncoder(GOLDEN_CLIP).logit_scale is None


def test_an_unknown_provider_is_refused_and_a_missing_one_says_what_to_install() -> None:
    with pytest.raises(UsageError, match="expected one of cpu, cuda"):
        choose_provider("tpu")
    import onnxruntime

    available = onnxruntime.get_available_providers()
    missing = [short for short, (long, _) in PROVIDERS.items() if long not in available]
    for short in missing:
        with pytest.raises(EncoderError, match=r"only .*cpu.*: pip install"):
            OnnxEncoder(GOLDEN_CLIP, provider=short)
    assert OnnxEncoder(GOLDEN_CLIP, provider="cpu").encode_texts(["a dog"]).shape == (1, 16)


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    folder = copy_of(GOLDEN_CLIP, tmp_path)
    assert fingerprint(folder) == fingerprint(GOLDEN_CLIP) != fingerprint(GOLDEN_SIGLIP)


@pytest.mark.parametrize("name", REQUIRED)
def test_the_fingerprint_changes_with_every_file(name: str, tmp_path: Path) -> None:
    folder = copy_of(GOLDEN_CLIP, tmp_path)
    before = fingerprint(folder)
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    assert fingerprint(folder) != before


def test_the_fingerprint_of_a_large_model_sees_a_changed_layer_and_is_cheap(tmp_path: Path) -> None:
    folder = copy_of(GOLDEN_CLIP, tmp_path)
    weights = folder / "visual" / "model.onnx.data"
    with weights.open("wb") as file:
        file.truncate(400_000_000)  # takes no room on the disk
    before = fingerprint(folder)
    began = time.thread_time()  # of this thread alone: whatever else the machine does
    fingerprint(folder)
    assert time.thread_time() - began < 0.1  # 2 ms; reading all of it takes 200
    with weights.open("r+b") as file:
        file.seek(250_000_000)
        file.write(b"x" * 1_000_000)
    assert fingerprint(folder) != before


def test_importing_the_protocol_imports_no_runtime() -> None:
    code = "import sys, sightline.encoders.base; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"onnxruntime", "tokenizers", "huggingface_hub", "numpy", "PIL", "urllib.request"} & set(modules)
