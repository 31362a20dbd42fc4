"""Pictures of every layout, profile and transparency look as their viewers show them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw
from PIL.ExifTags import Base
from tests.pictures import (
    encoded,
    grey_profile,
    ink_profile,
    quarters,
    scene,
    swapped_profile,
    tiff,
)

from sightline.errors import ImageError, ImageTooLarge
from sightline.images.read import open_picture, read, thumbnail

RAMP = np.linspace(0, 1, 96)[None, :] * np.ones((64, 1))
COLOURS = np.stack([RAMP, np.linspace(0, 1, 64)[:, None] * np.ones((1, 96)), 0.5 * (1 - RAMP)], -1)  # (64, 96, 3)


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    kind = np.dtype(dtype)
    return values.astype(kind) if kind.kind == "f" else (values * np.iinfo(kind).max).astype(kind)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(read(data, image_size=64)).astype(float) / 255


@pytest.mark.parametrize("is_big_endian", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("is_deflated", [False, True], ids=["plain", "deflated"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f2", "f4", "f8"])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white is zero", "black is zero"])
def test_greys_of_every_depth(photometric: int, dtype: str, is_deflated: bool, is_big_endian: bool) -> None:
    grey = stored(1 - RAMP if photometric == 0 else RAMP, dtype)
    data = tiff(grey, photometric=photometric, is_deflated=is_deflated, is_big_endian=is_big_endian)
    assert abs(pixels(data) - RAMP[..., None]).max() < 0.01


@pytest.mark.parametrize("is_big_endian", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("is_planar", [False, True], ids=["chunky", "planar"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4", "f8"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_colours_of_every_depth(predictor: int, dtype: str, is_planar: bool, is_big_endian: bool) -> None:
    if predictor == 2 and dtype[0] == "f":
        pytest.skip("floats have a predictor of their own")
    data = tiff(
        stored(COLOURS, dtype),
        photometric=2,
        is_planar=is_planar,
        is_big_endian=is_big_endian,
        is_deflated=True,
        predictor=predictor,
    )
    assert abs(pixels(data) - COLOURS).max() < 0.01


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_what_is_transparent_in_a_planar_tiff_is_not_seen(dtype: str) -> None:
    alpha = np.ones((64, 96, 1))
    alpha[:32, :48] = 0
    data = tiff(stored(np.concatenate([COLOURS, alpha], -1), dtype), photometric=2, is_planar=True, extra=2)
    seen = pixels(data)
    assert abs(seen[40:] - COLOURS[40:]).max() < 0.01
    assert seen[:30, :46].min() > 0.99


def test_the_largest_page_is_the_picture_where_the_first_is_a_thumbnail() -> None:
    small, page = np.zeros((8, 12), np.uint8), stored(RAMP, "u1")
    picture = open_picture(tiff(small, page, small), image_size=64)
    assert (picture.payload["width"], picture.payload["height"]) == (96, 64)
    assert abs(np.asarray(picture.image)[..., 0] / 255 - RAMP).max() < 0.01
    first, second = stored(RAMP, "u1"), np.zeros((70, 96), np.uint8)
    assert read(tiff(first, second), image_size=64).size == (96, 64)  # pages of about one size: a document


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_of_16_bit_planes_stands_upright(orientation: int) -> None:
    tags = Image.Exif()
    tags[Base.Orientation] = orientation
    with Image.open(BytesIO(encoded(Image.fromarray(stored(COLOURS, "u1")), "TIFF", exif=tags))) as viewed:
        viewed.load()
        wanted = np.asarray(viewed)
    data = tiff(stored(COLOURS, "u2"), photometric=2, is_planar=True)
    directory = int.from_bytes(data[4:8], "little")
    turned = bytearray(data)
    entry = next(at for at in range(directory + 2, len(data), 12) if turned[at : at + 2] == (317).to_bytes(2, "little"))
    turned[entry : entry + 12] = b"\x12\x01\x04\0\x01\0\0\0" + orientation.to_bytes(4, "little")
    picture = open_picture(bytes(turned), image_size=64)
    assert abs(np.asarray(picture.image).astype(int) - wanted).max() <= 3
    assert (picture.payload["width"], picture.payload["height"]) == wanted.shape[1::-1]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_colour_profile_is_converted(file_format: str) -> None:
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    data = encoded(red, file_format, icc_profile=swapped_profile(), quality=95)
    assert np.allclose(pixels(data).mean((0, 1)), (0, 1, 0), atol=0.1)
    small = Image.open(BytesIO(thumbnail(data, 32)))
    assert np.allclose(np.asarray(small).mean((0, 1)) / 255, (0, 1, 0), atol=0.1)
    assert "icc_profile" not in small.info


def test_profiles_of_greys_inks_palettes_and_transparency_are_converted() -> None:
    grey = encoded(Image.new("L", (64, 64), 128), "PNG", icc_profile=grey_profile(1.0))
    assert 0.7 < pixels(grey).mean() < 0.76  # half of the light is not half of the code values
    deep = encoded(Image.fromarray(np.full((64, 64), 128 * 257, np.uint16)), "PNG", icc_profile=grey_profile(1.0))
    assert pixels(deep).mean() == pytest.approx(pixels(grey).mean(), abs=0.02)
    for file_format in ("JPEG", "TIFF"):
        cyan = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
        seen = pixels(encoded(cyan, file_format, icc_profile=ink_profile())).mean((0, 1))
        assert seen[1] > seen[0] + 0.3
        assert seen[1] > seen[2] + 0.3
    palette = encoded(quarters().quantize(8), "PNG", icc_profile=swapped_profile())
    assert np.allclose(pixels(palette)[4, 4], (0, 1, 0), atol=0.1)
    glass = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    assert np.allclose(pixels(encoded(glass, "PNG", icc_profile=swapped_profile()))[4, 4], (0, 1, 0), atol=0.1)


def test_lab_is_shown_in_its_colours() -> None:
    lab = Image.new("LAB", (64, 64), (140, 200, 190))
    wanted = ImageCms.profileToProfile(
        lab, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert abs(pixels(encoded(lab, "TIFF")) * 255 - np.asarray(wanted)).max() < 6


@pytest.mark.parametrize("broken", [b"", b"no profile", swapped_profile()[:200], ink_profile()])
def test_a_profile_that_is_broken_or_of_another_space_is_ignored(broken: bytes) -> None:
    data = encoded(Image.new("RGB", (64, 64), (255, 0, 0)), "PNG", icc_profile=broken)
    assert np.allclose(pixels(data), (1, 0, 0))


def test_profiles_are_converted_alike_in_many_threads() -> None:
    data = [encoded(scene(seed), "PNG", icc_profile=swapped_profile()) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda turn: pixels(data[turn % 4]), range(64)))
    assert all(np.array_equal(found[turn], found[turn % 4]) for turn in range(64))


def drawing(mode: str, ink: int) -> Image.Image:
    """A figure of one ink on nothing, whose hidden colour is the ink's own."""
    mask = Image.new("L", (96, 96), 0)
    ImageDraw.Draw(mask).ellipse((20, 20, 70, 70), fill=255)
    image = Image.new("RGB" if mode == "RGBA" else "L", (96, 96), (ink, ink, ink) if mode == "RGBA" else ink)
    image.putalpha(mask)
    return image


