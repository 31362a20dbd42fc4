"""Pictures per second of indexing, beside inference alone, decoding alone, and the loop that tutorials teach.

python -m benchmarks indexing [--images DIR] [--model NAME] [--count N]
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tests.pictures import scene

from sightline.encoders.base import Encoder, load_encoder
from sightline.images.read import open_picture
from sightline.index import Index
from sightline.sources.files import SUFFIXES

CORES = os.cpu_count() or 1


def main() -> None:
    """Measure each part in the same run and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of pictures (default: generated ones)")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    encoder = load_encoder(options.model)
    with tempfile.TemporaryDirectory() as scratch:
        for kind, files in kinds(options.images, Path(scratch), options.count):
            report(kind, files, encoder, options.rounds, Path(scratch))


def kinds(images: Path | None, scratch: Path, count: int) -> Sequence[tuple[str, Sequence[Path]]]:
    """The sets to measure: the user's pictures, or generated ones of web size and of 12 megapixels."""
    if images:
        files = [path for path in sorted(images.iterdir()) if path.suffix.lower() in SUFFIXES]
        return [(images.name, files[:count])]
    return [
        ("web size, 500 x 375", generate(scratch / "web", (500, 375), count)),
        ("12 megapixels, 4000 x 3000", generate(scratch / "large", (4000, 3000), max(count // 8, 16))),
    ]


def generate(folder: Path, size: tuple[int, int], count: int) -> Sequence[Path]:
    """JPEGs with the detail of photographs: scenes with noise, which keeps a decoder as busy as a photograph does."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(min(count, 32)):
        noise = rng.normal(0, 12, (size[1] // 2, size[0] // 2, 3)).repeat(2, 0).repeat(2, 1)
        plain = np.asarray(scene(number).resize(size), np.float32)[: noise.shape[0], : noise.shape[1]]
        picture = Image.fromarray(np.clip(plain + noise, 0, 255).astype(np.uint8))
        picture.save(folder / f"{number:05}.jpg", quality=88)
    originals = sorted(folder.iterdir())
    for number in range(len(originals), count):  # other bytes, so that no hash is known; the same pixels
        original = originals[number % len(originals)].read_bytes()
        (folder / f"{number:05}.jpg").write_bytes(original + number.to_bytes(4, "big"))
    return sorted(folder.iterdir())


def report(kind: str, files: Sequence[Path], encoder: Encoder, rounds: int, scratch: Path) -> None:
    """One table: each way's best of a few rounds, taken in turn so that the machine's moods hit all alike."""
    ways: dict[str, Callable[[], None]] = {
        "inference alone": lambda: inference(files, encoder),
        "decode alone": lambda: decode(files, encoder),
        "decode + inference, no store": lambda: both(files, encoder),
        "sightline index": lambda: index(files, encoder, scratch),
        "tutorial loop": lambda: tutorial(files[: max(len(files) // 4, 8)], encoder),
    }
    counts = {name: len(files) if name != "tutorial loop" else max(len(files) // 4, 8) for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            rates[name].append(counts[name] / (time.perf_counter() - began))
    median = {name: float(np.median(found)) for name, found in rates.items()}
    print(f"\n{kind}: {len(files)} pictures, model {encoder.name}, {CORES} cores, median of {rounds}")
    for name, rate in median.items():
        print(f"  {name:30} {rate:8.1f} pictures/s")
    limit = 1 / (1 / median["inference alone"] + 1 / median["decode alone"])
    ratios = {
        "of inference alone": median["sightline index"] / median["inference alone"],
        "of what decode and inference allow": median["sightline index"] / limit,
        "times the tutorial loop": median["sightline index"] / median["tutorial loop"],
    }
    for name, ratio in ratios.items():
        print(f"  {ratio:.2f} {name}")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"kind": kind, "model": encoder.name, **median, **ratios, "peak_rss_mb": round(peak_mb)}))


def workers(work: Callable[[Sequence[Path]], object], files: Sequence[Path], size: int) -> None:
    """As indexing does it: a few pictures at a time for each of as many threads as cores."""
    with ThreadPoolExecutor(CORES) as pool:
        for _ in pool.map(work, [files[start : start + size] for start in range(0, len(files), size)]):
            pass


def inference(files: Sequence[Path], encoder: Encoder) -> None:
    """The model on pixels that are there already: what these cores allow at most."""
    few = stack(files[: encoder.batch_size], encoder)
    workers(lambda part: encoder.encode_images(few[: len(part)]), files, encoder.batch_size)


def decode(files: Sequence[Path], encoder: Encoder) -> None:
    """Files to pixels, without the model."""
    workers(lambda part: stack(part, encoder), files, encoder.batch_size)


def both(files: Sequence[Path], encoder: Encoder) -> None:
    """Files to vectors, which are thrown away."""
    workers(lambda part: encoder.encode_images(stack(part, encoder)), files, encoder.batch_size)


def index(files: Sequence[Path], encoder: Encoder, scratch: Path) -> None:
    """The whole: walk, hash, decode, encode, commit."""
    url = scratch / "bench.index"
    shutil.rmtree(url, ignore_errors=True)
    folder = scratch / "linked"
    if not folder.exists() or len(list(folder.iterdir())) != len(files) or not (folder / files[0].name).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in files:
            os.link(file, folder / file.name) if file.stat().st_dev == folder.stat().st_dev else shutil.copy(
                file, folder
            )
    with Index(str(url), model=encoder) as target:
        summary = target.add(folder)
    if summary.encoded != len(files):
        raise SystemExit(f"{summary} for {len(files)} files")


def tutorial(files: Sequence[Path], encoder: Encoder) -> None:
    """One picture at a time: open, convert, resize, run, append."""
    vectors = []
    for file in files:
        image = Image.open(file).convert("RGB")
        vectors.append(encoder.encode_images(encoder.preprocess(image)[None])[0])


def stack(files: Sequence[Path], encoder: Encoder) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Files to (n, 3, h, w)."""
    pictures = [open_picture(file.read_bytes(), image_size=encoder.image_size).image for file in files]
    return np.stack([encoder.preprocess(picture) for picture in pictures])


if __name__ == "__main__":
    main()
