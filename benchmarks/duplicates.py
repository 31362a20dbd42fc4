"""Measure the pixel check of duplicates: what it wrongly offers among look-alikes, and which copies it misses.

    python -m benchmarks.duplicates PRODUCTS... --photographs FOLDER [--pairs 1000]

Each folder holds pictures. Look-alikes are the hardest there are: of products the nearest ones by a small picture;
forms that differ in a digit, a name or a tick, as printed or as scanned; pages of other words in one layout; frames of
bursts in which the camera or a part of the scene moves. In half of the pairs one side is re-encoded or smaller too.
"""

import argparse
import io
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sightline.analysis.copied import sureness
from sightline.analysis.duplicates import SURE
from sightline.images.read import read

Change = Callable[[Image.Image, random.Random], Image.Image]
Pair = tuple[Image.Image, Image.Image]

LONGEST = 2400  # pixels of a side that the comparison is given
NAMES = "Anna Schmidt,John Miller,Li Wei,Maria Rossi,Pierre Dubois,Olga Ivanova,Jane Doe,Ahmed Ali".split(",")
WORDS = "the of total sum date invoice paid account name item price each due left order form page note box yes".split()


def encoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


def cropped(image: Image.Image, chance: random.Random) -> Image.Image:
    left, top, right, bottom = (chance.uniform(0, 0.05) for _ in range(4))
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


COPIES: dict[str, Change] = {
    "JPEG 95": lambda image, _: encoded(image, 95),
    "JPEG 75": lambda image, _: encoded(image, 75),
    "JPEG 60": lambda image, _: encoded(image, 60),
    "JPEG 40": lambda image, _: encoded(image, 40),
    "half size": lambda image, _: resized(image, 0.5),
    "quarter size": lambda image, _: resized(image, 0.25),
    "0.7, JPEG 75": lambda image, _: encoded(resized(image, 0.7), 75),
    "half, JPEG 60": lambda image, _: encoded(resized(image, 0.5), 60),
    "cropped": cropped,
    "cropped, JPEG 70": lambda image, chance: encoded(cropped(image, chance), 70),
}
DISGUISES: tuple[Change, ...] = (
    *(lambda image, _: image,) * 4,
    lambda image, chance: encoded(image, chance.randint(40, 95)),
    lambda image, _: resized(image, 0.5),
    lambda image, chance: encoded(resized(image, 0.6), chance.randint(50, 90)),
    cropped,
)