@pytest.mark.parametrize("ink", [0, 3, 60, 200, 240, 255])
@pytest.mark.parametrize("kind", ["RGBA.PNG", "LA.PNG", "RGBA.WEBP", "RGBA.TIFF", "LA.TIFF", "P.PNG", "P.GIF"])
def test_a_drawing_on_transparency_is_seen_whatever_its_ink(kind: str, ink: int) -> None:
    mode, _, file_format = kind.partition(".")
    if mode == "P":
        palette = Image.new("P", (96, 96), 0)
        palette.putpalette([ink] * 6)
        ImageDraw.Draw(palette).ellipse((20, 20, 70, 70), fill=1)
        data = encoded(palette, file_format, transparency=0)
    else:
        data = encoded(drawing(mode, ink), file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    seen = pixels(data)
    assert abs(seen[45, 45] - seen[2, 2]).max() > 0.05
    assert abs(seen[45, 45] - ink / 255).max() < 0.02


def test_a_drawing_of_black_and_white_on_transparency_is_seen_whole() -> None:
    image = drawing("RGBA", 255)
    ImageDraw.Draw(image).rectangle((80, 20, 90, 90), fill=(0, 0, 0, 255))
    seen = pixels(encoded(image, "PNG"))
    assert len({round(float(seen[at].mean()), 2) for at in ((45, 45), (50, 85), (2, 2))}) == 3


def test_one_grey_of_16_bits_may_be_transparent() -> None:
    grey = np.full((64, 64), 65535, np.uint16)
    grey[20:40, 20:40] = 1000
    seen = pixels(encoded(Image.fromarray(grey), "PNG", transparency=1000))
    assert seen[2, 2].mean() > 0.99
    assert seen[30, 30].mean() < 0.1  # white on nothing: the ground is black


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2, 20, 200])
def test_a_jpeg_that_lacks_its_last_bytes_is_taken_and_says_so(missing: int, progressive: bool) -> None:
    whole = encoded(noisy((640, 480)), "JPEG", quality=90, progressive=progressive)
    picture = open_picture(whole[:-missing], image_size=64)
    assert abs(np.asarray(picture.image).astype(int) - np.asarray(read(whole, image_size=64)))[:-20].max() < 12
    if missing > 2:
        assert "of its rows are there" in str(picture.payload["damage"])
    assert "damage" not in open_picture(whole, image_size=64).payload


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.9])
def test_a_jpeg_that_lacks_more_is_a_failure(share: float, progressive: bool) -> None:
    whole = encoded(noisy((640, 480)), "JPEG", quality=90, progressive=progressive)
    with pytest.raises(ImageError, match="truncated"):
        read(whole[: int(len(whole) * share)], image_size=64)


