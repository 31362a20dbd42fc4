"""The commands models and recommend: list, fetch, time and choose models."""

import argparse
from dataclasses import asdict, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from sightline.cli.options import MANY, Commands, add_command, hub, progress_bar, show
from sightline.errors import ModelNotFound, UsageError
from sightline.text import count, duration, size, table

if TYPE_CHECKING:
    from sightline.encoders.hub import Hub
    from sightline.evaluate.recommend import ModelEstimate


def add_commands(commands: Commands) -> None:
    """Add models and recommend."""
    command = add_command(commands, models, "json")
    parts = command.add_subparsers(title="commands", metavar="COMMAND")
    add_command(parts, models, "json", name="list")
    get = add_command(parts, get_model, name="get")
    get.add_argument("name", metavar="NAME", help="a model's name")
    get.add_argument("--yes", action="store_true", help="accept a licence that forbids commercial use")
    remove = add_command(parts, remove_model, name="rm")
    remove.add_argument("name", metavar="NAME", help="a model's name")
    bench = add_command(parts, bench_model, "json", name="bench")
    bench.add_argument("name", metavar="NAME", help="a model's name or folder")
    command = add_command(commands, recommend, "json", is_resumable=False)
    command.add_argument("folder", metavar="FOLDER", help="the pictures; a few of them are read and timed")
    command.add_argument("--model", metavar="NAME", **MANY, help="only this model; may be given several times")


def models(options: argparse.Namespace) -> int:
    """List the models that can be used by name; get, rm, bench one.

    Examples:
      sightline models                       the table
      sightline models get siglip2-b32       fetch one now
      sightline models get timm:resnet50     one of another library, into that library's cache
      sightline models bench mini            how fast it is on this machine
      sightline models rm siglip2-b32        take it off this disk
    """
    from sightline.encoders.catalog import catalog
    from sightline.encoders.hub import is_here
    from sightline.encoders.speed import speeds

    place = hub()
    speed, rows, plain = speeds(place), [], []
    for name, entry in catalog().items():
        is_kept, measured = is_here(entry, place), speed.get(name)
        plain.append(asdict(entry) | {"here": is_kept, "speed": asdict(measured) if measured else None})
        row = [name, "yes" if is_kept else "", str(entry.dim)]
        row.append(size(entry.size_mb * 1e6) if entry.size_mb else "none")
        row.append(f"{entry.coco_recall_at_1:.1f}" if entry.coco_recall_at_1 else "")
        row.append(f"{measured.pictures_per_s:,.0f}" if measured else "")
        licence = entry.licence + ("" if entry.allows_commercial_use else " (no commercial use)")
        rows.append([*row, entry.languages, licence, entry.summary])
    header = ["model", "here", "dim", "size", "recall", "pictures/s", "languages", "licence", "what"]
    recall = "recall: the right picture first among 5,000 of COCO, in percent, as published"
    rate = "pictures/s: on this machine, after sightline models bench NAME"
    return show(options, plain, f"{table([header, *rows], right=frozenset({2, 3, 4, 5}))}\n\n{recall}\n{rate}")


def get_model(options: argparse.Namespace) -> int:
    """Fetch a model, so that it can be used offline."""
    from sightline.encoders.base import licence_note, load_encoder
    from sightline.encoders.catalog import catalog
    from sightline.encoders.hub import is_here

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
    """Take a fetched model off this disk; exit code 1 if it was not there."""
    from sightline.encoders.catalog import catalog

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
    """Time a model on this machine, for the table and for recommend."""
    from sightline.encoders.base import load_encoder
    from sightline.encoders.speed import keep, measure

    place = _with_bar(hub())
    encoder = load_encoder(options.name, hub=place)
    speed = measure(encoder)
    keep(encoder.name, speed, place)
    words = "no text encoder" if speed.text_ms is None else f"{speed.text_ms:.1f} ms for one text"
    text = f"{encoder.name}: {speed.pictures_per_s:,.1f} pictures/s, {words}"
    return show(options, {"model": encoder.name, **asdict(speed)}, text)


def recommend(options: argparse.Namespace) -> int:
    """Estimate the time, memory and disk that each model takes for a folder."""
    from sightline.encoders.catalog import catalog
    from sightline.evaluate.recommend import estimates, sample_folder

    for name in options.model:
        if name not in catalog():
            near = get_close_matches(name, catalog(), n=3, cutoff=0.4)
            advice = f"did you mean {' or '.join(near)}?" if near else "sightline models lists them"
            raise ModelNotFound(f"{name!r} is not a model of the table: {advice}")
    sample = sample_folder(options.folder)
    found = estimates(sample, hub(), names=options.model)
    unread = f"; {sample.unreadable} of {sample.tried} tried cannot be read" if sample.unreadable else ""
    rate = f"decoded at {1 / min(sample.decode_s.values()):,.0f} a second and core{unread}"
    rows = [["model", "time", "binds on", "RAM", "index", "download", "recall", "languages"]]
    for one in found:
        sizes = [size(value * 1e6) if value else "" for value in (one.ram_mb, one.disk_mb, one.download_mb)]
        recall = f"{one.recall:.1f}" if one.recall else ""
        rows.append([one.model.name, _time(one), one.binds, *sizes, recall, one.model.languages])
    lines = [
        f"{count(sample.pictures, 'picture')} of about {size(sample.size_bytes)}, {rate}",
        table(rows, right=frozenset({1, 3, 4, 5, 6})),
        "\n~ estimated from the model's arithmetic, the others were timed here; recall as published, on COCO",
    ]
    plain = {"sample": asdict(sample), "models": [asdict(one) for one in found]}
    return show(options, plain, "\n".join(lines))


def _time(one: "ModelEstimate") -> str:
    """An estimate with two digits: more would look like a measurement."""
    seconds = one.hours * 3600
    if one.is_measured:
        return duration(seconds)
    unit, name = next(((unit, name) for unit, name in ((3600, "h"), (60, "min")) if seconds >= unit), (1, "s"))
    return f"~{float(f'{seconds / unit:.2g}'):g} {name}"


def _with_bar(place: "Hub") -> "Hub":
    """Shows how much of a model has come, on a terminal."""
    bar = progress_bar("B", unit_scale=True, leave=True)

    def progress(done: int, whole: int) -> None:
        bar.total = whole
        bar.update(done - bar.n)
        if done >= whole:
            bar.close()

    return replace(place, progress=progress)
