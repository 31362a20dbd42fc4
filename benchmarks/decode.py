"""Pictures per second from file to pixels on one core, beside plain Pillow, and how near the vectors stay.

python -m benchmarks decode [--images DIR] [--model NAME] [--count N]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from benchmarks.indexing import kinds
from PIL import Image

from sightline.encoders.base import Encoder, load_encoder
from sightline.images.read import open_picture, thumbnail
from sightline.sources.base import open_source
from sightline.types import Pixels

WALKED_FILES = 50_000


def main() -> None:
    """Measure each set of pictures, then how fast a folder of unchanged files is walked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of pictures (default: generated ones)")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    encoder = load_encoder(options.model)
    with tempfile.TemporaryDirectory() as scratch:
        for kind, files in kinds(options.images, Path(scratch), options.count):
            pictures = [path.read_bytes() for path in files]
            report(kind, pictures, encoder, options.rounds)
            report(f"{kind}, sides cut to odd numbers", [*odd_sides(pictures[:32])], encoder, options.rounds)
        walk(Path(scratch), options.rounds)


def report(kind: str, pictures: Sequence[bytes], encoder: Encoder, rounds: int) -> None:
    """One table: each way's best of a few rounds, taken in turn so that the machine's moods hit all alike."""
    ways: dict[str, Callable[[bytes], object]] = {
        "plain Pillow, all of it decoded": lambda data: plain(data, encoder),
        "sightline": lambda data: ours(data, encoder),
        "sightline thumbnail, 256": lambda data: thumbnail(data, 256),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            for data in pictures:
                way(data)
            rates[name].append(len(pictures) / (time.perf_counter() - started))
    print(f"\n{kind}, {len(pictures)} pictures, model {encoder.name} at {encoder.image_size}, one core")
    base = max(rates["plain Pillow, all of it decoded"])
    for name, values in rates.items():
        print(f"  {name:34} {max(values):8.1f} pictures/s   {max(values) / base:5.2f} x")
    reduced, noisy = (
        np.array(cosines) for cosines in zip(*(drift(data, encoder) for data in pictures[:32]), strict=True)
    )
    print(f"  cosine to plain Pillow's vector: smallest {reduced.min():.6f}, mean {reduced.mean():.6f}")
    print(f"  the same of pixels that are off by one at random: {noisy.min():.6f}, mean {noisy.mean():.6f}")


def plain(data: bytes, encoder: Encoder) -> Pixels:
    """As most scripts do it: decode in full, convert, preprocess."""
    return encoder.preprocess(Image.open(BytesIO(data)).convert("RGB"))


def ours(data: bytes, encoder: Encoder) -> Pixels:
    """As indexing does it."""
    return encoder.preprocess(open_picture(data, image_size=encoder.image_size).image)


def drift(data: bytes, encoder: Encoder) -> tuple[float, float]:
    """Cosines to the vector of a full decode: of ours, and of the full decode with pixels off by -1, 0 or 1.

    The second is what the model itself makes of nothing: an 8-bit model may answer one level of noise with 0.98.
    """
    full = plain(data, encoder)
    noise = np.random.default_rng(0).integers(-1, 2, full.shape)
    noisy = np.clip(full + noise, 0, 255).astype(np.uint8)
    exact, reduced, disturbed = encoder.encode_images(np.stack([full, ours(data, encoder), noisy]))
    return float(exact @ reduced), float(exact @ disturbed)


def odd_sides(pictures: Sequence[bytes]) -> Iterator[bytes]:
    """The same pictures with sides that no reduced decoding divides."""
    for data in pictures:
        image = Image.open(BytesIO(data)).convert("RGB")
        buffer = BytesIO()
        image.crop((0, 0, image.width - image.width % 8 - 3, image.height - image.height % 8 - 5)).save(
            buffer, "JPEG", quality=90
        )
        yield buffer.getvalue()


def walk(scratch: Path, rounds: int) -> None:
    """What an unchanged file costs: one look at its name, size and date."""
    for number in range(WALKED_FILES):
        folder = scratch / "walked" / f"{number // 1000:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"IMG_{number:06}.jpg").touch()
    ways: dict[str, Callable[[], int]] = {
        "Path.rglob and stat": lambda: sum(path.stat().st_size == 0 for path in (scratch / "walked").rglob("*.jpg")),
        "sightline": lambda: sum(1 for _ in open_source(scratch / "walked")),
    }
    print(f"\na folder of {WALKED_FILES:,} unchanged files")
    for name, way in ways.items():
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - started)
        print(f"  {name:34} {WALKED_FILES / min(seconds):8,.0f} files/s")


if __name__ == "__main__":
    main()