class Form:
    """A form with fields to fill, on a page of A4 at 75 to 150 dots an inch; the same seed gives the same print."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.scale = chance.choice((1.0, 1.4, 2.0))
        self.size, self.seed = (round(620 * self.scale), round(877 * self.scale)), seed
        self.fields = chance.randint(3, 12)
        self.values = [self.value(chance) for _ in range(self.fields)]

    @staticmethod
    def value(chance: random.Random) -> str:
        kind = chance.randrange(4)
        if kind == 0:
            return chance.choice(NAMES)
        return (str(chance.randrange(100_000)), f"{chance.uniform(1, 999):.2f}", f"2024-{chance.randrange(10, 13)}-17")[
            kind - 1
        ]

    def print(self, values: list[str], ticks: int = 0) -> Image.Image:
        chance, scale = random.Random(self.seed), self.scale
        image = Image.new("RGB", self.size, "white")
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13 * scale)
        text = iter(values)
        rows = list(range(60, 820, chance.choice((22, 30))))
        filled = set(chance.sample(rows, self.fields))
        for top in rows:
            words = " ".join(chance.choices(WORDS, k=chance.randint(2, 12)))
            if top in filled:
                draw.text((50 * scale, top * scale), words[:20], font=font, fill=(30, 30, 30))
                draw.rectangle([250 * scale, (top - 2) * scale, 560 * scale, (top + 17) * scale], outline=(90, 90, 90))
                draw.text((256 * scale, top * scale), next(text), font=font, fill=(10, 10, 80))
            else:
                draw.text((50 * scale, top * scale), words[:75], font=font, fill=(30, 30, 30))
        for box in range(6):
            left, upper = (60 + 80 * box) * scale, 30 * scale
            draw.rectangle([left, upper, left + 12 * scale, upper + 12 * scale], outline="black")
            if ticks >> box & 1:
                draw.line([left, upper, left + 12 * scale, upper + 12 * scale], fill="black", width=round(2 * scale))
        return image


def changed(values: list[str], chance: random.Random) -> list[str]:
    """The fields of the next form: one digit or letter differs, one field, or all of them."""
    kind, field = chance.randrange(4), chance.randrange(len(values))
    if kind == 3:
        return [Form.value(chance) for _ in values]
    old = values[field]
    new = old
    while new == old:
        if kind == 2:
            new = Form.value(chance)
        else:
            place = chance.randrange(len(old))
            letter = chance.choice("0123456789" if old[place].isdigit() else "aeimnorstuAJM")
            new = old[:place] + letter + old[place + 1 :]
    return [*values[:field], new, *values[field + 1 :]]


def scanned(image: Image.Image, chance: random.Random) -> Image.Image:
    """As a scanner sees a page: a little moved, grey, with noise, as a JPEG."""
    matrix = (1.0, chance.uniform(-0.002, 0.002), chance.uniform(-3, 3), 0.0, 1.0, chance.uniform(-3, 3))
    moved = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor="white")
    noise = np.random.default_rng(chance.randrange(1 << 30)).normal(0, 3, (image.height, image.width, 1))
    grey = np.asarray(moved, np.float32) * chance.uniform(0.9, 1) + noise
    return encoded(Image.fromarray(grey.clip(0, 255).astype(np.uint8)), chance.randint(70, 92))


def forms(chance: random.Random) -> Iterator[Pair]:
    while True:
        form = Form(chance.randrange(40))
        other, ticks = changed(form.values, chance), 0
        if chance.random() < 0.15:
            other, ticks = form.values, 1 << chance.randrange(6)
        one, other_page = form.print(form.values), form.print(other, ticks)
        if chance.random() < 0.3:
            one, other_page = scanned(one, chance), scanned(other_page, chance)
        yield one, other_page


def pages(chance: random.Random) -> Iterator[Pair]:
    """Pages of different words in one layout."""
    while True:
        first, second = Form(chance.randrange(10**6)), Form(chance.randrange(10**6))
        second.scale, second.size = first.scale, first.size
        yield (
            scanned(first.print(first.values), chance),
            scanned(second.print(second.values), chance),
        )


def burst(image: Image.Image, chance: random.Random) -> Pair:
    """Two frames: noise of the sensor, and either the camera moves or a part of what it sees."""
    width, height = image.size
    if chance.random() < 0.4:
        turn, scale = chance.uniform(-0.006, 0.006), 1 + chance.uniform(-0.01, 0.01)
        across, down = (chance.choice((-1, 1)) * chance.uniform(0.01, 0.03) * side for side in image.size)
        matrix = (scale, turn, across, -turn, scale, down)
        other = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    else:
        other = image.copy()
        reach = [max(6, round(side * chance.uniform(0.06, 0.2))) for side in image.size]
        while True:
            left, top = (chance.randrange(side - part) for side, part in zip(image.size, reach, strict=True))
            to = [
                min(max(0, start + round(part * chance.uniform(-1, 1))), side - part)
                for start, part, side in zip((left, top), reach, image.size, strict=True)
            ]
            part = image.crop((left, top, left + reach[0], top + reach[1]))
            before = image.crop((to[0], to[1], to[0] + reach[0], to[1] + reach[1]))
            difference = np.abs(np.asarray(part, np.float32) - np.asarray(before, np.float32)).mean(-1)
            if (difference > 30).mean() > 0.1:  # else sky is moved over sky, which nobody sees
                break
            if chance.random() < 0.02:
                ImageDraw.Draw(other).rectangle([left, top, left + reach[0], top + reach[1]], fill=(200, 30, 30))
                break
        other.paste(part, (to[0], to[1]))
    frames = []
    for frame in (image, other):
        noise = np.random.default_rng(chance.randrange(1 << 30)).normal(0, 3, (height, width, 3))
        seen = Image.fromarray((np.asarray(frame) + noise).clip(0, 255).astype(np.uint8))
        inner = (round(0.04 * width), round(0.04 * height), round(0.96 * width), round(0.96 * height))
        frames.append(seen.crop(inner))
    return frames[0], frames[1]


def nearest(images: list[Image.Image]) -> Iterator[Pair]:
    """Pairs of different pictures, each with those that look most like it, the most alike first."""
    small = np.stack([np.asarray(image.resize((12, 12)), np.float32).ravel() for image in images])
    apart = (small**2).sum(1)[:, None] + (small**2).sum(1) - 2 * small @ small.T  # (n, 432) @ (432, n) -> (n, n)
    np.fill_diagonal(apart, np.inf)
    for rank in range(4):
        nearest_at = np.argpartition(apart, rank, axis=1)[:, rank]
        for first in np.argsort(apart[np.arange(len(images)), nearest_at]):
            second = nearest_at[first]
            if first < second or nearest_at[second] != first:
                yield images[first], images[second]


def opened(folder: Path, most: int) -> list[Image.Image]:
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".jpeg", ".png", ".webp"))
    return [read(path.read_bytes(), image_size=LONGEST) for path in paths[:most]]


def different(one: Image.Image, other: Image.Image) -> bool:
    return one.size != other.size or one.tobytes() != other.tobytes()  # else two products have one and the same picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("products", type=Path, nargs="+")
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--only", default="", help="one of the kinds: forms, bursts, pages, products")
    parser.add_argument("--save", type=Path, help="a folder for the pairs that are wrong or missed")
    options = parser.parse_args()
    chance, most = random.Random(1), options.pairs
    products = {folder.parent.name: opened(folder, 4 * most) for folder in options.products}
    photographs = opened(options.photographs, most)
    wrong: dict[str, Iterator[Pair]] = {f"products, {name}": nearest(images) for name, images in products.items()}
    wrong |= {"forms": forms(chance), "pages": pages(chance)}
    wrong["bursts"] = (burst(chance.choice(photographs), chance) for _ in range(most))
    for name, pairs in wrong.items():
        if not name.startswith(options.only):
            continue
        found, begun = list[float](), time.perf_counter()
        for one, other in islice((pair for pair in pairs if different(*pair)), most):
            # A frame that shows less than the other one, and nothing else, is a crop of it.
            other = chance.choice(DISGUISES[:-1] if name == "bursts" else DISGUISES)(other, chance)
            found.append(sureness(one, other))
            if found[-1] >= SURE and options.save:
                save(options.save, f"wrong {name} {len(found)}", one, other)
        scores = np.array(found)
        offered, cost = int((scores >= SURE).sum()), (time.perf_counter() - begun) / len(scores)
        top = ", ".join(f"{score:.2f}" for score in np.sort(scores)[::-1][:4])
        print(f"{name:24s} {len(scores):5d} different pairs, {offered:4d} offered, surest {top} ({cost:.2f} s a pair)")
        sys.stdout.flush()
    form_copies = [Form(seed).print(Form(seed).values) for seed in range(options.copies)]
    originals = products | {"photographs": photographs, "forms": form_copies}
    originals["scanned"] = [scanned(form, chance) for form in form_copies]
    for name, images in originals.items():
        some = chance.sample(images, min(options.copies, len(images)))
        for kind, change in COPIES.items() if not options.only else ():
            scores = np.array([sureness(image, change(image, chance)) for image in some])
            least = ", ".join(f"{score:.2f}" for score in np.sort(scores)[:3])
            print(f"{name:18s} {kind:16s} {len(scores):4d} copies, {(scores >= SURE).mean():6.1%} found, least {least}")
            sys.stdout.flush()


def save(folder: Path, name: str, one: Image.Image, other: Image.Image) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    both = Image.new("RGB", (one.width + other.width + 4, max(one.height, other.height)), "magenta")
    both.paste(one, (0, 0))
    both.paste(other, (one.width + 4, 0))
    both.save(folder / f"{name}.png")


if __name__ == "__main__":
    main()
