"""Measure the pixel check of duplicates on products, pages, photographs and bursts: what it offers, what it misses.

    python -m benchmarks.duplicates PRODUCTS PHOTOGRAPHS [--pairs 1000]

Both are folders of pictures. Wrong pairs are the hardest there are: of products the nearest ones by a small grey
picture, pages of one form that differ in a number, frames of bursts made by moving the camera or a part of the picture.
"""

import argparse
import io
import random
from collections.abc import Callable, Iterator
from itertools import combinations, islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sightline.analysis.copied import sureness
from sightline.analysis.duplicates import SURE

Change = Callable[[Image.Image, random.Random], Image.Image]


def encoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, chance: random.Random) -> Image.Image:
    left, top, right, bottom = (chance.uniform(0, 0.07) for _ in range(4))
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


COPIES: dict[str, Change] = {
    "JPEG 60": lambda image, _: encoded(image, 60),
    "JPEG 40": lambda image, _: encoded(image, 40),
    "half size": lambda image, _: resized(image, 0.5),
    "0.7, JPEG 75": lambda image, _: encoded(resized(image, 0.7), 75),
    "cropped": cropped,
    "cropped, JPEG 70": lambda image, chance: encoded(cropped(image, chance), 70),
}


def page(seed: int, number: int | None = None) -> Image.Image:
    """A page of random words as a scanner sees it; with a number, one form with that number in it."""
    chance, image = random.Random(seed), Image.new("RGB", (620, 877), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    for top in range(60, 820, 22):
        words = ["".join(chance.choices("aabcdeefghiilmnoprstu", k=chance.randint(2, 9))) for _ in range(9)]
        draw.text((50, top), " ".join(words)[:70], font=font, fill=(20, 20, 20))
    if number is not None:
        draw.text((480, 25), f"No. {number}", font=font, fill="black")
    noise = np.random.default_rng(number or seed).normal(0, 3, (877, 620, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def frame(image: Image.Image, chance: random.Random) -> Image.Image:
    """A frame of a burst: noise of the sensor, and either the camera moves or a part of what it sees."""
    noise = np.random.default_rng(chance.randrange(1 << 30)).normal(0, 4, (image.height, image.width, 3))
    seen = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    width, height = seen.size
    if chance.random() < 0.5:
        turn, scale = chance.uniform(-0.006, 0.006), 1 + chance.uniform(-0.01, 0.01)
        across, down = (chance.choice((-1, 1)) * chance.uniform(0.01, 0.02) * side for side in seen.size)
        matrix = (scale, turn, across, -turn, scale, down)
        seen = seen.transform(seen.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    else:
        reach = (max(8, width // 8), max(8, height // 8))
        left, top = chance.randrange(width - 2 * reach[0]), chance.randrange(height - 2 * reach[1])
        part = seen.crop((left, top, left + reach[0], top + reach[1]))
        seen.paste(part, (left + reach[0] // 2, top + reach[1] // 3))
    return seen.crop((round(0.03 * width), round(0.03 * height), round(0.97 * width), round(0.97 * height)))


def nearest(images: list[Image.Image]) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Pairs of different pictures, each with the three that look most like it."""
    small = np.stack([np.asarray(image.convert("L").resize((16, 16)), np.float32).ravel() for image in images])
    small -= small.mean(axis=1, keepdims=True)
    small /= np.linalg.norm(small, axis=1, keepdims=True) + 1e-6
    scores = small @ small.T  # (n, 256) @ (256, n) -> (n, n)
    np.fill_diagonal(scores, -1)
    for first, others in enumerate(np.argsort(-scores, axis=1)[:, :3]):
        for second in others:
            if images[first].tobytes() != images[second].tobytes():  # else two products have one and the same picture
                yield images[first], images[second]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("products", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--pairs", type=int, default=1000)
    options = parser.parse_args()
    chance, most = random.Random(1), options.pairs
    products = [Image.open(path).convert("RGB") for path in sorted(options.products.iterdir())[: most // 3 + 1]]
    photographs = [Image.open(path).convert("RGB") for path in sorted(options.photographs.iterdir())[: most // 6 + 1]]
    forms = [page(7, number) for number in range(1000, 1000 + round(most**0.5 * 1.5))]
    bursts = [[frame(image, chance) for _ in range(4)] for image in photographs[: most // 6 + 1]]
    wrong = {
        "products": nearest(products),
        "pages of a form": combinations(forms, 2),
        "bursts": (pair for burst in bursts for pair in combinations(burst, 2)),
    }
    for name, pairs in wrong.items():
        found = np.array([sureness(*pair) for pair in islice(pairs, most)])
        print(
            f"{name:18s} {len(found):5d} different pairs, {(found >= SURE).sum():4d} offered, surest {found.max():.3f}"
        )
    some = max(12, most // 40)
    for name, images in {
        "products": products,
        "photographs": photographs,
        "pages": [page(n) for n in range(12)],
    }.items():
        for kind, change in COPIES.items():
            found = np.array([sureness(image, change(image, chance)) for image in images[:some]])
            share, least = (found >= SURE).mean(), found.min()
            print(f"{name:12s} {kind:18s} {len(found):4d} copies, {share:6.1%} found, least {least:.3f}")


if __name__ == "__main__":
    main()