def noisy(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(3).integers(-30, 30, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(scene(3, size)).astype(int) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.skipif(sys.platform == "win32", reason="asks the system for the largest memory")
@pytest.mark.parametrize("kind", ["deep", "float", "palette", "grey and alpha"])
def test_a_large_picture_takes_four_bytes_a_pixel_and_no_more(kind: str) -> None:
    """24 megapixels in a process of their own; 16 bits took 17 bytes a pixel, a palette with a transparent entry 9."""
    grey = np.broadcast_to(np.linspace(0, 255, 6000).astype(np.uint8), (4000, 6000))
    data = {
        "deep": lambda: encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG", compress_level=1),
        "float": lambda: encoded(Image.fromarray(grey / np.float32(255)), "TIFF"),
        "palette": lambda: encoded(Image.fromarray(grey).convert("P"), "PNG", transparency=3, compress_level=1),
        "grey and alpha": lambda: encoded(Image.fromarray(grey).convert("LA"), "PNG", compress_level=1),
    }[kind]()
    code = (
        "import sys, resource; from sightline.images.read import read; data = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; read(data, image_size=224)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    taken = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    kilobytes = int(taken.stdout) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 24_000 * (9 if kind == "float" else 5.5)


def test_what_takes_more_memory_than_promised_is_refused_before_and_the_flag_lifts_it() -> None:
    flat = Image.new("RGB", (12_000, 7_000))
    data = encoded(flat, "WEBP", method=0, lossless=True)
    with pytest.raises(ImageTooLarge, match=r"12000 x 7000 .* 1,344 MB.*1,024.*--max-megapixels 336"):
        read(data, image_size=64)
    assert read(data, image_size=64, limit_megapixels=336).size


@pytest.mark.parametrize("name", ["gif", "tiff", "float tiff", "png"])
def test_pillows_limit_is_lifted_with_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr("sightline.images.decode._PILLOWS_LIMIT", 900)
    data = {
        "gif": lambda: encoded(quarters(), "GIF"),
        "tiff": lambda: encoded(quarters(), "TIFF"),
        "float tiff": lambda: tiff(stored(RAMP, "f4")),
        "png": lambda: encoded(Image.fromarray(stored(RAMP, "u2")), "PNG"),
    }[name]()
    assert read(data, image_size=64).size == (96, 64)
    assert Image.MAX_IMAGE_PIXELS == 1000
