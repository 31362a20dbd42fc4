"""Copies are told from what only looks alike: other pages, other products, other frames of a burst."""

from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from tests.pictures import encoded, scene, write

from sightline.analysis.copied import Comparison, sureness
from sightline.analysis.duplicates import SURE
from sightline.cli.main import main
from sightline.types import Hit


def textured(seed: int) -> Image.Image:
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 60, (30, 40, 3)).astype(np.uint8)
    grain = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(
        (np.asarray(scene(seed, (640, 480))).astype(int) * 3 // 4 + grain).clip(0, 255).astype(np.uint8)
    )


def page(seed: int, *, number: int | None = None) -> Image.Image:
    """A page of text; with a number, always the same form with that number in a field."""
    image = Image.new("RGB", (620, 877), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    chance = np.random.default_rng(seed)
    for top in range(60, 820, 22):
        words = ["".join(chance.choice(list("abcdefghiklmnoprstuvw"), chance.integers(2, 9))) for _ in range(9)]
        draw.text((50, top), " ".join(words)[:70], font=font, fill=(20, 20, 20))
    if number is not None:
        draw.rectangle((470, 20, 600, 50), fill="white")
        draw.text((480, 25), f"No. {number}", font=font, fill="black")
    return image


def reencoded(image: Image.Image, quality: int = 60) -> Image.Image:
    return Image.open(BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    return image.crop((image.width // 20, image.height // 30, image.width * 19 // 20, image.height * 24 // 25))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "itself": lambda image: image.copy(),
    "re-encoded": reencoded,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "enlarged": lambda image: image.resize((image.width * 3 // 2, image.height * 3 // 2)),
    "cropped": cropped,
    "cropped, smaller and re-encoded": lambda image: reencoded(cropped(image).resize((420, 300)), 75),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_known(kind: str) -> None:
    for seed in range(2):
        assert sureness(textured(seed), COPIES[kind](textured(seed))) >= SURE
    if "smaller" not in kind:
        assert sureness(page(1), COPIES[kind](page(1))) >= SURE


def test_other_pages_products_and_frames_are_not() -> None:
    assert sureness(page(1), page(2)) < SURE
    assert sureness(page(1, number=10342), page(1, number=87321)) < SURE
    assert sureness(page(1, number=10342), reencoded(page(1, number=10343), 80)) < SURE
    whole = textured(5)
    first, shifted = whole.crop((0, 0, 600, 450)), whole.crop((22, 14, 622, 464))
    red, striped, moved = first.copy(), first.copy(), first.copy()
    ImageDraw.Draw(red).rectangle((300, 200, 340, 240), fill=(200, 30, 30))
    for top in range(100, 400, 12):
        ImageDraw.Draw(striped).line((200, top, 440, top), fill=(250, 250, 250), width=4)
    moved.paste(first.crop((100, 100, 160, 160)), (130, 112))
    for other in (red, striped, moved, shifted, textured(6), first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        assert sureness(first, other) < SURE


def test_a_small_compressed_page_is_told_apart_or_left_alone() -> None:
    for number in (10343, 16342):
        small = page(1, number=number).resize((372, 526), Image.Resampling.LANCZOS)
        assert sureness(page(1, number=10342), reencoded(small, 50)) < SURE
    assert sureness(page(1), page(1).resize((310, 438), Image.Resampling.LANCZOS)) >= SURE


def test_moments_of_the_camera_tell_frames_of_a_burst(tmp_path: Path) -> None:
    one = write(tmp_path, "a.png", encoded(scene(1), "PNG"))
    other = write(tmp_path, "b.png", encoded(scene(1), "PNG", compress_level=1))
    hits = [
        Hit(path.name, path.as_uri(), 1.0, {"taken": datetime(2024, 5, 1, 12, 0, second, tzinfo=UTC)})
        for second, path in enumerate((one, other))
    ]
    compare = Comparison()
    assert compare(*hits) == 0
    assert compare(hits[0], Hit("b", other.as_uri(), 1.0)) >= SURE
    assert compare(hits[0], Hit("c", "https://example.org/c.jpg", 1.0)) == 0
    assert compare(Hit("x", "https://x", 1, {"sha256": "1"}), Hit("y", "https://y", 1, {"sha256": "1"})) == 1


def test_only_copies_are_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, index = tmp_path / "pages", str(tmp_path / "index")
    for number in range(3):
        write(folder, f"page{number}.png", encoded(page(number), "PNG"))
        write(folder, f"form{number}.png", encoded(page(9, number=1000 + 777 * number), "PNG"))
    write(folder, "copy.jpg", encoded(cropped(page(2)), "JPEG", quality=70))
    assert main(["index", str(folder), "--index", index, "--model", "mini", "-q"]) == 0
    capsys.readouterr()
    assert main(["duplicates", "--index", index, "--keep", "largest"]) == 0
    assert capsys.readouterr().out == f"{folder / 'copy.jpg'}\n"
    assert main(["duplicates", "--index", index, "--json"]) == 0
    assert '"sure": 0.' in capsys.readouterr().out
    assert main(["duplicates", "--index", index, "--keep", "largest", "--unchecked"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 1
