"""Pictures at the model's size: as resizing the whole picture and cropping it would give, at less work."""

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.pictures import scene

from sightline.encoders.preprocess import Mode, normalised, pixels, preprocessing
from sightline.types import Pixels

SIZES = ((640, 480), (480, 640), (333, 500), (1000, 223), (225, 224), (224, 224), (97, 65), (31, 3), (1, 1), (7, 700))
MODES: tuple[Mode, ...] = ("shortest", "squash", "longest")


def config(**changes: Any) -> dict[str, Any]:
    return {"size": 224, "mean": [0.5] * 3, "std": [0.25] * 3, **changes}


def grainy(size: tuple[int, int]) -> Image.Image:
    """Shapes, edges and the grain of a dark photograph, so that a shift by a fraction of a pixel shows."""
    chance = np.random.default_rng(sum(size))
    smooth = np.asarray(scene(sum(size)).resize(size))
    return Image.fromarray((smooth + chance.normal(0, 20, smooth.shape)).clip(0, 255).astype(np.uint8))


def plainly(image: Image.Image, side: int, resample: Image.Resampling) -> Pixels:
    """Resize the short side, then crop the middle: the textbook way, as torchvision rounds it."""
    width, height = image.size
    short = min(width, height)
    whole = image.resize((int(side * width / short), int(side * height / short)), resample)
    left, top = round((whole.width - side) / 2), round((whole.height - side) / 2)
    return np.asarray(whole.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def cosine(some: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    some, other = some - 127.5, other - 127.5
    return float(np.vdot(some, other) / (np.linalg.norm(some) * np.linalg.norm(other)))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_shortest_equals_resizing_all_and_cropping_then(size: tuple[int, int], interpolation: str) -> None:
    image = grainy(size)
    ours = pixels(image, preprocessing(config(interpolation=interpolation))).astype(float)
    plain = plainly(image, 224, Image.Resampling[interpolation.upper()]).astype(float)
    # Pillow rounds to bytes between its two passes and takes the cheaper one first, which may be the other one here.
    assert np.abs(ours - plain).mean() < 0.3
    assert cosine(ours, plain) > 0.9999


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("size", SIZES[:6], ids=str)
def test_a_margin_is_resized_too_and_cut_off(mode: Mode, size: tuple[int, int]) -> None:
    """As timm (crop_pct 0.875) and DINOv2 do it: 256, then the middle 224."""
    image = grainy(size)
    how = preprocessing(config(resize_mode=mode, sightline={"resized": 256}))
    whole = image if mode == "shortest" else image.resize((256, 256), Image.Resampling.BICUBIC)
    short = min(whole.size)
    scaled = whole.resize((int(256 * whole.width / short), int(256 * whole.height / short)), Image.Resampling.BICUBIC)
    left, top = round((scaled.width - 224) / 2), round((scaled.height - 224) / 2)
    plain = np.asarray(scaled.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1).astype(float)
    assert cosine(pixels(image, how).astype(float), plain) > 0.9999
    assert how.reach == 256


def test_the_cut_starts_where_the_library_starts_it() -> None:
    """Half a pixel goes to the even one, as in torchvision, or down, as in transformers."""
    image = grainy((227, 224))  # 3 too many: 1.5 on each side
    nearest, down = (preprocessing(config(sightline={"crops_down": one})) for one in (False, True))
    picture = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels(image, nearest), picture[:, :, 2:226])
    np.testing.assert_array_equal(pixels(image, down), picture[:, :, 1:225])


def test_the_interpolation_is_that_of_the_config() -> None:
    image = grainy((500, 400))
    bicubic, bilinear = (pixels(image, preprocessing(config(interpolation=one))) for one in ("bicubic", "bilinear"))
    assert np.abs(bicubic.astype(int) - bilinear.astype(int)).mean() > 1


@pytest.mark.parametrize("size", [(640, 480), (60, 300), (1, 9)], ids=str)
def test_squash_shows_all_of_the_picture(size: tuple[int, int]) -> None:
    image = grainy(size)
    plain = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels(image, preprocessing(config(resize_mode="squash"))), plain)


def test_longest_shows_all_and_fills_the_rest() -> None:
    result = pixels(scene(1, (448, 224)), preprocessing(config(resize_mode="longest", fill_color=77)))
    assert (result[:, :56] == 77).all()
    assert (result[:, -56:] == 77).all()
    plain = np.asarray(scene(1, (448, 224)).resize((224, 112), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(result[:, 56:168], plain)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", [224, [224, 224], [96, 160]], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_picture_becomes_bytes_of_the_models_size(mode: Mode, target: Any, size: tuple[int, int]) -> None:
    result = pixels(grainy(size), preprocessing(config(size=target, resize_mode=mode)))
    assert result.dtype == np.uint8
    assert result.shape == ((3, 224, 224) if target != [96, 160] else (3, 96, 160))


@pytest.mark.parametrize("mode", MODES)
def test_a_very_long_thin_picture_stays_cheap(mode: Mode) -> None:
    """The whole of it at 224 pixels wide would be 6.7 million rows."""
    image = Image.new("RGB", (1, 30_000), "red")
    began = time.thread_time()  # of this thread alone: whatever else the machine does
    result = pixels(image, preprocessing(config(resize_mode=mode)))
    assert time.thread_time() - began < 1
    assert result.shape == (3, 224, 224)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_kinds_of_picture_become_rgb(mode: str) -> None:
    result = pixels(scene(3).convert(mode), preprocessing(config()))
    assert result.shape == (3, 224, 224)


def test_normalising_maps_mean_to_zero_and_deviation_to_one() -> None:
    how = preprocessing(config(mean=[0, 0.4, 1], std=[0.5, 0.2, 0.25]))
    values = normalised(np.full((2, 3, 4, 4), 102, np.uint8), how, np.float32)  # 102 / 255 is 0.4
    np.testing.assert_allclose(values[:, :, 0, 0], [[0.8, 0, -2.4]] * 2, atol=1e-6)
    assert normalised(np.zeros((1, 3, 4, 4), np.uint8), how, np.float16).dtype == np.float16
