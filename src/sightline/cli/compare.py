"""The command compare: search several indexes for the same and show the results side by side."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.options import Commands, add_command, hub, open_at, store_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sightline.evaluate.run import ModelResult
    from sightline.index import Index
    from sightline.query import Picture
    from sightline.stores.url import StoreUrl

_LISTS = (".txt", ".tsv", ".csv")  # the ends of the names of files with a query a line
_EXAMPLES = """\
examples:
  sightline compare "black dog" "two dogs" --index clip.index --index cnn.index --html compare.html
  sightline compare queries.txt --index a.index --index b.index --judgements captions.tsv --images photos
"""


def add_commands(commands: Commands) -> None:
    """Add compare."""
    command = add_command(
        commands,
        "compare",
        compare,
        "search several indexes for the same, side by side",
        is_resumable=False,
        epilog=_EXAMPLES,
    )
    command.add_argument(
        "queries", metavar="QUERY", nargs="+", help="words, a picture, or a text file with one query per line"
    )
    command.add_argument(
        "--index", metavar="URL", type=store_url, action="append", default=[], help="an index; give two or more"
    )
    command.add_argument("-k", metavar="N", type=int, default=8, help="how many pictures each (default: 8)")
    command.add_argument("--html", metavar="FILE", help="write a page: for each query a row of pictures of each index")
    command.add_argument("--judgements", metavar="TABLE", help="also measure the indexes' models on this table")
    command.add_argument("--images", metavar="DIR", help="the folder of the pictures that the table names")
    command.add_argument("--split", metavar="NAME", help="only rows of the table whose column split says so")
    command.add_argument("--json", action="store_true", help="print JSON")


def compare(options: argparse.Namespace) -> int:
    """Search, show, and measure where there are judgements."""
    from contextlib import ExitStack

    from sightline.errors import UsageError
    from sightline.fusion import search_each
    from sightline.results import comparison, comparison_page

    if len(options.index) < 2:
        raise UsageError(f"{len(options.index)} of at least two indexes to compare given: repeat --index")
    queries = [query for text in options.queries for query in _queries(text)]
    with ExitStack() as stack:
        urls = zip(_names(options.index), options.index, strict=True)
        indexes = {name: stack.enter_context(open_at(url)) for name, url in urls}
        found = search_each(indexes, queries, k=options.k)
        measured, figures = _measured(options, indexes) if options.judgements else ([], "")
    if options.html:
        from sightline.cli.output import write_page

        title = " and ".join(indexes) + " on the same queries"
        write_page(Path(options.html), comparison_page(found, title=title, facts=figures))
    if options.json:
        plain = {name: [hits.to_dict() for hits in all_hits] for name, all_hits in found.items()}
        models = {"models": [model.to_dict() for model in measured]} if measured else {}
        print(json.dumps({"hits": plain, **models}, indent=2))
        return 0
    done = f"wrote {options.html}: {len(indexes)} indexes, queries: {len(queries):,}"
    print("\n\n".join(filter(None, [figures, done if options.html else str(comparison(found))])))
    return 0


def _queries(text: str) -> "list[Picture]":
    """A text file is read, a line a query; what names a picture is one; all else is words."""
    from sightline.errors import UsageError
    from sightline.query import parse

    path = Path(text).expanduser()
    if path.suffix.lower() in _LISTS and (path.is_file() or " " not in text):
        if not path.is_file():
            raise UsageError(f"{text} does not exist, expected a text file with one query per line: check the path")
        lines = path.read_text("utf-8", errors="replace").splitlines()
        return [query for line in lines if line.strip() for query in _queries(line.strip())]
    (term, *_) = parse([text])
    return [Path(str(term.value)).expanduser() if term.kind == "image" else text]


def _names(urls: "list[StoreUrl]") -> list[str]:
    """What to call each index: the end of its URL, or all of it where two ends are the same."""
    from sightline.errors import UsageError

    if twice := next((url for url in urls if urls.count(url) > 1), None):
        raise UsageError(f"{twice} is given twice, expected different indexes: name each once")
    names = [url.name for url in urls]
    return names if len(set(names)) == len(names) else [str(url) for url in urls]


def _measured(options: argparse.Namespace, indexes: "Mapping[str, Index]") -> "tuple[list[ModelResult], str]":
    """How well the indexes' models do on the judgements, and that as text."""
    from dataclasses import replace

    from sightline.evaluate import judgements, report, run

    images = Path(options.images) if options.images else None
    judged = judgements.load(Path(options.judgements), images=images, split=options.split)
    measured = [run.evaluate(index.encoder, judged, hub().cache / "evaluate") for index in indexes.values()]
    named = [replace(model, name=name) for name, model in zip(indexes, measured, strict=True)]
    return named, report.terminal(named, judged)
