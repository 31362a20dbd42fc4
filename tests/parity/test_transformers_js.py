"""Replicas of what is published for transformers.js, of random weights, give the vectors of transformers itself."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("transformers", reason="needs the torch extra")
onnx = pytest.importorskip("onnx", reason="needs the train extra")

from tests import clips  # noqa: E402
from tests.pictures import scene  # noqa: E402

from sightline.encoders.base import load_encoder  # noqa: E402
from sightline.encoders.onnx import OnnxEncoder  # noqa: E402
from sightline.train.model_folder import traced  # noqa: E402

pytestmark = pytest.mark.torch
TEXTS = ["a red cat", "cat red red cat", "a cat"]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_replica_gives_the_vectors_of_transformers(tmp_path: Path, kind: str) -> None:
    """Graphs without normalisation, ids of 64 bits: the layout as it is published."""
    import numpy as np

    folder = clips.transformers_folder(tmp_path / "model", kind)
    original = load_encoder(f"hf:{folder}")
    towers = original.towers  # type: ignore[attr-defined]
    (folder / "onnx").mkdir()
    pixels = {"pixel_values": torch.zeros(2, 3, 64, 64)}
    onnx.save(traced(towers.image, pixels, {0: "batch"}, tmp_path), folder / "onnx" / "vision_model.onnx")
    length = towers.text.context_length
    ids = {"input_ids": torch.ones((2, length), dtype=torch.int64)}
    axes = {0: "batch", 1: "length"} if kind == "clip" else {0: "batch"}
    onnx.save(traced(towers.text.module, ids, axes, tmp_path), folder / "onnx" / "text_model.onnx")
    encoder = OnnxEncoder(folder)
    theirs, ours = (
        one.encode_images(np.stack([one.preprocess(scene(n)) for n in range(4)])) for one in (original, encoder)
    )
    assert np.einsum("nd,nd->n", theirs, ours).min() > 0.9999
    assert np.einsum("nd,nd->n", original.encode_texts(TEXTS), encoder.encode_texts(TEXTS)).min() > 0.9999
