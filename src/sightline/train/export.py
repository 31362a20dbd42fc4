"""`sightline export`: a torch model as a model folder that searches can use, and a report of how true it is."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sightline.encoders import preprocess
from sightline.encoders.base import FAMILIES
from sightline.encoders.catalog import BUNDLED, bundled_folder
from sightline.encoders.hub import Hub
from sightline.encoders.onnx import OnnxEncoder
from sightline.encoders.torch import open_clip
from sightline.encoders.torch.towers import Towers
from sightline.errors import SourceError, TrainingError
from sightline.images.read import read
from sightline.sources.files import is_picture
from sightline.train import checkpoint, clip, mini
from sightline.train.config import DataSettings, Precision, Settings
from sightline.train.data import Captioned, PictureSet, read_set
from sightline.train.measure import recall_of
from sightline.train.model import Start, TwoTowers, export, padded
from sightline.train.model_folder import filled, move_into, write_folder
from sightline.train.pictures import PictureFiles, without_unreadable
from sightline.types import Vectors

REPORT = "parity.json"
SHORT: dict[str, Precision] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
LEAST_COSINE = 0.999  # median of the float32 export; a tracer that took a size for a constant gives far less
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
class Report:
    """What an export is worth. `precisions` has an entry for fp32 and one for what was asked for."""

    source: str
    pictures: int
    texts: int
    is_generated: bool
    """Whether it was measured on generated pictures, for want of real ones."""
    recall: dict[str, float] | None
    """Of the torch model; None without captions."""
    precisions: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Sample:
    """Real files and texts to compare on. `owners` says whose text each is, where they are captions of the pictures."""

    pictures: Sequence[Path]
    texts: Sequence[str]
    owners: NDArray[np.int64] | None
    is_generated: bool


Both = tuple[Vectors, Vectors | None]
"""Vectors (n, dim) of the pictures and of the texts of a sample; no texts of a model of pictures alone."""


@dataclass(frozen=True, slots=True)
class Original:
    """A torch model: the vector, of any norm, of one upright picture or of one text, and how it is written.

    `write(folder, precision, calibration)` may take the model apart: it is called after the vectors were taken.
    """

    encode_image: Callable[[Image.Image], Tensor]
    encode_text: Callable[[str], Tensor] | None
    """None for a model of pictures alone."""
    write: Callable[[Path, Precision, Sequence[Path]], None]


def convert(
    name: str,
    output: Path,
    precision: str = "fp32",
    *,
    pictures: Path | None = None,
    images: Path | None = None,
    hub: Hub | None = None,
    say: Callable[[str], None] = lambda note: None,
) -> Report:
    """Writes the model `name` into `output` as fp32, fp16 or int8, with parity.json beside the weights.

    `pictures` is a folder of pictures or a captions table, whose pictures are in `images` (else beside it). Raises
    `TrainingError` when the model cannot be had or its float32 export gives other vectors than itself, before anything
    is in `output`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        sample = _sample(pictures, images) if pictures else _generated(Path(scratch))
        say(f"loading {name}")
        original = open_original(name, hub)
        say(f"vectors of the torch model: {len(sample.pictures):,} pictures, {len(sample.texts):,} texts")
        reference = _vectors_of_original(original, sample)
        texts = 0 if reference[1] is None else len(sample.texts)
        report = Report(name, len(sample.pictures), texts, sample.is_generated, _recall(reference, sample), {})
        with filled(output) as work:
            for short in dict.fromkeys(("fp32", precision)):  # each in a folder of its own; the last one's files stay
                with tempfile.TemporaryDirectory(dir=work) as folder:
                    say(f"{short}: writing and measuring")
                    one = Path(folder)
                    original.write(one, SHORT[short], () if sample.is_generated else sample.pictures)
                    exported = _vectors_of_folder(one, sample)
                    size_bytes = sum(path.stat().st_size for path in one.rglob("*"))
                    cosines = dict(zip(("image", "text"), map(_cosines, reference, exported), strict=True))
                    measured = {f"{what}_cosine": found for what, found in cosines.items()}
                    recall = {"recall": _recall(exported, sample)}
                    report.precisions[short] = {"size_bytes": size_bytes, **measured, **recall}
                    for what, found in cosines.items() if short == "fp32" else ():
                        if found and not found["median"] >= LEAST_COSINE:
                            raise TrainingError(
                                f"the {what} vectors of the float32 export of {name} have a cosine of "
                                f"{found['median']:.4f} to the model's own: expected {LEAST_COSINE} or more; this "
                                "architecture cannot be exported faithfully"
                            )
                    if short == precision:
                        move_into(work, one)
            (work / REPORT).write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return report


def open_original(name: str, hub: Hub | None = None) -> Original:
    """From a name of a family such as `timm:resnet50`, a folder that open_clip or transformers saved, or a run.

    Raises `TrainingError` or an `EncoderError` when it is none of these or cannot be loaded.
    """
    if name.partition(":")[0] in FAMILIES:
        return _of_towers(clip.load_towers(name, hub or Hub.from_environment()))
    path = bundled_folder(BUNDLED) if name == BUNDLED else Path(name).expanduser()
    files = [path] if path.is_file() else [path / checkpoint.NAME, path / checkpoint.WEIGHTS]
    if run := next((file for file in files if file.is_file()), None):
        description, state = checkpoint.read_weights(run)
        start: Start[TwoTowers]
        if description["kind"] == mini.KIND:
            start = mini.described(description, Settings())
        else:
            start = clip.described(description, Settings())
        start.model.load_state_dict(state)
        return _of_start(start)
    if (path / open_clip.CONFIG).is_file():
        return open_original(f"open_clip:{path.resolve()}", hub)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if "model_type" in config:
        return open_original(f"hf:{path.resolve()}", hub)
    if "shape" in config.get("sightline", {}):
        return _of_start(mini.restored(path, Settings()))
    raise TrainingError(
        f"{name} holds no torch model: expected open_clip:ARCHITECTURE/WEIGHTS, hf:NAME, timm:NAME, a folder that "
        "open_clip or transformers saved, or the folder of a training run; check the path"
    )


