"""Teacher vectors for product pictures: python -m recipes.mini.products FOLDER --teacher clip.onnx --known vectors.npz.

CLIP takes a tenth of a second a picture, so it sees 600 products only. What the earlier `mini` (trained on such
products) makes of the others is mapped into CLIP's space by a ridge regression, fitted on pictures that both have seen.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from sightline.encoders import preprocess
from sightline.encoders.base import Encoder, load_encoder
from sightline.encoders.preprocess import Preprocessing
from sightline.images.read import read
from sightline.train.config import DataSettings
from sightline.train.data import Captioned, read_set

CLIP = Preprocessing(
    224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 3, "shortest", 0
)
PRODUCTS = DataSettings(
    table="fashion/products.tsv", images="fashion/images", caption_columns=("title",), hold_out_percent=10
)
LEARNED, SEEN, HELD_OUT, OTHERS = 6_000, 500, 100, 1_500  # pictures
PENALTY, WEIGHT = 3.0, 2.0  # of the regression; a product counts as four other pictures
Vectors = NDArray[np.float32]


def main() -> None:
    """Writes the known vectors and those of the products."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with fashion/, and what the names of --known are relative to")
    parser.add_argument("--teacher", type=Path, required=True, help="CLIP's picture side: pixel_values to image_embeds")
    parser.add_argument("--known", type=Path, required=True, help="an .npz of its names and vectors for other pictures")
    parser.add_argument("--earlier", required=True, help="the folder of the earlier mini")
    parser.add_argument("--out", type=Path, default=Path("vectors-all.npz"))
    options = parser.parse_args()
    with np.load(options.known) as file:
        names, known = [str(name) for name in file["names"]], unit(file["vectors"].astype(np.float32))
    learned = in_order(read_set(PRODUCTS, options.folder).pictures, options.folder)[:LEARNED]
    held_out = in_order(read_set(PRODUCTS, options.folder, is_held_out=True).pictures, options.folder)[:HELD_OUT]
    seen = clip(options.teacher, options.folder, [*learned[:SEEN], *held_out])

    earlier = load_encoder(options.earlier)
    products = encoded(earlier, options.folder, learned)
    places = np.random.default_rng(0).choice(len(names), OTHERS, replace=False)
    others = encoded(earlier, options.folder, [names[place] for place in places])
    inputs = np.vstack([with_one(products[:SEEN]) * WEIGHT, with_one(others)])
    outputs = np.vstack([seen[:SEEN] * WEIGHT, known[places]])
    square = inputs.T @ inputs + PENALTY * np.eye(inputs.shape[1])
    mapped = unit(with_one(products) @ np.linalg.solve(square, inputs.T @ outputs))
    mapped[:SEEN] = seen[:SEEN]
    vectors = np.vstack([known, mapped, seen[SEEN:]]).astype(np.float16)
    np.savez(options.out, names=np.array([*names, *learned, *held_out]), vectors=vectors)


def in_order(pictures: Sequence[Captioned], folder: Path) -> list[str]:
    """Their names, shuffled the same in every run."""
    names = [picture.path.relative_to(folder).as_posix() for picture in pictures]
    return sorted(names, key=lambda name: hashlib.md5(name.encode(), usedforsecurity=False).hexdigest())


def clip(model: Path, folder: Path, names: Sequence[str]) -> Vectors:
    """(n, 512): what CLIP sees."""
    session = InferenceSession(str(model))
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (CLIP.mean, CLIP.std))
    rows = []
    for name in names:
        pixels = preprocess.pixels(read((folder / name).read_bytes(), image_size=CLIP.height), CLIP)
        scaled = ((pixels.astype(np.float32) / 255 - mean) / std).astype(np.float32)
        rows.append(session.run(["image_embeds"], {"pixel_values": scaled[None]})[0][0])
    return unit(np.array(rows, np.float32))


def encoded(encoder: Encoder, folder: Path, names: Sequence[str]) -> Vectors:
    """(n, dim): what a model of this program sees."""
    pictures = (read((folder / name).read_bytes(), image_size=encoder.image_size) for name in names)
    return np.array([encoder.encode_images(encoder.preprocess(one)[None])[0] for one in pictures], np.float32)


def with_one(rows: Vectors) -> Vectors:
    """(n, d) -> (n, d + 1), for the constant of a regression."""
    return np.hstack([rows, np.ones((len(rows), 1), np.float32)])


def unit(rows: Vectors) -> Vectors:
    """Rows of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


if __name__ == "__main__":
    main()
