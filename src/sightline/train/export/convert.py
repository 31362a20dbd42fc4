"""The name of a torch model -> a model folder that searches can use, and a report of how true it is."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.encoders.hub import Hub
from sightline.errors import TrainingError
from sightline.train.config import Precision
from sightline.train.export.folder import filled, move_into
from sightline.train.export.model import Original
from sightline.train.export.original import open_original
from sightline.train.export.parity import (
    Both,
    Sample,
    compared,
    generated,
    recall_on,
    sample_of,
    vectors_of_folder,
    vectors_of_original,
)

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
