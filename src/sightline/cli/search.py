"""The commands search and similar: find pictures, and print them or write a page."""

import argparse
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.options import Commands, add_command, add_index, add_model, open_at, open_index, store_url
from sightline.cli.output import shown_path, write_page
from sightline.text import count, printable, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sightline.query import Term
    from sightline.results import Hits
    from sightline.stores.base import Store

_EXAMPLES = """\
examples:
  sightline search "a red car" -k 20
  sightline search ./photo.jpg --where "width>=2000"
  sightline search "2:golden retriever" + ./pool.jpg - fruit
  sightline search --image ./photo.jpg --index meaning.index --index look.index --weight 0.7 --weight 0.3
  sightline search beach --under ~/Pictures/2024 --html beach.html
"""


def add_commands(commands: Commands) -> None:
    """Add search and similar."""
    command = add_command(
        commands,
        "search",
        search,
        "find pictures by words, by a picture, or by both",
        is_resumable=False,
        epilog=_EXAMPLES,
    )
    command.add_argument(
        "query",
        metavar="QUERY",
        nargs="*",
        help="words or a picture; + and - add and subtract, 2: in front is a weight",
    )
    command.add_argument("--image", metavar="FILE", action="append", default=[], help="add a picture to the query")
    command.add_argument("--add", "-a", metavar="QUERY", action="append", default=[], help="the same as + QUERY")
    command.add_argument("--subtract", "-s", metavar="QUERY", action="append", default=[], help="the same as - QUERY")
    command.add_argument(
        "--index",
        metavar="URL",
        type=store_url,
        action="append",
        default=[],
        help="the index: a folder, or the URL of a server (default: photos.index); several of the same pictures, each "
        "by another model, are searched together",
    )
    command.add_argument(
        "--weight",
        metavar="W",
        type=float,
        action="append",
        default=[],
        help="how much each --index counts (default: 1)",
    )
    _add_result_options(command)
    command = add_command(commands, "similar", similar, "find pictures like one that is indexed")
    command.add_argument("picture", metavar="PICTURE", help="an indexed picture: its path, URI or id")
    add_index(command)
    _add_result_options(command)


def _add_result_options(command: argparse.ArgumentParser) -> None:
    add_model(command)
    command.add_argument("-k", metavar="N", type=int, default=10, help="how many pictures (default: 10)")
    command.add_argument("--offset", metavar="N", type=int, default=0, help="skip the first N")
    command.add_argument(
        "--min-score", metavar="X", type=float, default=None, help="only pictures that score X or more"
    )
    command.add_argument(
        "--where",
        metavar="FILTER",
        action="append",
        default=[],
        help="color=red, width>=800, taken>=2024-05, or JSON; several must all hold",
    )
    command.add_argument(
        "--under", metavar="FOLDER", action="append", default=[], help="only pictures below this folder"
    )
    command.add_argument(
        "--match", metavar="WORDS", default=None, help="only pictures with these words in name, title or caption"
    )
    command.add_argument("--fold", action="store_true", help="of near-duplicates (sightline duplicates) only the first")
    shape = command.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON")
    shape.add_argument("--paths", action="store_true", help="print bare paths, one a line")
    shape.add_argument(
        "-0", dest="nul", action="store_true", help="print bare paths, each ended by a NUL, for xargs -0"
    )
    command.add_argument("--html", metavar="FILE", default=None, help="write a page with the pictures in it, too")


def search(options: argparse.Namespace) -> int:
    """Search by words and pictures, in one index or in several together."""
    from sightline.query import Term, parse

    words = list(options.query)
    for sign, queries in (("+", options.add), ("-", options.subtract)):
        for query in queries:
            words += [sign, query]
    terms = parse(words) if words or not options.image else []
    terms += [Term("image", picture) for picture in options.image]
    if len(options.index) > 1 or options.weight:
        return _search_together(terms, options)
    options.index = options.index[0] if options.index else None
    with open_index(options) as index:
        return _print_hits(index.search(terms=terms, **_wanted(index.store, options)), options)


