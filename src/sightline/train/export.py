"""`sightline export`: a torch model as a model folder that searches can use, and a report of how true it is."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sightline.encoders import preprocess
from sightline.encoders.base import FAMILIES
from sightline.encoders.catalog import BUNDLED, bundled_folder
from sightline.encoders.hub import Hub
from sightline.encoders.torch import open_clip
from sightline.encoders.torch.towers import Towers
from sightline.errors import TextNotSupported, TrainingError
from sightline.train import checkpoint, clip, mini
from sightline.train.config import Precision, Settings
from sightline.train.model import Start, export, padded
from sightline.train.model_folder import filled, move_into, write_folder
from sightline.train.parity import (
    Both,
    Original,
    Sample,
    compared,
    generated,
    recall_on,
    sample_of,
    unit,
    vectors_of_folder,
    vectors_of_original,
)
from sightline.train.pictures import PictureFiles
from sightline.types import Vector

REPORT = "parity.json"
SHORT: dict[str, Precision] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
LEAST_COSINE = 0.999  # median of the float32 export; a tracer that took a size for a constant gives far less


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
        sample = sample_of(pictures, images) if pictures else generated(Path(scratch))
        say(f"loading {name}")
        original = open_original(name, hub)
        say(f"vectors of the torch model: {len(sample.pictures):,} pictures, {len(sample.texts):,} texts")
        reference = vectors_of_original(original, sample)
        with filled(output) as work:
            report = _written(name, original, reference, sample, precision, work, say)
    return report


def _written(
    name: str,
    original: Original,
    reference: Both,
    sample: Sample,
    precision: str,
    work: Path,
    say: Callable[[str], None],
) -> Report:
    """Every precision is written and measured in a folder of its own; the files of the last one stay."""
    measured: dict[str, dict[str, Any]] = {}
    calibration = () if sample.is_generated else sample.pictures
    for short in dict.fromkeys(("fp32", precision)):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            say(f"{short}: writing and measuring")
            one = Path(folder)
            original.write(one, SHORT[short], calibration)
            entry = compared(reference, vectors_of_folder(one, sample), sample)
            measured[short] = {"size_bytes": sum(path.stat().st_size for path in one.rglob("*")), **entry}
            if short == "fp32":
                _check(name, entry)
            if short == precision:
                move_into(work, one)
    counts = len(sample.pictures), 0 if reference.texts is None else len(sample.texts)
    report = Report(name, *counts, sample.is_generated, recall_on(reference, sample), measured)
    (work / REPORT).write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return report


def _check(name: str, entry: dict[str, Any]) -> None:
    for what in ("image", "text"):
        cosines = entry[f"{what}_cosine"]
        median = cosines["median"] if cosines else 1.0  # no texts: a model of pictures alone
        if not median >= LEAST_COSINE:
            raise TrainingError(
                f"the {what} vectors of the float32 export of {name} have a cosine of {median:.4f} to the model's own: "
                f"expected {LEAST_COSINE} or more; this architecture cannot be exported faithfully"
            )


def open_original(name: str, hub: Hub | None = None) -> Original:
    """From a name of a family such as `timm:resnet50`, a folder that open_clip or transformers saved, or a run.

    Raises `TrainingError` or an `EncoderError` when it is none of these or cannot be loaded.
    """
    if name.partition(":")[0] in FAMILIES:
        return _of_towers(clip.load_towers(name, hub or Hub.from_environment()))
    path = bundled_folder(BUNDLED) if name == BUNDLED else Path(name).expanduser()
    if path.is_file() or (path / checkpoint.NAME).is_file():
        return _of_run(*_unfinished(path if path.is_file() else path / checkpoint.NAME))
    if (path / checkpoint.WEIGHTS).is_file():
        return _of_run(*checkpoint.read_weights(path / checkpoint.WEIGHTS))
    if (path / open_clip.CONFIG).is_file():
        return open_original(f"open_clip:{path.resolve()}", hub)
    config = _config(path)
    if "model_type" in config:
        return open_original(f"hf:{path.resolve()}", hub)
    if "shape" in config.get("sightline", {}):
        return _of_start(mini.restored(path, Settings()))
    raise TrainingError(
        f"{name} holds no torch model: expected open_clip:ARCHITECTURE/WEIGHTS, hf:NAME, timm:NAME, a folder that "
        "open_clip or transformers saved, or the folder of a training run; check the path"
    )


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        document: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document


def _unfinished(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Description and weights of an unfinished run: the moving average of its last checkpoint."""
    if path.name == checkpoint.WEIGHTS:
        return checkpoint.read_weights(path)
    document = checkpoint.read(path)
    state = document["state"]
    if "model" not in state:
        raise TrainingError(f"{path} says nothing of its model: expected a checkpoint of this version; train again")
    keeps_average = json.loads(document["settings"])["optimiser"]["average_decay"]
    return state["model"], state["trainer"]["average" if keeps_average else "model"]


def _of_run(description: Mapping[str, Any], state: Mapping[str, Any]) -> Original:
    kind = mini if description["kind"] == mini.KIND else clip
    start: Start = kind.described(description, Settings())
    start.model.load_state_dict(state)
    return _of_start(start)


def _of_start(start: Start) -> Original:
    """A model of our own training."""
    model, documents = start.model.eval(), start.documents
    config, tokens = documents.preprocessing, documents.tokens

    @torch.no_grad()
    def encode_image(image: Image.Image) -> Vector:
        return unit(model.image(torch.from_numpy(preprocess.pixels(image, config).copy())[None]))

    @torch.no_grad()
    def encode_text(text: str) -> Vector:
        return unit(model.text(padded(tokens.ids([text]), tokens.pad_id)))

    def write(folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        export(model, documents, folder, precision, calibration=calibration)

    return Original(encode_image, encode_text, write)


def _of_towers(towers: Towers) -> Original:
    """A model of another library: with the library's own preprocessing, where it has one, and its tokenizer."""
    config, text = towers.preprocessing, towers.text

    @torch.no_grad()
    def encode_image(image: Image.Image) -> Vector:
        if towers.transform is not None:
            return unit(towers.image(towers.transform(image)[None]))
        stack = preprocess.pixels(image, config)[None]
        return unit(towers.image(torch.from_numpy(preprocess.normalised(stack, config, np.float32))))

    @torch.no_grad()
    def encode_text(words: str) -> Vector:
        if text is None:
            raise TextNotSupported(f"{towers.name} has no text encoder")
        return unit(text.module(*text.tokens([words])))

    def write(folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        pixels = PictureFiles(calibration, config).batch(0, len(calibration)).numpy() if calibration else None
        write_folder(clip.sides_of(towers), folder, precision, calibration=pixels)

    return Original(encode_image, encode_text if text else None, write)
