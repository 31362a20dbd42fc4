"""The commands classify and tag: label pictures without training."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.options import MANY, Commands, add_command, hub, model_name, open_index, positive, show, write_page
from sightline.errors import UsageError
from sightline.text import count, printable, table

if TYPE_CHECKING:
    from sightline.encoders.base import Encoder

_MOST_ROWS = 40  # labels whose counts are all printed; of more only those that fit a picture
_SETS = "name, photo, ensemble, drawing"  # of classify.TEMPLATES, which --help should not have to import


def add_commands(commands: Commands) -> None:
    """Add classify and tag."""
    command = add_command(commands, classify, "model json", is_resumable=False)
    command.add_argument("pictures", metavar="PICTURE", nargs="*", help="pictures, folders, tables")
    command.add_argument("--top", metavar="N", type=positive, default=1, help="the N best labels of each (default: 1)")
    command.add_argument(
        "--evaluate", metavar="DIR", help="measure on a folder of class folders, whose names are the labels"
    )
    command.add_argument(
        "--html", metavar="FILE", help="with --evaluate: write a page that shows which classes are confused"
    )
    tagging = add_command(commands, tag, "index model json")
    tagging.add_argument(
        "--threshold", metavar="P", type=float, default=0.5, help="the lowest probability (default: 0.5)"
    )
    tagging.add_argument("--top", metavar="N", type=positive, help="at most N for each picture")
    for each in (command, tagging):
        each.add_argument("--labels", metavar="LABELS", help="cat,dog,car, or a text file with one per line")
        each.add_argument(
            "--template",
            metavar="TEXT",
            **MANY,
            help='a text with {} for the label, "a photo of a {}"; several are averaged',
        )
        each.add_argument("--templates", metavar="SET", help=f"a set of templates by name: {_SETS} (default: photo)")


def classify(options: argparse.Namespace) -> int:
    """Choose the label that fits each picture best.

    Examples:
      sightline classify *.jpg --labels cat,dog,car
      sightline classify photos --labels species.txt --template "a photo of a {}, an animal" --top 3
      sightline classify --evaluate class-folders --html confusion.html
    """
    from sightline.encoders.base import choose_model, load_encoder

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
    """Write the labels that fit into the tags of every indexed picture.

    Examples:
      sightline tag --labels beach,mountain,city,party --threshold 0.6
      sightline search "sunset" --where tags=beach
    """
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
    rows = [[printable(label), f"{number:,}"] for label, number in done.counts.items()]
    shown = rows if len(rows) <= _MOST_ROWS else [row for row in rows if row[1] != "0"]
    lines = [table(shown, right=frozenset({1}))] if shown else []
    if len(shown) < len(rows):
        lines.append(f"{count(len(rows) - len(shown), 'label')} of {len(rows):,} do not fit any picture")
    most = shlex.quote(f"tags={max(done.counts, key=lambda label: done.counts[label])}")
    lines.append(f"{count(done.seen, 'picture')}, tags of {done.changed:,} changed; find them with --where {most}")
    plain = {"seen": done.seen, "changed": done.changed, "counts": dict(done.counts)}
    return show(options, plain, "\n".join(lines))


def _classified(options: argparse.Namespace, encoder: "Encoder") -> int:
    import numpy as np

    from sightline.analysis.classify import classify
    from sightline.ingest import Options, ingest
    from sightline.results import location
    from sightline.sources.base import open_source
    from sightline.stores.memory import MemoryStore
    from sightline.types import FAILURE

    labels, store = _labels(options), MemoryStore(encoder.dim)
    for source in options.pictures:
        ingest(open_source(source), encoder, store, options=Options(), seen=set())
    records = sorted(store.scan(), key=lambda record: record.uri)
    vectors = np.array([record.vector for record in records], np.float32).reshape(-1, encoder.dim)
    plain, lines = [], []
    probabilities = classify(vectors, labels, encoder, templates=_templates(options))
    for record, row in zip(records, probabilities, strict=True):
        best = [(labels[position], float(row[position])) for position in np.argsort(-row, kind="stable")[: options.top]]
        named = [{"label": label, "probability": round(probability, 6)} for label, probability in best]
        plain.append({"uri": record.uri, "labels": named})
        shown = [f"{printable(label)} {probability:.3f}" for label, probability in best]
        lines.append("\t".join([printable(location(record)), *shown]))
    failed = store.notes(FAILURE)
    for uri, note in failed.items():
        print(f"sightline: {uri}: {note['reason']}", file=sys.stderr)
    if not records and not failed:
        print(f"sightline: no picture found in {', '.join(map(printable, options.pictures))}", file=sys.stderr)
    if options.json or records:
        show(options, plain, "\n".join(lines))
    return 0 if records else 1


def _measured(options: argparse.Namespace, encoder: "Encoder") -> int:
    from sightline.evaluate.report import confusion_html
    from sightline.evaluate.run import confusion

    folder = Path(options.evaluate)
    found = confusion(encoder, folder, hub().cache / "evaluate", _templates(options))
    if options.html:
        title = f"What {found.model} takes for what: {folder.resolve().name}"
        write_page(options.html, confusion_html(found, title))
    lines = [f"{count(int(found.counts.sum()), 'picture')}, {len(found.classes)} classes, model {found.model}"]
    if found.unreadable:
        lines.append(f"{count(found.unreadable, 'more picture')} could not be read")
    if found.left_out:
        lines.append(f"left out: {count(found.left_out, 'file')} not named like a picture")
    for name, share in (("top1", found.top1), ("top5", found.top5)):
        interval = f"{100 * share.low:.1f} to {100 * share.high:.1f}"
        lines.append(f"{name}  {100 * share.mean:.1f} %  (95 % interval {interval})")
    rows = [["is", "taken for", "times"], *([true, taken, str(times)] for true, taken, times in found.mistakes[:10])]
    lines.append("\n" + table(rows, right=frozenset({2})) if len(rows) > 1 else "no mistakes")
    return show(options, found.to_dict(), "\n".join(lines))


def _labels(options: argparse.Namespace) -> list[str]:
    if not options.labels:
        raise UsageError("--labels is missing: give cat,dog,car or a text file with one label per line")
    path, text = Path(options.labels).expanduser(), options.labels.split(",")
    is_file = "," not in options.labels and (path.is_file() or path.suffix.lower() == ".txt")
    if is_file:
        try:
            text = path.read_text("utf-8-sig", errors="replace").splitlines()
        except OSError as error:
            raise UsageError(
                f"cannot read {path} ({error.strerror}), expected a text file with one label per line: check the path"
            ) from error
    labels = list(dict.fromkeys(label.strip() for label in text if label.strip()))
    if len(labels) < 2:
        where = f"{path} holds" if is_file else f"--labels {options.labels!r} has"
        raise UsageError(f"{where} {count(len(labels), 'label')}, expected two or more: add another, such as 'other'")
    return labels


def _templates(options: argparse.Namespace) -> Sequence[str]:
    from sightline.analysis.classify import TEMPLATES

    if options.templates and options.templates not in TEMPLATES:
        raise UsageError(f"{options.templates!r} is not a set of templates, expected one of {', '.join(TEMPLATES)}")
    if options.templates or not options.template:
        return [*options.template, *TEMPLATES[options.templates or "photo"]]
    return list(options.template)