def similar(options: argparse.Namespace) -> int:
    """Search by an indexed picture."""
    with open_index(options) as index:
        return _print_hits(index.similar(options.picture, **_wanted(index.store, options)), options)


def _search_together(terms: "Sequence[Term]", options: argparse.Namespace) -> int:
    """One ranking from several indexes, each opened with the model that built it."""
    from contextlib import ExitStack

    from sightline import fusion
    from sightline.errors import UsageError

    urls, weights = options.index, options.weight or [1.0] * len(options.index)
    if len(weights) != len(urls):
        raise UsageError(
            f"{count(len(weights), 'weight')} for {len(urls)} indexes: give one --weight for each --index, or none"
        )
    if options.model:
        raise UsageError(f"--model is for one index, not for {len(urls)}: each is opened with the model that built it")
    with ExitStack() as stack:
        indexes = [stack.enter_context(open_at(url)) for url in urls]
        parts = [fusion.Part(index, weight) for index, weight in zip(indexes, weights, strict=True)]
        return _print_hits(fusion.search(parts, terms, **_wanted(indexes[0].store, options)), options)


def _wanted(store: "Store", options: argparse.Namespace) -> dict[str, Any]:
    """Which part of the results is wanted, as arguments of a search."""
    conditions: list[Any] = list(options.where)
    if options.under:
        conditions.append({"folders": {"$in": [_folder(folder, store) for folder in options.under]}})
    if options.match is not None:
        conditions.append({"$match": options.match})
    where = {"$and": conditions} if conditions else None
    names = ("k", "offset", "min_score", "fold")
    return {"where": where, **{name: getattr(options, name) for name in names}}


def _folder(folder: str, store: "Store") -> str:
    """The URI of a folder; `UsageError` for one that is neither on this machine nor in the index."""
    from sightline.errors import UsageError
    from sightline.sources.files import file_uri

    uri = folder.rstrip("/") if "://" in folder else file_uri(folder)
    if not Path(folder).expanduser().is_dir() and not store.count({"folders": uri}):
        raise UsageError(f"--under {folder} is not a folder, and no indexed picture lies below it: check the path")
    return uri


def _print_hits(hits: "Hits", options: argparse.Namespace) -> int:
    """Print them in the shape that was asked for, write the page; 1 where there are none."""
    from sightline.results import location, page

    is_table = sys.stdout.isatty() and not (options.json or options.paths or options.nul)
    if options.html:
        write_page(Path(options.html), page([hits], title=f"Sightline: {hits.query}"))
    if options.json:
        print(json.dumps(hits.to_dict(), indent=2, ensure_ascii=True))
    elif options.paths or options.nul:
        sys.stdout.flush()
        end = b"\0" if options.nul else b"\n"
        for hit in hits:  # as the bytes that the file system knows, whatever their encoding
            sys.stdout.buffer.write(os.fsencode(location(hit)) + end)
        sys.stdout.buffer.flush()
    elif not hits:
        is_filtered = options.where or options.under or options.match or options.min_score
        print("nothing found" + (": no picture passes the filter" if is_filtered else ""))
    elif is_table:
        print(_table(hits))
    else:
        print("\n".join(f"{hit.score:.3f}\t{shown_path(hit)}" for hit in hits))
    if hits.likely == () and hits and not (is_table or options.json):
        print("sightline: no confident match: these are the closest results", file=sys.stderr)
    return 0 if hits else 1


def _table(hits: "Hits") -> str:
    first, rest = hits.sides
    rows = []
    for hit in (*first, *rest):
        width, height, taken = (hit.payload.get(name) for name in ("width", "height", "taken"))
        pixels = f"{width} x {height}" if width and height else ""
        day = f"{taken:%Y-%m-%d}" if isinstance(taken, datetime) else ""
        rows.append([f"{hit.score:.3f}", pixels, day, shown_path(hit)])
    lines = table(rows, right=frozenset({0, 1})).splitlines()
    if rest:
        lines.insert(len(first), f"{hits.verdict}:")
    header = f"{hits.query}   ({hits.model}, {hits.took_ms.total:.0f} ms)"
    return "\n".join([printable(header), *lines])
