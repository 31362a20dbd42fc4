"""What open_clip made of the golden pictures and texts, ours makes too: without torch."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.encoders.onnx import OnnxEncoder
from sightline.images.read import read
from sightline.types import Vectors

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
PICTURES = sorted((GOLDEN / "pictures").iterdir())
TEXTS = json.loads((GOLDEN / "texts.json").read_text("utf-8"))
TOLERANCE = 0.0001  # one minus the smallest cosine


@pytest.fixture(params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


def expected(folder: Path, what: str) -> NDArray[np.float32]:
    with np.load(folder / "expected.npz") as arrays:
        return np.asarray(arrays[what])


def cosines(ours: Vectors, theirs: Vectors) -> Vectors:
    both: Vectors = np.einsum("nd,nd->n", ours, theirs)  # (n, dim), (n, dim) -> (n,)
    return both


def test_pictures_get_the_vectors_of_open_clip(folder: Path) -> None:
    encoder = OnnxEncoder(folder)
    images = [read(path.read_bytes(), image_size=encoder.image_size) for path in PICTURES]
    ours = encoder.encode_images(np.stack([encoder.preprocess(image) for image in images]))
    assert cosines(ours, expected(folder, "images")).min() >= 1 - TOLERANCE


def test_texts_get_the_vectors_of_open_clip(folder: Path) -> None:
    ours = OnnxEncoder(folder).encode_texts(TEXTS)
    assert cosines(ours, expected(folder, "texts")).min() >= 1 - TOLERANCE


def test_the_golden_vectors_tell_different_inputs_apart(folder: Path) -> None:
    """Vectors that are all alike would make the tests above pass whatever we did."""
    for what in ("images", "texts"):
        vectors = np.unique(expected(folder, what).round(4), axis=0)
        alike = vectors @ vectors.T - np.eye(len(vectors))
        assert len(vectors) >= 5
        assert alike.max() < 1 - 4 * TOLERANCE
