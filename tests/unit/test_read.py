import struct
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from tests.pictures import (
    COLOURED,
    GREY_RAMPS,
    HTML,
    SEE_THROUGH,
    STORED,
    TEXT,
    bomb,
    encoded,
    photograph,
    quarters,
    scene,
    truncated,
    turned,
)

from sightline.errors import ImageError, ImageTooLarge
from sightline.images.read import open_picture, read
from sightline.sources.files import SUFFIXES

RED, GREEN, BLUE, YELLOW, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters, clockwise from the top left, to the nearest of 16 steps."""
    grid = np.asarray(image.resize((4, 4), Image.Resampling.NEAREST))[[0, 0, 3, 3], [0, 3, 3, 0]]
    return [tuple(int(part) for part in np.minimum(255, (colour.astype(int) + 8) // 16 * 16)) for colour in grid]


def cosine(one: Image.Image, other: Image.Image) -> float:
    """Of the pixels around their mean, both squashed to 112 x 112."""
    rows = [
        np.asarray(image.resize((112, 112), Image.Resampling.BICUBIC), np.float64).ravel() for image in (one, other)
    ]
    first, second = (row - row.mean() for row in rows)
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


@pytest.mark.parametrize("name", COLOURED)
def test_every_format_becomes_upright_rgb(name: str) -> None:
    image = read(COLOURED[name](), image_size=64)
    assert (image.mode, image.size) == ("RGB", (96, 64))
    assert corners(image) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("name", SEE_THROUGH)
def test_what_is_transparent_becomes_white(name: str) -> None:
    assert corners(read(SEE_THROUGH[name](), image_size=64)) == [WHITE, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("name", GREY_RAMPS)
def test_deep_greys_keep_their_range(name: str) -> None:
    image = read(GREY_RAMPS[name](), image_size=64)
    assert image.mode == "RGB"
    row = np.asarray(image)[0, :, 0].astype(int)
    assert np.abs(row - np.linspace(0, 255, 96)).max() <= 1


@pytest.mark.parametrize(
    "values", [np.linspace(-5, 70_000, 96), np.full(96, -3.0), np.array([np.nan, *np.linspace(0, 1, 95)])]
)
def test_greys_of_any_range_become_a_picture(values: np.ndarray) -> None:
    image = read(encoded(Image.fromarray(np.tile(values.astype(np.float32), (64, 1))), "TIFF"), image_size=64)
    assert (image.mode, image.size) == ("RGB", (96, 64))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_is_read(mode: str) -> None:
    image = quarters().convert("L" if mode.startswith("I") else mode).convert(mode)
    assert read(encoded(image, "PNG"), image_size=64).mode == "RGB"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "F", "I"])
def test_every_mode_of_tiff_is_read(mode: str) -> None:
    assert read(encoded(quarters().convert(mode), "TIFF"), image_size=64).mode == "RGB"


def test_black_ink_of_adobe_stays_black() -> None:
    """Adobe stores CMYK inverted; read the other way round, black would be white."""
    data = encoded(Image.new("CMYK", (64, 64), (0, 0, 0, 255)), "JPEG")
    assert b"Adobe" in data
    assert np.asarray(read(data, image_size=64)).max() < 8


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_ends_upright(orientation: int, file_format: str) -> None:
    data = turned(orientation, file_format)
    stored = Image.open(BytesIO(data)).size
    picture = open_picture(data, image_size=64)
    assert corners(picture.image) == [RED, GREEN, BLUE, YELLOW]
    assert (picture.payload["width"], picture.payload["height"]) == (96, 64)
    if file_format == "JPEG" and orientation in STORED:  # the test picture really was turned
        assert stored == ((64, 96) if orientation >= 5 else (96, 64))
        assert orientation in (1, 5) or corners(Image.open(BytesIO(data)).convert("RGB")) != [RED, GREEN, BLUE, YELLOW]


def test_an_orientation_out_of_range_is_ignored() -> None:
    assert corners(read(turned(9), image_size=64)) == [RED, GREEN, BLUE, YELLOW]


def test_heic_is_read_when_its_package_is_there() -> None:
    heif = pytest.importorskip("pillow_heif", reason="the heic extra is not installed")
    image = heif.from_pillow(quarters())
    buffer = BytesIO()
    image.save(buffer, quality=95)
    picture = open_picture(buffer.getvalue(), image_size=64)
    assert corners(picture.image) == [RED, GREEN, BLUE, YELLOW]
    assert picture.payload["format"] == "heif"


def test_heic_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'sightline\[heic\]'"):
        read(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), image_size=64)


def test_jpeg_xl_is_read_when_its_package_is_there() -> None:
    pytest.importorskip("pillow_jxl", reason="the jxl extra is not installed")
    picture = open_picture(encoded(quarters(), "JXL", quality=95), image_size=64)
    assert corners(picture.image) == [RED, GREEN, BLUE, YELLOW]
    assert picture.payload["format"] == "jxl"


def test_jpeg_xl_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl.JpegXLImagePlugin", None)
    with pytest.raises(ImageError, match=r"JPEG XL.*pillow-jxl.*pip install 'sightline\[jxl\]'"):
        read(b"\xff\x0a" + bytes(100), image_size=64)


def test_the_thumbnail_of_a_raw_photograph_is_not_taken_for_it() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[50706] = b"\1\4\0\0"  # DNGVersion
    tags.tagtype[50706] = 1
    with pytest.raises(ImageError, match="RAW photograph"):
        read(encoded(quarters(), "TIFF", tiffinfo=tags), image_size=64)


@pytest.mark.parametrize("size", [(1600, 1200), (1201, 1607), (3000, 301), (317, 2500), (900, 899), (200, 150)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_reduced_pictures_keep_twice_the_size_and_look_the_same(size: tuple[int, int], file_format: str) -> None:
    original = scene(7, size)
    speckles = np.random.default_rng(0).integers(-40, 40, (*size[::-1], 3)).cumsum(0).cumsum(1) % 60
    original = Image.fromarray((np.asarray(original) * 0.7 + speckles).astype(np.uint8))
    data = encoded(original, file_format, quality=90) if file_format == "JPEG" else encoded(original, file_format)
    image = read(data, image_size=112)
    assert all(side >= min(224, stored) for side, stored in zip(image.size, size, strict=True))
    assert image.width * image.height < 4 * 224 * 224 * max(size) / min(size) or min(size) < 448
    assert cosine(image, Image.open(BytesIO(data)).convert("RGB")) > 0.998


def test_sides_that_do_not_divide_are_not_shifted() -> None:
    """573 rows halved are 286.5: taken for 287, the lower edge would be off by a fifth of a row of 112."""
    stripes = np.where(np.arange(573)[:, None, None] % 20 < 10, 220, 30) * np.ones((1, 640, 3))
    data = encoded(Image.fromarray(stripes.astype(np.uint8)), "JPEG", quality=95)
    image = read(data, image_size=112)
    assert image.width < 640
    assert cosine(image, Image.open(BytesIO(data))) > 0.9995


def test_a_bomb_is_refused_before_it_is_decoded_and_the_flag_is_named() -> None:
    data = bomb()
    assert len(data) < 4000
    with pytest.raises(ImageTooLarge, match=r"50000 x 50000 .* 2,500 megapixels.*256.*--max-megapixels 2500"):
        read(data, image_size=64)


@pytest.mark.parametrize(
    "data",
    [
        b"P6 99999 99999 255\n",
        COLOURED["plain.bmp"]()[:18] + struct.pack("<ii", 99999, 99999) + COLOURED["plain.bmp"]()[26:],
        COLOURED["still.gif"]()[:6] + struct.pack("<HH", 65535, 65535) + COLOURED["still.gif"]()[10:],
        COLOURED["lossy.webp"]()[:26] + struct.pack("<HH", 16383, 16383) + COLOURED["lossy.webp"]()[30:],
    ],
    ids=["ppm", "bmp", "gif", "webp"],
)
def test_other_formats_hold_no_bombs_either(data: bytes) -> None:
    with pytest.raises(ImageTooLarge):
        read(data, image_size=64)


def test_the_limit_can_be_set_and_lifted() -> None:
    data = encoded(quarters((1000, 500)), "PNG")
    with pytest.raises(ImageTooLarge):
        read(data, image_size=64, limit_megapixels=0.4)
    assert read(data, image_size=64, limit_megapixels=0.5).size
    assert read(data, image_size=64, limit_megapixels=None).size


def test_pillows_own_limits_do_not_apply() -> None:
    """180 megapixels is an error of Pillow's, 90 a warning; a telephone takes 200."""
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="truncated ppm"):  # the size passed, there is just no picture behind it
        read(b"P4 20000 10000\n", image_size=64)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", sorted(COLOURED.keys() - {"lzw.tif", "jpeg.tif", "animated.gif", "two-in-one.mpo"}))
