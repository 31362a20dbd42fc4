"""How alike the vectors of a torch model and of the folder exported from it are, and what that does to recall."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sightline.encoders.onnx import OnnxEncoder
from sightline.errors import SourceError
from sightline.images.read import read
from sightline.sources.files import is_picture
from sightline.train.config import DataSettings, Precision
from sightline.train.data import Captioned, PictureSet, read_set
from sightline.train.measure import recall_of
from sightline.train.pictures import without_unreadable
from sightline.types import Vector, Vectors

MOST_PICTURES = 500
TEXTS_OF_EACH = 2
GENERATED_PICTURES = 24
WHOLE = 1 << 20  # a side that no picture has: decoded without reducing
BATCH = 8
PHRASES = (
    "a photo of a cat",
    "a dog runs on the beach",
    "red shoes",
    "two people on bicycles in front of a church",
    "An old man, with a hat.",
    "snow",
    "a plate of pasta & tomatoes, 3 for $5!",
    "sunset over the mountains",
    "a child who blows out the candles of a birthday cake while the whole family claps",
    "blue car at night",
    "un café crème",
    "3 white cups",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Real files and texts to compare on. `owners` says whose text each is, where they are captions of the pictures."""

    pictures: Sequence[Path]
    texts: Sequence[str]
    owners: NDArray[np.int64] | None
    is_generated: bool


@dataclass(frozen=True, slots=True)
class Original:
    """A torch model: the vector of one upright picture or of one text, and `write(folder, precision, calibration)`.

    `write` may take the model apart: it is to be called after the vectors were taken.
    """

    encode_image: Callable[[Image.Image], Vector]
    encode_text: Callable[[str], Vector] | None
    """None for a model of pictures alone."""
    write: Callable[[Path, Precision, Sequence[Path]], None]


@dataclass(frozen=True, slots=True)
class Both:
    """Vectors (n, dim) of the pictures and of the texts of a sample; no texts of a model of pictures alone."""

    pictures: Vectors
    texts: Vectors | None


def generated(folder: Path) -> Sample:
    """For want of better: pictures of soft colours, written into `folder`, and a dozen phrases."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(GENERATED_PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        path = folder / f"{number}.jpg"
        coarse.resize((448, 320), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return Sample(paths, PHRASES, None, is_generated=True)


def sample_of(pictures: Path, images: Path | None) -> Sample:
    """From a folder of pictures, or from a captions table with its pictures in `images` (else beside it).

    At most 500 pictures, evenly spread, with two captions each. Raises `SourceError`.
    """
    if pictures.is_dir():
        paths = sorted(path for path in pictures.rglob("*") if is_picture(path.name))
        if not paths:
            raise SourceError(f"{pictures} holds no picture: expected some to compare on; check --pictures")
        found = without_unreadable(PictureSet(str(pictures), _spread([Captioned(path, ()) for path in paths]), {}))
        return Sample([one.path for one in found.pictures], PHRASES, None, is_generated=False)
    root = (images or pictures.parent).resolve()
    captioned = read_set(DataSettings(table=str(pictures.resolve()), images=str(root)), Path())
    kept = without_unreadable(PictureSet(captioned.name, _spread(captioned.pictures), {})).pictures
    texts = [picture.texts[:TEXTS_OF_EACH] for picture in kept]
    owners = np.repeat(np.arange(len(kept)), [len(some) for some in texts])
    return Sample([one.path for one in kept], [text for some in texts for text in some], owners, is_generated=False)


def vectors_of_original(original: Original, sample: Sample) -> Both:
    """As the library itself makes them, one at a time, from pictures that are decoded whole."""
    pictures = [original.encode_image(read(path.read_bytes(), image_size=WHOLE)) for path in sample.pictures]
    read_text = original.encode_text
    return Both(np.stack(pictures), np.stack([read_text(text) for text in sample.texts]) if read_text else None)


def vectors_of_folder(folder: Path, sample: Sample) -> Both:
    """As searches make them."""
    encoder = OnnxEncoder(folder)
    rows = []
    for start in range(0, len(sample.pictures), BATCH):
        images = [
            read(path.read_bytes(), image_size=encoder.image_size) for path in sample.pictures[start : start + BATCH]
        ]
        rows.append(encoder.encode_images(np.stack([encoder.preprocess(image) for image in images])))
    both = Both(np.concatenate(rows), encoder.encode_texts(sample.texts) if encoder.knows_words else None)
    encoder.unload()
    return both


def compared(reference: Both, exported: Both, sample: Sample) -> dict[str, Any]:
    """Cosines between the two, and recall of the exported one where the texts are captions."""
    return {
        "image_cosine": _distribution(reference.pictures, exported.pictures),
        "text_cosine": _distribution(reference.texts, exported.texts),
        "recall": recall_on(exported, sample),
    }


def recall_on(vectors: Both, sample: Sample) -> dict[str, float] | None:
    """Recall at 1, 5, 10 in both directions; None without captions."""
    if sample.owners is None or vectors.texts is None:
        return None
    return recall_of(torch.from_numpy(vectors.texts @ vectors.pictures.T), torch.from_numpy(sample.owners))


def unit(vectors: torch.Tensor) -> Vector:
    """A tensor of one row -> a unit vector."""
    row = np.asarray(vectors.detach().float().cpu().numpy().reshape(-1), np.float32)
    return np.asarray(row / np.linalg.norm(row), np.float32)


def _distribution(one: Vectors | None, other: Vectors | None) -> Mapping[str, float] | None:
    if one is None or other is None:
        return None
    cosines = np.einsum("nd,nd->n", one, other)
    low, percentile_1, median = np.quantile(cosines, (0, 0.01, 0.5))
    return {"min": float(low), "percentile_1": float(percentile_1), "median": float(median)}


def _spread(pictures: Sequence[Captioned]) -> tuple[Captioned, ...]:
    step = max(1, -(-len(pictures) // MOST_PICTURES))
    return tuple(pictures[::step])
