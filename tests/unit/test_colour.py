"""The histogram of colours: near means the same colours in the same amounts, wherever they are."""

import numpy as np
import pytest
from PIL import Image
from tests.pictures import quarters, scene

from sightline.encoders.base import load_encoder
from sightline.encoders.baselines import ColourEncoder, _lab
from sightline.encoders.catalog import catalog
from sightline.errors import TextNotSupported
from sightline.types import Vector


def vector(image: Image.Image) -> Vector:
    encoder = ColourEncoder()
    vectors = encoder.encode_images(encoder.preprocess(image)[None])
    first: Vector = vectors[0]
    return first


def cosine(one: Image.Image, other: Image.Image) -> float:
    return float(vector(one) @ vector(other))


def test_the_name_gives_the_encoder_that_the_catalog_describes() -> None:
    encoder, entry = load_encoder("colour"), catalog()["colour"]
    assert isinstance(encoder, ColourEncoder)
    assert (encoder.dim, encoder.image_size) == (entry.dim, entry.image_size)


def test_where_a_colour_is_does_not_matter() -> None:
    picture = quarters()
    assert cosine(picture, picture.rotate(180)) > 0.9999
    assert cosine(scene(1), scene(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 0.999


def test_how_much_of_a_colour_there_is_matters() -> None:
    def red_share(share: float) -> Image.Image:
        picture = Image.new("RGB", (100, 100), "blue")
        picture.paste("red", (0, 0, int(100 * share), 100))
        return picture

    cosines = [cosine(red_share(0.2), red_share(share)) for share in (0.2, 0.3, 0.5, 0.9)]
    assert cosines == sorted(cosines, reverse=True)
    np.testing.assert_allclose(cosines[2], np.sqrt(0.2 * 0.5) + np.sqrt(0.8 * 0.5), atol=0.02)  # Bhattacharyya


def test_a_smaller_copy_of_worse_quality_is_nearer_than_another_picture() -> None:
    copy = scene(1, (640, 480)).resize((200, 150)).quantize(64).convert("RGB")
    assert cosine(scene(1, (640, 480)), copy) > 0.97
    assert max(cosine(scene(1), scene(other)) for other in range(2, 12)) < 0.9


def test_neighbouring_shades_share_bins_and_opposites_share_none() -> None:
    shade = Image.new("RGB", (9, 9), (200, 60, 60))
    assert cosine(shade, Image.new("RGB", (9, 9), (206, 64, 58))) > 0.95
    assert cosine(Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")) == 0


def test_lab_is_what_the_standard_says() -> None:
    pixels = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [119, 119, 119]], np.uint8)
    primaries = [[53.24, 80.09, 67.20], [87.74, -86.18, 83.18], [32.30, 79.19, -107.86]]
    known = np.array([*primaries, [100, 0, 0], [50.03, 0, 0]])
    assert np.abs(_lab(pixels.T.reshape(3, 5, 1).copy()).T - known).max() < 0.05


def test_words_are_refused_with_advice() -> None:
    with pytest.raises(TextNotSupported, match="--model mini"):
        ColourEncoder().encode_texts(["a red dog"])
