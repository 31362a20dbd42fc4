"""The baseline without a model: alike in layout and tint means near."""

import numpy as np
import pytest
from PIL import Image
from tests.pictures import scene

from sightline.encoders.baselines import PixelsEncoder
from sightline.errors import TextNotSupported
from sightline.types import Vector


def vector(image: Image.Image) -> Vector:
    encoder = PixelsEncoder()
    vectors = encoder.encode_images(encoder.preprocess(image)[None])
    first: Vector = vectors[0]
    return first


def test_a_smaller_copy_is_nearer_than_another_picture() -> None:
    picture = vector(scene(1, (640, 480)))
    assert picture @ vector(scene(1, (640, 480)).resize((200, 150))) > 0.99
    assert picture @ vector(scene(2)) < 0.9


def test_brightness_does_not_matter_and_tint_does() -> None:
    picture = np.asarray(scene(1)) // 2
    brighter = Image.fromarray(picture + np.uint8(40))
    assert vector(Image.fromarray(picture)) @ vector(brighter) > 0.9999
    assert vector(Image.fromarray(picture)) @ vector(Image.fromarray(picture[..., ::-1].copy())) < 0.95


def test_pictures_of_one_grey_share_a_vector_far_from_all_others() -> None:
    black, white = vector(Image.new("RGB", (9, 9), "black")), vector(Image.new("RGB", (50, 20), "white"))
    np.testing.assert_array_equal(black, white)
    assert abs(float(black @ vector(scene(1)))) < 1e-5


def test_red_and_blue_are_different() -> None:
    assert vector(Image.new("RGB", (9, 9), "red")) @ vector(Image.new("RGB", (9, 9), "blue")) < 0


def test_words_are_refused_with_advice() -> None:
    with pytest.raises(TextNotSupported, match="--model mini"):
        PixelsEncoder().encode_texts(["a dog"])
