"""The commands classify and tag: label pictures without training."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.options import Commands, add_command, add_index, add_model, hub, model_name, open_index
from sightline.text import count, printable, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sightline.encoders.base import Encoder
    from sightline.types import Record

_EXAMPLES = """\
examples:
  sightline classify *.jpg --labels cat,dog,car
  sightline classify photos --labels species.txt --template "a photo of a {}, an animal" --top 3
  sightline classify --evaluate class-folders --html confusion.html
"""
_TAG_EXAMPLES = """\
examples:
  sightline tag --labels beach,mountain,city,party --threshold 0.6
  sightline search "sunset" --where tags=beach
"""
_MOST_ROWS = 40  # labels whose counts are all printed; of more only those that fit a picture
_SETS = "name, photo, ensemble, drawing"  # of classify.TEMPLATES, which --help should not have to import


def add_commands(commands: Commands) -> None:
    """Add classify and tag."""
    command = add_command(
        commands,
        "classify",
        classify,
        "choose the label that fits each picture best",
        is_resumable=False,
        epilog=_EXAMPLES,
    )
    command.add_argument("pictures", metavar="PICTURE", nargs="*", help="pictures, folders, tables")
    _add_labels(command)
    command.add_argument("--top", metavar="N", type=int, default=1, help="the N best labels of each (default: 1)")
    command.add_argument(
        "--evaluate", metavar="DIR", help="measure on a folder of class folders, whose names are the labels"
    )
    command.add_argument(
        "--html", metavar="FILE", help="with --evaluate: write a page that shows which classes are confused"
    )
    add_model(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    command = add_command(
        commands, "tag", tag, "write the labels that fit into the tags of every indexed picture", epilog=_TAG_EXAMPLES
    )
    _add_labels(command)
    command.add_argument(
        "--threshold", metavar="P", type=float, default=0.5, help="the lowest probability (default: 0.5)"
    )
    command.add_argument("--top", metavar="N", type=int, default=None, help="at most N for each picture")
    add_index(command)
    add_model(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_labels(command: argparse.ArgumentParser) -> None:
    command.add_argument("--labels", metavar="LABELS", help="cat,dog,car, or a text file with one per line")
    command.add_argument(
        "--template",
        metavar="TEXT",
        action="append",
        default=[],
        help='a text with {} for the label, "a photo of a {}"; several are averaged',
    )
    command.add_argument("--templates", metavar="SET", help=f"a set of templates by name: {_SETS} (default: photo)")


def classify(options: argparse.Namespace) -> int:
    """Classify pictures, or measure how well that works."""
    from sightline.encoders.base import choose_model, load_encoder
    from sightline.errors import UsageError

    if options.top < 1:
        raise UsageError(f"--top is {options.top}, expected at least 1")
    if bool(options.evaluate) == bool(options.pictures):
        raise UsageError(
            "nothing to classify: give pictures and --labels, or --evaluate with a folder of class folders"
        )
    if options.evaluate and options.labels:
        raise UsageError(
            "--labels cannot be used with --evaluate, whose labels are the names of the folders: leave it out"
        )
    if options.html and not options.evaluate:
        raise UsageError("--html is the page of --evaluate: give --evaluate with a folder of class folders")
    encoder = load_encoder(choose_model(model_name(options) or "auto", hub()).name, hub=hub())
    return _measured(options, encoder) if options.evaluate else _classified(options, encoder)


def tag(options: argparse.Namespace) -> int:
    """Tag an index."""
    from sightline.analysis.classify import label_vectors, probabilities, tag_pictures

    labels = _labels(options)
    with open_index(options) as index:
        vectors = label_vectors(labels, index.encoder, _templates(options))
        done = tag_pictures(
            index.store,
            labels,
            lambda pictures: probabilities(pictures, vectors, index.encoder),
            threshold=options.threshold,
            top=options.top,
        )
    if options.json:
        print(json.dumps({"seen": done.seen, "changed": done.changed, "counts": dict(done.counts)}, indent=2))
        return 0
    rows = [[printable(label), f"{number:,}"] for label, number in done.counts.items()]
    shown = rows if len(rows) <= _MOST_ROWS else [row for row in rows if row[1] != "0"]
    if shown:
        print(table(shown, right=frozenset({1})))
    if len(shown) < len(rows):
        print(f"{count(len(rows) - len(shown), 'label')} of {len(rows):,} do not fit any picture")
    most = max(done.counts, key=lambda label: done.counts[label])
    print(
        f"{count(done.seen, 'picture')}, tags of {done.changed:,} changed; find them with "
        f"--where {shlex.quote(f'tags={most}')}"
    )
    return 0


def _classified(options: argparse.Namespace, encoder: "Encoder") -> int:
    import numpy as np

    from sightline.analysis.classify import label_vectors, probabilities

    labels = _labels(options)
    vectors = label_vectors(labels, encoder, _templates(options))
    records, failed = _encoded(options.pictures, encoder)
    chances = probabilities(np.array([r.vector for r in records]).reshape(-1, encoder.dim), vectors, encoder)
    found = []
    for record, row in zip(records, chances, strict=True):
        order = np.argsort(-row, kind="stable")[: options.top]
        found.append((record, [(labels[position], float(row[position])) for position in order]))
    for line in failed:
        print(f"sightline: {line}", file=sys.stderr)
    if not found and not failed:
        print(f"sightline: no picture found in {', '.join(map(printable, options.pictures))}", file=sys.stderr)
    if options.json or found:
        print(json.dumps([_plain(*one) for one in found], indent=2) if options.json else "\n".join(_rows(found)))
    return 0 if records else 1


def _encoded(sources: "Sequence[str]", encoder: "Encoder") -> "tuple[list[Record], list[str]]":
    """The pictures of some sources as records in order of URI, and what could not be read."""
    from sightline.ingest import Options, ingest
    from sightline.sources.base import open_source
    from sightline.stores.memory import MemoryStore
    from sightline.types import FAILURE

    store = MemoryStore(encoder.dim)
    for source in sources:
        ingest(open_source(source), encoder, store, options=Options(), seen=set())
    failed = [f"{uri}: {note['reason']}" for uri, note in store.notes(FAILURE).items()]
    return sorted(store.scan(), key=lambda record: record.uri), failed


def _rows(found: "list[tuple[Record, list[tuple[str, float]]]]") -> list[str]:
    from sightline.results import location

    return [
        "\t".join([printable(location(record)), *(f"{printable(label)} {chance:.3f}" for label, chance in best)])
        for record, best in found
    ]


def _plain(record: "Record", best: list[tuple[str, float]]) -> dict[str, Any]:
    labels = [{"label": label, "probability": round(chance, 6)} for label, chance in best]
    return {"uri": record.uri, "labels": labels}


def _measured(options: argparse.Namespace, encoder: "Encoder") -> int:
    from sightline.cli.output import write_page
    from sightline.evaluate.report import confusion_html
    from sightline.evaluate.run import confusion

    folder = Path(options.evaluate)
    found = confusion(encoder, folder, hub().cache / "evaluate", _templates(options))
    if options.html:
        write_page(
            Path(options.html), confusion_html(found, f"What {found.model} takes for what: {folder.resolve().name}")
        )
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
        return 0
    print(f"{count(int(found.counts.sum()), 'picture')}, {len(found.classes)} classes, model {found.model}")
    if found.unreadable:
        print(f"{count(found.unreadable, 'more picture')} could not be read")
    if found.left_out:
        print(f"left out: {count(found.left_out, 'file')} not named like a picture")
    for name, share in (("top1", found.top1), ("top5", found.top5)):
        print(f"{name}  {100 * share.mean:.1f} %  (95 % interval {100 * share.low:.1f} to {100 * share.high:.1f})")
    rows = [["is", "taken for", "times"], *([true, taken, str(times)] for true, taken, times in found.mistakes[:10])]
    print("\n" + table(rows, right=frozenset({2})) if len(rows) > 1 else "no mistakes")
    return 0


def _labels(options: argparse.Namespace) -> list[str]:
    from sightline.errors import UsageError

    if not options.labels:
        raise UsageError("--labels is missing: give cat,dog,car or a text file with one label per line")
    path = Path(options.labels).expanduser()
    is_file = "," not in options.labels and (path.is_file() or path.suffix.lower() == ".txt")
    text = _lines(path) if is_file else options.labels.split(",")
    labels = list(dict.fromkeys(label.strip() for label in text if label.strip()))
    if len(labels) < 2:
        where = f"{path} holds" if is_file else f"--labels {options.labels!r} has"
        raise UsageError(f"{where} {count(len(labels), 'label')}, expected two or more: add another, such as 'other'")
    return labels


def _lines(path: Path) -> list[str]:
    from sightline.errors import UsageError

    try:
        return path.read_text("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(
            f"cannot read {path} ({error.strerror}), expected a text file with one label per line: check the path"
        ) from error


def _templates(options: argparse.Namespace) -> "Sequence[str]":
    from sightline.analysis.classify import TEMPLATES
    from sightline.errors import UsageError

    if options.templates and options.templates not in TEMPLATES:
        raise UsageError(f"{options.templates!r} is not a set of templates, expected one of {', '.join(TEMPLATES)}")
    if options.templates or not options.template:
        return [*options.template, *TEMPLATES[options.templates or "photo"]]
    return list(options.template)
