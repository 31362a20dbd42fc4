from io import BytesIO

import pytest
from PIL import Image
from tests.pictures import COLOURED, bomb, encoded, photograph, quarters, scene, turned
from tests.unit.test_read import BLUE, GREEN, RED, YELLOW, corners

from sightline.errors import ImageError, ImageTooLarge
from sightline.images.read import thumbnail


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("size", [(800, 600), (600, 800), (3000, 40), (64, 48), (1, 1), (9, 2000)])
def test_the_longer_side_is_at_most_the_one_asked_for(size: tuple[int, int]) -> None:
    image = opened(thumbnail(encoded(quarters(size), "PNG"), 100))
    assert image.format == "WEBP"
    assert max(image.size) == min(100, *[max(size)])
    assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.02) or min(image.size) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnails_stand_upright(orientation: int) -> None:
    image = opened(thumbnail(turned(orientation), 48))
    assert image.size == (48, 32)
    assert corners(image) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("name", COLOURED)
def test_every_format_has_a_thumbnail(name: str) -> None:
    assert corners(opened(thumbnail(COLOURED[name](), 64))) == [RED, GREEN, BLUE, YELLOW]


def test_thumbnails_carry_no_metadata() -> None:
    profile = bytes(3000)
    data = thumbnail(encoded(quarters(), "PNG", icc_profile=profile), 64)
    assert len(data) < 1000
    assert not opened(thumbnail(photograph(), 64)).getexif()


def test_a_large_photograph_gives_a_small_file() -> None:
    data = thumbnail(encoded(scene(5, (2000, 1500)), "JPEG"), 256)
    assert opened(data).size == (256, 192)
    assert len(data) < 20_000


def test_errors_are_those_of_reading() -> None:
    with pytest.raises(ImageTooLarge):
        thumbnail(bomb(), 64)
    with pytest.raises(ImageError, match="not a picture but text"):
        thumbnail(b"text", 64)
