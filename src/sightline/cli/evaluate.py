"""The commands evaluate and compare: measure models on judged pictures, a store on its own, indexes side by side."""

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli import options as cli
from sightline.cli.options import Commands, add_command, hub, open_index
from sightline.errors import UsageError
from sightline.text import table

if TYPE_CHECKING:
    from sightline.pictures import Picture

_LISTS = (".txt", ".tsv", ".csv")  # the ends of the names of files with a query a line


def add_commands(commands: Commands) -> None:
    """Add evaluate and compare."""
    measuring = add_command(commands, evaluate, "index json")
    measuring.add_argument(
        "judgements",
        metavar="TABLE",
        nargs="?",
        help="captions (image, caption), grades (query, image, grade), qrels, or a folder of class folders",
    )
    measuring.add_argument("--topics", metavar="FILE", help="the words of each topic, for TREC qrels")
    measuring.add_argument("--model", metavar="NAME", **cli.MANY, help="a model; several are compared")
    measuring.add_argument("--report", metavar="FILE", help="write a page with the tables and the worst queries")
    measuring.add_argument("--no-cache", action="store_true", help="encode everything again, and keep nothing")
    measuring.add_argument(
        "--sample", metavar="N", type=cli.positive, default=200, help="how many queries to send to an index"
    )
    comparing = add_command(commands, compare, "json", is_resumable=False)
    comparing.add_argument(
        "queries", metavar="QUERY", nargs="+", help="words, a picture, or a text file with one query per line"
    )
    comparing.add_argument("--index", metavar="URL", type=cli.store_url, **cli.MANY, help="an index; give two or more")
    comparing.add_argument("-k", metavar="N", type=int, default=8, help="how many pictures each (default: 8)")
    comparing.add_argument("--html", metavar="FILE", help="write a page: for each query a row of each index's pictures")
    comparing.add_argument("--judgements", metavar="TABLE", help="also measure the indexes' models on this table")
    for command in (measuring, comparing):
        command.add_argument("--images", metavar="DIR", help="the folder of the pictures that the table names")
        command.add_argument("--split", metavar="NAME", help="only rows of the table whose column split says so")


def evaluate(options: argparse.Namespace) -> int:
    """Measure models on judged pictures, or a store on its own.

    Examples:
      sightline evaluate captions.tsv --images photos --model mini --model siglip2-b32 --report report.html
      sightline evaluate captions.tsv --images photos --split dev --json
      sightline evaluate class-folders/
      sightline evaluate --index photos.index --sample 200
    """
    from sightline.encoders.base import choose_model, load_encoder
    from sightline.evaluate import judgements, report, run

    if options.judgements and options.index:
        raise UsageError("a table measures models and --index measures a store: give one of the two")
    if not options.judgements:
        return _store(options)
    path, images = Path(options.judgements), Path(options.images) if options.images else None
    if options.topics:
        judged = judgements.load_qrels(path, Path(options.topics), images=images or path.parent)
    else:
        judged = judgements.load(path, images=images, split=options.split)
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) if options.no_cache else hub().cache / "evaluate"
        for name in options.model or [cli.model_name(options) or "mini"]:
            encoder = load_encoder(choose_model(name, hub()).name, hub=hub())
            measured.append(run.evaluate(encoder, judged, cache))
    if options.report:
        cli.write_page(options.report, report.html(measured, judged))
    counts = {"dataset": judged.name, "gallery": len(judged.images), "queries": len(judged.queries)}
    counts |= {"missing": judged.missing, "left_out": judged.left_out}
    plain = counts | {"models": [model.to_dict() for model in measured]}
    return cli.show(options, plain, report.terminal(measured, judged))


def _store(options: argparse.Namespace) -> int:
    from sightline.evaluate.run import store_recall

    if not options.index:
        raise UsageError("nothing to measure: give a table of judgements, or --index for the recall of a store")
    options.model = None
    with open_index(options) as index:
        found = store_recall(index, sample=options.sample)
    rows = [["queries", "sent", f"recall@{found[0].k}", "ms per query"]]
    rows += [[part.queries, f"{part.sample:,}", f"{part.recall:.4f}", f"{part.ms_per_query:.2f}"] for part in found]
    return cli.show(options, [asdict(part) for part in found], table(rows, right=frozenset({1, 2, 3})))


def compare(options: argparse.Namespace) -> int:
    """Search several indexes for the same, side by side.

    Examples:
      sightline compare "black dog" "two dogs" --index clip.index --index cnn.index --html compare.html
      sightline compare queries.txt --index a.index --index b.index --judgements captions.tsv --images photos
    """
    from sightline.evaluate import judgements, report, run
    from sightline.fusion import search_each
    from sightline.results import comparison, comparison_page

    urls = options.index
    if len(urls) < 2:
        raise UsageError(f"{len(urls)} of at least two indexes to compare given: repeat --index")
    if twice := next((url for url in urls if urls.count(url) > 1), None):
        raise UsageError(f"{twice} is given twice, expected different indexes: name each once")
    ends = [url.name for url in urls]
    names = ends if len(set(ends)) == len(ends) else [str(url) for url in urls]
    queries = [query for text in options.queries for query in _queries(text)]
    measured, figures = [], ""
    with ExitStack() as stack:
        indexes = {name: stack.enter_context(cli.open_at(url)) for name, url in zip(names, urls, strict=True)}
        found = search_each(indexes, queries, k=options.k)
        if options.judgements:
            images = Path(options.images) if options.images else None
            judged = judgements.load(Path(options.judgements), images=images, split=options.split)
            cache = hub().cache / "evaluate"
            measured = [
                replace(run.evaluate(index.encoder, judged, cache), name=name) for name, index in indexes.items()
            ]
            figures = report.terminal(measured, judged)
    if options.html:
        title = " and ".join(indexes) + " on the same queries"
        cli.write_page(options.html, comparison_page(found, title=title, facts=figures))
    plain = {"hits": {name: [hits.to_dict() for hits in every] for name, every in found.items()}}
    models = {"models": [model.to_dict() for model in measured]} if measured else {}
    done = f"wrote {options.html}: {len(indexes)} indexes, queries: {len(queries):,}"
    text = "\n\n".join(filter(None, [figures, done if options.html else str(comparison(found))]))
    return cli.show(options, {**plain, **models}, text)


def _queries(text: str) -> "list[Picture]":
    """A text file is read, a line a query; what names a picture is one; all else is words."""
    from sightline.query import parse

    path = Path(text).expanduser()
    if path.suffix.lower() in _LISTS and (path.is_file() or " " not in text):
        if not path.is_file():
            raise UsageError(f"{text} does not exist, expected a text file with one query per line: check the path")
        lines = path.read_text("utf-8", errors="replace").splitlines()
        return [query for line in lines if line.strip() for query in _queries(line.strip())]
    (term, *_) = parse([text])
    return [Path(str(term.value)).expanduser() if term.kind == "image" else text]