def _of_start(start: Start[TwoTowers]) -> Original:
    """A model of our own training."""
    model, documents = start.model.eval(), start.documents
    config, tokens = documents.preprocessing, documents.tokens

    def write(folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        export(model, documents, folder, precision, calibration=calibration)

    return Original(
        encode_image=lambda image: model.image(torch.from_numpy(preprocess.pixels(image, config).copy())[None]),
        encode_text=lambda text: model.text(padded(tokens.ids([text]), tokens.pad_id)),
        write=write,
    )


def _of_towers(towers: Towers) -> Original:
    """A model of another library: with the library's own preprocessing, where it has one, and its tokenizer."""
    config, text = towers.preprocessing, towers.text

    def encode_image(image: Image.Image) -> Tensor:
        if towers.transform is not None:
            pixels = towers.transform(image)[None]
        else:
            stack = preprocess.pixels(image, config)[None]
            pixels = torch.from_numpy(preprocess.normalised(stack, config, np.float32))
        vectors: Tensor = towers.image(pixels)
        return vectors

    def write(folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        pixels = PictureFiles(calibration, config).batch(0, len(calibration)).numpy() if calibration else None
        write_folder(clip.sides_of(towers), folder, precision, calibration=pixels)

    return Original(encode_image, (lambda words: text.module(*text.tokens([words]))) if text else None, write)


def _generated(folder: Path) -> Sample:
    """For want of better: pictures of soft colours, written into `folder`, and a dozen phrases."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(GENERATED_PICTURES)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((448, 320), Image.Resampling.BICUBIC).save(path, quality=90)
    return Sample(paths, PHRASES, None, is_generated=True)


def _sample(pictures: Path, images: Path | None) -> Sample:
    """From a folder of pictures, or from a captions table with its pictures in `images` (else beside it).

    At most 500 pictures, evenly spread, with two captions each. Raises `SourceError`.
    """
    if pictures.is_dir():
        paths = sorted(path for path in pictures.rglob("*") if is_picture(path.name))
        if not paths:
            raise SourceError(f"{pictures} holds no picture: expected some to compare on; check --pictures")
        found = PictureSet(str(pictures), tuple(Captioned(path, ()) for path in paths), {})
    else:
        root = (images or pictures.parent).resolve()
        found = read_set(DataSettings(table=str(pictures.resolve()), images=str(root)), Path())
    step = -(-len(found.pictures) // MOST_PICTURES)
    kept = without_unreadable(PictureSet(found.name, found.pictures[::step], {})).pictures
    files = [one.path for one in kept]
    if pictures.is_dir():
        return Sample(files, PHRASES, None, is_generated=False)
    texts = [picture.texts[:TEXTS_OF_EACH] for picture in kept]
    owners = np.repeat(np.arange(len(kept)), [len(some) for some in texts])
    return Sample(files, [text for some in texts for text in some], owners, is_generated=False)


@torch.no_grad()
def _vectors_of_original(original: Original, sample: Sample) -> Both:
    """As the library itself makes them, one at a time, from pictures that are decoded whole."""

    def unit(vectors: Sequence[Tensor]) -> Vectors:
        rows = np.stack([vector.float().cpu().numpy().reshape(-1) for vector in vectors])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    pictures = unit([original.encode_image(read(path.read_bytes(), image_size=WHOLE)) for path in sample.pictures])
    encode_text = original.encode_text
    return pictures, unit([encode_text(text) for text in sample.texts]) if encode_text else None


def _vectors_of_folder(folder: Path, sample: Sample) -> Both:
    """As searches make them."""
    encoder = OnnxEncoder(folder)
    rows = []
    for start in range(0, len(sample.pictures), BATCH):
        few = sample.pictures[start : start + BATCH]
        images = [read(path.read_bytes(), image_size=encoder.image_size) for path in few]
        rows.append(encoder.encode_images(np.stack([encoder.preprocess(image) for image in images])))
    texts = encoder.encode_texts(sample.texts) if encoder.knows_words else None
    encoder.unload()
    return np.concatenate(rows), texts


def _recall(vectors: Both, sample: Sample) -> dict[str, float] | None:
    """Recall at 1, 5, 10 in both directions; None without captions."""
    pictures, texts = vectors
    if sample.owners is None or texts is None:
        return None
    return recall_of(torch.from_numpy(texts @ pictures.T), torch.from_numpy(sample.owners))


def _cosines(one: Vectors | None, other: Vectors | None) -> Mapping[str, float] | None:
    if one is None or other is None:
        return None
    low, percentile_1, median = np.quantile(np.einsum("nd,nd->n", one, other), (0, 0.01, 0.5))
    return {"min": float(low), "percentile_1": float(percentile_1), "median": float(median)}