def test_a_truncated_file_is_called_truncated(name: str) -> None:
    with pytest.raises(ImageError, match="truncated"):
        read(truncated(COLOURED[name]()), image_size=64)


@pytest.mark.parametrize("name", ["plain.jpg", "plain.png", "lossy.webp", "lzw.tif", "still.gif", "plain.avif"])
def test_no_place_to_cut_a_file_gives_another_error(name: str) -> None:
    data = COLOURED[name]()
    for length in range(0, len(data) - 40, max(1, len(data) // 60)):
        with pytest.raises(ImageError):
            read(data[:length], image_size=64)


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"", "an empty file"),
        (bytes(5000), "zero bytes only"),
        (TEXT, "text"),
        ("Grüße".encode(), "text"),
        (b"BMW is a car", "text"),
        (HTML, "an HTML page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF document"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a video"),
        (b"\x93\0\1\2\3", "bytes of an unknown kind"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, looks_like: str) -> None:
    with pytest.raises(ImageError, match=f"not a picture but .*{looks_like}.*expected JPEG"):
        read(data, image_size=64)


@pytest.mark.parametrize("name", COLOURED)
def test_random_damage_gives_a_picture_or_an_image_error(name: str) -> None:
    data = COLOURED[name]()
    chance = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(data)
        for position in chance.integers(0, min(len(data), 400 if chance.random() < 0.5 else len(data)), 4):
            damaged[position] = chance.integers(0, 256)
        try:
            assert open_picture(bytes(damaged), image_size=64, limit_megapixels=20).image.mode == "RGB"
        except ImageError:
            continue


def test_odd_metadata_warns_nobody_in_any_thread() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHII", 9, 0x010F, 2, 4000, 26)  # a text beyond the end
    data = encoded(quarters(), "JPEG", exif=exif)
    with pytest.warns(UserWarning, match="(?i)exif|corrupt|larger|truncated"):
        Image.open(BytesIO(data)).getexif().get(0x010F)
    start = threading.Barrier(8)

    def work(_: int) -> set[tuple[int, int]]:
        start.wait()
        return {read(data, image_size=64).size for _ in range(50)}

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [{(96, 64)}] * 8
    assert list(warnings.filters) == before


def test_the_payload_comes_with_the_picture() -> None:
    picture = open_picture(photograph(), image_size=64)
    assert picture.image.size == (96, 64)
    assert picture.payload["camera"] == "Canon EOS 5D"


def test_every_suffix_that_is_looked_for_belongs_to_a_format_that_is_read() -> None:
    names = {
        "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
        "PNG": {".png", ".apng"},
        "WEBP": {".webp"},
        "GIF": {".gif"},
        "BMP": {".bmp", ".dib"},
        "TIFF": {".tif", ".tiff"},
        "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
        "AVIF": {".avif", ".avifs"},
    }
    assert SUFFIXES - {".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl"} == set().union(*names.values())
    for file_format in names:
        assert read(encoded(quarters(), file_format), image_size=64).mode == "RGB"


def test_the_reason_is_one_line_whatever_a_plug_in_says() -> None:
    pytest.importorskip("pillow_jxl")
    with pytest.raises(ImageError) as caught:
        read(b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(200), image_size=96)
    assert "\n" not in str(caught.value)
