"""The command evaluate: measure models on judged pictures, or the recall of a store."""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from sightline.cli.options import Commands, add_command, add_index, hub, model_name, open_index
from sightline.text import table

_EXAMPLES = """\
examples:
  sightline evaluate captions.tsv --images photos --model mini --model siglip2-b32 --report report.html
  sightline evaluate captions.tsv --images photos --split dev --json
  sightline evaluate class-folders/
  sightline evaluate --index photos.index --sample 200
"""


def add_commands(commands: Commands) -> None:
    """Add evaluate."""
    command = add_command(
        commands, "evaluate", evaluate, "measure models on judged pictures, or a store on its own", epilog=_EXAMPLES
    )
    command.add_argument(
        "judgements",
        metavar="TABLE",
        nargs="?",
        help="captions (image, caption), grades (query, image, grade), qrels, or a folder of class folders",
    )
    command.add_argument("--images", metavar="DIR", help="the folder of the pictures that the table names")
    command.add_argument("--split", metavar="NAME", help="only rows whose column split says so")
    command.add_argument("--topics", metavar="FILE", help="the words of each topic, for TREC qrels")
    command.add_argument("--model", metavar="NAME", action="append", default=[], help="a model; several are compared")
    command.add_argument("--report", metavar="FILE", help="write a page with the tables and the worst queries")
    command.add_argument("--no-cache", action="store_true", help="encode everything again, and keep nothing")
    add_index(command)
    command.add_argument("--sample", metavar="N", type=int, default=200, help="how many queries to send to an index")
    command.add_argument("--json", action="store_true", help="print JSON")


def evaluate(options: argparse.Namespace) -> int:
    """Measure models on judgements, or a store against the exact answer."""
    from sightline.errors import UsageError

    if options.judgements and options.index:
        raise UsageError("a table measures models and --index measures a store: give one of the two")
    return _models(options) if options.judgements else _store(options)


def _store(options: argparse.Namespace) -> int:
    from sightline.errors import UsageError
    from sightline.evaluate.run import store_recall

    if options.sample < 1:
        raise UsageError(f"--sample is {options.sample}, expected at least 1")
    if not options.index:
        raise UsageError("nothing to measure: give a table of judgements, or --index for the recall of a store")
    options.model = None
    with open_index(options) as index:
        found = store_recall(index, sample=options.sample)
    if options.json:
        print(json.dumps([asdict(part) for part in found], indent=2))
        return 0
    rows = [["queries", "sent", f"recall@{found[0].k}", "ms per query"]]
    rows += [[part.queries, f"{part.sample:,}", f"{part.recall:.4f}", f"{part.ms_per_query:.2f}"] for part in found]
    print(table(rows, right=frozenset({1, 2, 3})))
    return 0


def _models(options: argparse.Namespace) -> int:
    from sightline.cli.output import write_page
    from sightline.encoders.base import choose_model, load_encoder
    from sightline.evaluate import judgements, report, run

    path, images = Path(options.judgements), Path(options.images) if options.images else None
    if options.topics:
        judged = judgements.load_qrels(path, Path(options.topics), images=images or path.parent)
    else:
        judged = judgements.load(path, images=images, split=options.split)
    options.model = options.model or [model_name(argparse.Namespace(model=None)) or "mini"]
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) if options.no_cache else hub().cache / "evaluate"
        for name in options.model:
            encoder = load_encoder(choose_model(name, hub()).name, hub=hub())
            measured.append(run.evaluate(encoder, judged, cache))
    if options.report:
        write_page(Path(options.report), report.html(measured, judged))
    if options.json:
        counts = {"dataset": judged.name, "gallery": len(judged.images), "queries": len(judged.queries)}
        counts |= {"missing": judged.missing, "left_out": judged.left_out}
        print(json.dumps(counts | {"models": [model.to_dict() for model in measured]}, indent=2))
    else:
        print(report.terminal(measured, judged))
    return 0
