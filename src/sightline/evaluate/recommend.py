"""Estimate what each model would take for a folder of pictures, and how good it is, from a few of its files."""

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sightline.encoders.base import load_encoder
from sightline.encoders.catalog import CatalogEntry, catalog
from sightline.encoders.hub import Hub, is_here
from sightline.encoders.sessions import all_threads
from sightline.encoders.speed import Speed, keep, machine_gflops, measure, speeds
from sightline.errors import SightlineError, SourceError
from sightline.images.read import read
from sightline.sources.base import open_source
from sightline.types import Item

_SAMPLE = 12  # files that are read: their mean is known to a few percent where they are alike
_SIZES = (224, 384)  # how far a decoder may reduce a picture depends on the model's size: timed for both
_EFFICIENCY = 0.78  # of what a product of matrices reaches: ViT-B/32 in float32 does 165 of 211 GFLOP/s
_RECORD_BYTES = 1_000  # payload and its entries in SQLite: 840 for 2,430 small pictures, more with EXIF
_RUNTIME_MB = 480  # Python, ONNX Runtime and the pictures in flight: mini takes 455 to 523 MB on two cores
_SEED = 0


@dataclass(frozen=True, slots=True)
class FolderSample:
    """What a folder holds: how many pictures, their mean size, and the seconds to read and decode one on one core.

    `decode_s` is by the side in pixels that a model wants. `unreadable` of the `tried` files could not be read.
    """

    pictures: int
    size_bytes: float
    decode_s: dict[int, float]
    tried: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """What one model would cost for the whole folder. `is_measured` says that its speed was timed on this machine.

    `binds` is decode or encode, whichever takes longer. `recall` is the published one of the catalog. `disk_mb` is the
    index, `download_mb` what is not on this disk yet.
    """

    model: CatalogEntry
    hours: float
    binds: str
    is_measured: bool
    ram_mb: float
    disk_mb: float
    download_mb: float
    recall: float | None


def sample_folder(folder: str | Path) -> FolderSample:
    """Count the pictures of a folder and time a few of them; raises `SourceError` where there is none."""
    rng, few, pictures = random.Random(_SEED), list[Item](), 0
    for pictures, item in enumerate(open_source(folder), 1):  # each is as likely as any other: reservoir sampling
        if len(few) < _SAMPLE:
            few.append(item)
        elif (place := rng.randrange(pictures)) < _SAMPLE:
            few[place] = item
    if not few:
        raise SourceError(f"no picture found in {folder}: check the path")
    contents = list[bytes]()
    for item in few:
        with suppress(OSError, SourceError):
            contents.append(item.read())
    times = {side: [taken for data in contents if (taken := _decode_s(data, side)) is not None] for side in _SIZES}
    if not all(times.values()):
        raise SourceError(f"none of {len(few)} files of {folder} can be read, expected pictures: open one of them")
    decode_s = {side: sum(taken) / len(taken) for side, taken in times.items()}
    mean_bytes = sum(map(len, contents)) / len(contents)
    return FolderSample(pictures, mean_bytes, decode_s, len(few), len(few) - len(times[_SIZES[0]]))


def estimates(sample: FolderSample, hub: Hub, *, names: Sequence[str] = ()) -> list[ModelEstimate]:
    """One for each model of the catalog, or for those named, the quickest first.

    A model that is on this disk is timed unless it was before; the time of others is estimated from their arithmetic.
    """
    known = dict(speeds(hub))
    rate: float | None = None
    found = list[ModelEstimate]()
    for entry in (catalog()[name] for name in names or catalog()):
        if entry.name not in known and is_here(entry, hub):
            known[entry.name] = measure(load_encoder(entry.name, hub=hub))
            keep(entry.name, known[entry.name], hub)
        if entry.name not in known:
            rate = rate or machine_gflops()
        found.append(_estimate(entry, sample, known.get(entry.name), rate, hub))
    return sorted(found, key=lambda one: one.hours)


def _estimate(
    entry: CatalogEntry, sample: FolderSample, speed: Speed | None, rate: float | None, hub: Hub
) -> ModelEstimate:
    cores = all_threads()
    decode_s = sample.decode_s[min(_SIZES, key=lambda side: abs(side - entry.image_size))] / cores
    encode_s = 1 / speed.pictures_per_s if speed else (entry.image_gflops or 0) / (_EFFICIENCY * (rate or 1))
    return ModelEstimate(
        model=entry,
        hours=sample.pictures * (decode_s + encode_s) / 3600,
        binds="decode" if decode_s > encode_s else "encode",
        is_measured=speed is not None,
        ram_mb=_RUNTIME_MB + entry.size_mb,
        disk_mb=sample.pictures * (5 * entry.dim + _RECORD_BYTES) / 1e6,  # float32 and int8
        download_mb=0 if is_here(entry, hub) else entry.size_mb,
        recall=entry.coco_recall_at_1,
    )


def _decode_s(data: bytes, side: int) -> float | None:
    began = time.perf_counter()
    try:
        read(data, image_size=side).resize((side, side))
    except SightlineError:
        return None
    return time.perf_counter() - began
