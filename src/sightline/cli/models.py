"""The commands models and recommend: list, fetch, time and choose models."""

import argparse
import json
import sys
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from sightline.cli.options import Commands, add_command, hub
from sightline.text import count, duration, size, table

if TYPE_CHECKING:
    from sightline.encoders.catalog import CatalogEntry
    from sightline.encoders.hub import Hub
    from sightline.evaluate.recommend import FolderSample, ModelEstimate

_MODELS = """\
examples:
  sightline models                       the table
  sightline models get siglip2-b32       fetch one now
  sightline models get timm:resnet50     one of another library, into that library's cache
  sightline models bench mini            how fast it is on this machine
  sightline models rm siglip2-b32        take it off this disk
"""


def add_commands(commands: Commands) -> None:
    """Add models and recommend."""
    command = add_command(
        commands, "models", models, "list the models that can be used by name; get, rm, bench one", epilog=_MODELS
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    parts = command.add_subparsers(title="commands", metavar="COMMAND")
    every = add_command(parts, "list", models, "the table, as without a command")
    every.add_argument("--json", action="store_true", help="print JSON")
    get = add_command(parts, "get", get_model, "fetch a model, so that it can be used offline")
    get.add_argument("name", metavar="NAME", help="a model's name")
    get.add_argument("--yes", action="store_true", help="accept a licence that forbids commercial use")
    remove = add_command(parts, "rm", remove_model, "take a fetched model off this disk")
    remove.add_argument("name", metavar="NAME", help="a model's name")
    bench = add_command(parts, "bench", bench_model, "time a model on this machine, for the table and for recommend")
    bench.add_argument("name", metavar="NAME", help="a model's name or folder")
    bench.add_argument("--json", action="store_true", help="print JSON")
    command = add_command(
        commands,
        "recommend",
        recommend,
        "estimate the time, memory and disk that each model takes for a folder",
        is_resumable=False,
    )
    command.add_argument("folder", metavar="FOLDER", help="the pictures; a few of them are read and timed")
    command.add_argument(
        "--model", metavar="NAME", action="append", default=[], help="only this model; may be given several times"
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def models(options: argparse.Namespace) -> int:
    """List the catalog."""
    from sightline.encoders.catalog import catalog
    from sightline.encoders.hub import is_here
    from sightline.encoders.speed import speeds

    entries, place = list(catalog().values()), hub()
    here = {entry.name: is_here(entry, place) for entry in entries}
    measured = speeds(place)
    if options.json:
        rows = [asdict(entry) | {"here": here[entry.name], "speed": None} for entry in entries]
        for row in rows:
            row["speed"] = asdict(measured[row["name"]]) if row["name"] in measured else None
        print(json.dumps(rows, indent=2, default=str))
        return 0
    header = ["model", "here", "dim", "size", "recall", "pictures/s", "languages", "licence", "what"]
    body = [_row(entry, is_here=here[entry.name], speed=measured.get(entry.name)) for entry in entries]
    print(table([header, *body], right=frozenset({2, 3, 4, 5})))
    print("\nrecall: the right picture first among 5,000 of COCO, in percent, as published")
    print("pictures/s: on this machine, after sightline models bench NAME")
    return 0


def get_model(options: argparse.Namespace) -> int:
    """Fetch a model."""
    from sightline.encoders.base import licence_note, load_encoder
    from sightline.encoders.catalog import catalog
    from sightline.encoders.hub import is_here
    from sightline.errors import UsageError

    entry, place = catalog().get(options.name), _with_bar(hub())
    if entry and is_here(entry, place):
        print(f"{entry.name} is already on this disk")
        return 0
    if entry and not entry.allows_commercial_use and not options.yes:
        raise UsageError(f"{licence_note(entry)}: give --yes to accept that, or choose another model")
    encoder = load_encoder(options.name, hub=place)
    print(f"{encoder.name} is ready: sightline index FOLDER --model {encoder.name}")
    return 0


def remove_model(options: argparse.Namespace) -> int:
    """Take a model off this disk; 1 if it was not there."""
    from sightline.encoders.catalog import catalog
    from sightline.errors import UsageError

    entry = catalog().get(options.name)
    if entry is None or entry.kind != "hub":
        advice = "other libraries keep theirs in their own cache (hf cache), folders are yours"
        if entry is not None:
            advice = "it is a part of the package, and goes with it"
        elif near := get_close_matches(options.name, catalog(), n=3, cutoff=0.6):
            advice = f"did you mean {' or '.join(near)}?"
        raise UsageError(f"{options.name!r} is not a model that can be removed: {advice}")
    freed = hub().remove(entry.repository)
    print(f"{entry.name}: {size(freed)} freed" if freed else f"{entry.name} was not on this disk")
    return 0 if freed else 1


def bench_model(options: argparse.Namespace) -> int:
    """Time a model and remember it."""
    from sightline.encoders.base import load_encoder
    from sightline.encoders.speed import keep, measure

    place = _with_bar(hub())
    encoder = load_encoder(options.name, hub=place)
    speed = measure(encoder)
    keep(encoder.name, speed, place)
    if options.json:
        print(json.dumps({"model": encoder.name, **asdict(speed)}))
        return 0
    words = "no text encoder" if speed.text_ms is None else f"{speed.text_ms:.1f} ms for one text"
    print(f"{encoder.name}: {speed.pictures_per_s:,.1f} pictures/s, {words}")
    return 0


def recommend(options: argparse.Namespace) -> int:
    """Time a few files of a folder and list what each model would cost."""
    from sightline.encoders.catalog import catalog
    from sightline.errors import ModelNotFound
    from sightline.evaluate.recommend import estimates, sample_folder

    for name in options.model:
        if name not in catalog():
            near = get_close_matches(name, catalog(), n=3, cutoff=0.4)
            advice = f"did you mean {' or '.join(near)}?" if near else "sightline models lists them"
            raise ModelNotFound(f"{name!r} is not a model of the table: {advice}")
    sample = sample_folder(options.folder)
    found = estimates(sample, hub(), names=options.model)
    if options.json:
        print(json.dumps({"sample": asdict(sample), "models": [asdict(one) for one in found]}, indent=2))
        return 0
    _show(sample, found)
    return 0


def _show(sample: "FolderSample", found: "list[ModelEstimate]") -> None:
    decode = 1 / min(sample.decode_s.values())
    print(
        f"{count(sample.pictures, 'picture')} of about {size(sample.size_bytes)}, decoded at {decode:,.0f} a second "
        f"and core" + (f"; {sample.unreadable} of {sample.tried} tried cannot be read" if sample.unreadable else "")
    )
    header = ["model", "time", "binds on", "RAM", "index", "download", "recall", "languages"]
    rows = [[_time(one), one.binds, *map(_megabytes, (one.ram_mb, one.disk_mb, one.download_mb))] for one in found]
    ends = [[f"{one.recall:.1f}" if one.recall else "", one.model.languages] for one in found]
    body = [[one.model.name, *row, *end] for one, row, end in zip(found, rows, ends, strict=True)]
    print(table([header, *body], right=frozenset({1, 3, 4, 5, 6})))
    print("\n~ estimated from the model's arithmetic, the others were timed here; recall as published, on COCO")


def _time(one: "ModelEstimate") -> str:
    """An estimate with two digits: more would look like a measurement."""
    seconds = one.hours * 3600
    if one.is_measured:
        return duration(seconds)
    unit, name = next(((unit, name) for unit, name in ((3600, "h"), (60, "min")) if seconds >= unit), (1, "s"))
    return f"~{float(f'{seconds / unit:.2g}'):g} {name}"


def _megabytes(value: float) -> str:
    return size(value * 1e6) if value else ""


def _row(entry: "CatalogEntry", *, is_here: bool, speed: Any) -> list[str]:
    return [
        entry.name,
        "yes" if is_here else "",
        str(entry.dim),
        size(entry.size_mb * 1e6) if entry.size_mb else "none",
        f"{entry.coco_recall_at_1:.1f}" if entry.coco_recall_at_1 else "",
        f"{speed.pictures_per_s:,.0f}" if speed else "",
        entry.languages,
        entry.licence + ("" if entry.allows_commercial_use else " (no commercial use)"),
        entry.summary,
    ]


def _with_bar(place: "Hub") -> "Hub":
    """Shows how much of a model has come, on a terminal."""
    from dataclasses import replace

    if not sys.stderr.isatty():
        return place
    from tqdm import tqdm

    bar = tqdm(unit="B", unit_scale=True, dynamic_ncols=True)

    def show(done: int, whole: int) -> None:
        bar.total = whole
        bar.update(done - bar.n)
        if done >= whole:
            bar.close()

    return replace(place, progress=show)
