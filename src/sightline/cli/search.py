"""The commands search and similar: find pictures, and print them or write a page."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from heapq import nsmallest
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.options import (
    MANY,
    Commands,
    add_command,
    index_url,
    open_at,
    open_index,
    show,
    shown_path,
    store_url,
    write_page,
)
from sightline.errors import UsageError
from sightline.text import count, printable, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sightline.index import Index
    from sightline.results import Evidence, Hits
    from sightline.types import Hit, Record, Where

_FETCHED = 500  # records at a time, where several indexes are asked
_CONTEXT = 30  # characters before the first word that is marked, and twice as many behind it


def add_commands(commands: Commands) -> None:
    """Add search and similar."""
    searching = add_command(commands, search, "model", is_resumable=False)
    searching.add_argument(
        "query",
        metavar="QUERY",
        nargs="*",
        help="words or a picture; + and - add and subtract, 2: in front is a weight",
    )
    searching.add_argument("--image", metavar="FILE", **MANY, help="add a picture to the query")
    searching.add_argument(
        "--region", metavar="X,Y,W,H", help="the part of the query's pictures that is meant, as shares: 0.5,0,0.5,1"
    )
    searching.add_argument("--add", "-a", metavar="QUERY", **MANY, help="the same as + QUERY")
    searching.add_argument("--subtract", "-s", metavar="QUERY", **MANY, help="the same as - QUERY")
    searching.add_argument(
        "--index",
        metavar="URL",
        type=store_url,
        **MANY,
        help="the index: a folder, or the URL of a server (default: photos.index); several of the same pictures, each "
        "by another model, are searched together",
    )
    searching.add_argument(
        "--by",
        choices=("both", "meaning", "text"),
        default="both",
        help="go by what pictures show, by what is written of them (title, caption, tags, names ...), or by both",
    )
    searching.add_argument(
        "--sort",
        choices=("relevance", "newest", "oldest", "name", "size"),
        help="only the likely hits, in this order; a filter without a query lists newest first",
    )
    searching.add_argument("--explain", action="store_true", help="say how the query is understood, and do not search")
    searching.add_argument(
        "--weight", metavar="W", type=float, **MANY, help="how much each --index counts (default: 1)"
    )
    finding = add_command(commands, similar, "index model")
    finding.add_argument("picture", metavar="PICTURE", help="an indexed picture: its path, URI or id")
    for command in (searching, finding):
        command.add_argument("-k", metavar="N", type=int, default=10, help="how many pictures (default: 10)")
        command.add_argument("--offset", metavar="N", type=int, default=0, help="skip the first N")
        command.add_argument("--min-score", metavar="X", type=float, help="only pictures that score X or more")
        command.add_argument(
            "--where", metavar="FILTER", **MANY, help="color=red, width>=800, taken>=2024-05, or JSON; all must hold"
        )
        command.add_argument("--under", metavar="FOLDER", **MANY, help="only pictures below this folder")
        command.add_argument(
            "--match", metavar="WORDS", help="only pictures with these words in name, title or caption"
        )
        command.add_argument(
            "--fold", action="store_true", help="of near-duplicates (sightline duplicates) only the first"
        )
        shape = command.add_mutually_exclusive_group()
        shape.add_argument("--json", action="store_true", help="print JSON")
        shape.add_argument("--paths", action="store_true", help="print bare paths, one a line")
        shape.add_argument(
            "-0", dest="nul", action="store_true", help="print bare paths, each ended by a NUL, for xargs -0"
        )
        command.add_argument("--html", metavar="FILE", help="write a page with the pictures in it, too")


def search(options: argparse.Namespace) -> int:
    """Find pictures by words, by a picture, or by both.

    Examples:
      sightline search "a red car" -k 20
      sightline search ./photo.jpg --where "width>=2000"
      sightline search "2:golden retriever" + ./pool.jpg - fruit
      sightline search --image ./photo.jpg --index meaning.index --index look.index --weight 0.7 --weight 0.3
      sightline search beach --under ~/Pictures/2024 --html beach.html
      sightline search --where "taken>=2024-06" -k 50      all that pass a filter, without words
    """
    from sightline.query import SearchQuery, Term, parse

    words = list(options.query)
    for sign, queries in (("+", options.add), ("-", options.subtract)):
        words += [part for query in queries for part in (sign, query)]
    is_filtered = bool(options.where or options.under or options.match)
    terms = parse(words) if words or not (options.image or is_filtered) else []
    terms += [Term("image", picture) for picture in options.image]
    if options.region:
        if not any(term.kind == "image" for term in terms):
            raise UsageError("--region is a part of a picture, but the query has none: name one, or add --image")
        region = _region(options.region)
        terms = [replace(term, region=region) if term.kind == "image" else term for term in terms]
    urls, weights = options.index, options.weight or [1.0] * len(options.index)
    if len(urls) < 2 and not options.weight:
        options.index = urls[0] if urls else None
        with open_at(index_url(options), options.model) as index:
            wanted = _wanted(index, options)
            read: Sequence[Term] = terms
            if any(term.kind == "id" or (term.kind == "text" and ":" in str(term.value)) for term in terms):
                read, wanted["where"] = index.understand(terms, wanted["where"])
            if options.explain:
                from sightline.explain import explain

                return show(options, *explain(index, read, wanted["where"]))
            if not read:
                return _list([index], options, wanted["where"])
            query = SearchQuery(tuple(read), by=options.by, sort=options.sort or "relevance", **wanted)
            return _print_hits(index.search_many([query])[0], options)
    from sightline import fusion

    if len(weights) != len(urls):
        raise UsageError(
            f"{count(len(weights), 'weight')} for {len(urls)} indexes: give one --weight for each --index, or none"
        )
    if options.model:
        raise UsageError(f"--model is for one index, not for {len(urls)}: each is opened with the model that built it")
    with ExitStack() as stack:
        indexes = [stack.enter_context(open_at(url)) for url in urls]
        parts = [fusion.Part(index, weight) for index, weight in zip(indexes, weights, strict=True)]
        wanted = _wanted(indexes[0], options)
        read, wanted["where"] = indexes[0].understand(terms, wanted["where"])
        if not read:
            return _list(indexes, options, wanted["where"])
        return _print_hits(fusion.search(parts, SearchQuery(read, **wanted)), options)


def _region(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = map(float, text.split(","))
    except ValueError as error:
        raise UsageError(f"--region is {text!r}, expected four numbers from 0 to 1, such as 0.5,0,0.5,1") from error
    return x, y, width, height


def similar(options: argparse.Namespace) -> int:
    """Find pictures like one that is indexed."""
    with open_index(options) as index:
        return _print_hits(index.similar(options.picture, **_wanted(index, options)), options)


def _list(indexes: "Sequence[Index]", options: argparse.Namespace, where: "Where | None") -> int:
    """Print the pictures of all indexes that pass the filter, newest first, without scores; 1 where there are none."""
    from sightline.results import groups_page, location, plain, sort_key

    if options.min_score is not None or options.fold:
        raise UsageError("--min-score and --fold need a query, expected words or a picture: add some or leave them out")
    if options.k < 1 or options.offset < 0:
        raise UsageError(f"k is {options.k} and offset is {options.offset}: k must be at least 1, offset at least 0")
    order = options.sort if options.sort not in (None, "relevance") else "newest"
    last = options.offset + options.k
    records = nsmallest(last, _common(indexes, where), key=lambda record: sort_key(record, order))[options.offset :]
    total = indexes[0].store.count(where) if len(indexes) == 1 else sum(1 for _ in _common(indexes, where))
    if options.html:
        write_page(options.html, groups_page([(count(total, "picture"), "", records)], title="Sightline"))
    if options.json:
        hits = [{"id": record.id, "uri": record.uri, "payload": plain(record.payload)} for record in records]
        print(json.dumps({"total": total, "hits": hits}, indent=2))
    elif options.paths or options.nul or records:
        sys.stdout.flush()
        end = b"\0" if options.nul else b"\n"
        for record in records:  # as the bytes that the file system knows, whatever their encoding
            name = location(record) if options.paths or options.nul else shown_path(record)
            sys.stdout.buffer.write(os.fsencode(name) + end)
        sys.stdout.buffer.flush()
    else:
        print("nothing found: no picture passes the filter")
    if sys.stdout.isatty() and records and not options.json:
        print(f"{len(records):,} of {count(total, 'picture')}: -k N shows more, --offset N goes on", file=sys.stderr)
    return 0 if records else 1


def _common(indexes: "Sequence[Index]", where: "Where | None") -> "Iterator[Record]":
    """The records of the first index that pass and that the others have too."""
    from sightline.types import chunks

    for some in chunks(indexes[0].store.scan(where), _FETCHED):
        ids = [record.id for record in some]
        others = [{record.id for record in index.store.fetch(ids)} for index in indexes[1:]]
        yield from (record for record in some if all(record.id in known for known in others))


def _wanted(index: "Index", options: argparse.Namespace) -> dict[str, Any]:
    """Which part of the results is wanted, as arguments of a search."""
    conditions: list[Any] = list(options.where)
    folders = list[str]()
    for folder in options.under:
        from sightline.sources.files import file_uri

        uri = folder.rstrip("/") if "://" in folder else file_uri(folder)
        if not Path(folder).expanduser().is_dir() and not index.store.count({"folders": uri}):
            raise UsageError(f"--under {folder} is not a folder, and no indexed picture lies below it: check the path")
        folders.append(uri)
    if folders:
        conditions.append({"folders": {"$in": folders}})
    if options.match is not None:
        conditions.append({"$match": options.match})
    where = index.filter({"$and": conditions}) if conditions else None
    names = ("k", "offset", "min_score", "fold")
    return {"where": where, **{name: getattr(options, name) for name in names}}


def _print_hits(hits: "Hits", options: argparse.Namespace) -> int:
    """Print them in the shape that was asked for, write the page; 1 where there are none."""
    from sightline.results import location, page

    is_table = sys.stdout.isatty() and not (options.json or options.paths or options.nul)
    if options.html:
        write_page(options.html, page([hits], title=f"Sightline: {hits.query}"))
    if options.json:
        print(json.dumps(hits.to_dict(), indent=2))
    elif options.paths or options.nul:
        sys.stdout.flush()
        end = b"\0" if options.nul else b"\n"
        for hit in hits.hits:  # as the bytes that the file system knows, whatever their encoding
            sys.stdout.buffer.write(os.fsencode(location(hit)) + end)
        sys.stdout.buffer.flush()
    elif not hits.hits:
        is_filtered = options.where or options.under or options.match or options.min_score
        print("nothing found" + (": no picture passes the filter" if is_filtered else ""))
    elif is_table:
        print(_table(hits))
    else:
        print("\n".join(f"{hit.score:.3f}\t{shown_path(hit)}" for hit in hits.hits))
    if hits.note and not options.json:
        print(f"sightline: {printable(hits.note)}", file=sys.stderr)
    if hits.hits and not (is_table or options.json) and hits.likely == ():
        print("sightline: no confident match: these are the closest results", file=sys.stderr)
    return 0 if hits.hits else 1


def _table(hits: "Hits") -> str:
    rows = []
    for hit, evidence in zip(hits, hits.evidence or repeat({}), strict=False):
        width, height, taken = (hit.payload.get(name) for name in ("width", "height", "taken"))
        pixels = f"{width} x {height}" if width and height else ""
        day = str(taken or "")[:10]
        rows.append([f"{hit.score:.3f}", pixels, day, shown_path(hit), _marked(hit, evidence)])
    lines = hits.with_verdict(table(rows, right=frozenset({0, 1})).splitlines())
    header = f"{hits.query}   ({hits.model}, {hits.took_ms.total:.0f} ms)"
    return "\n".join([printable(header), *lines])


def _marked(hit: "Hit", evidence: "Evidence") -> str:
    """The text in which words of the query stand, they in bold, with the name of its field; nothing where none do."""
    from sightline.stores.written import texts_of

    field = next((field for field in evidence if field not in ("meaning", "name", "folder")), None)
    if field is None:
        return ""
    text, spans = dict(texts_of(hit.payload))[field], evidence[field]
    last = first = max(0, spans[0][0] - _CONTEXT)
    shown = f"{field}: " + "... " * (first > 0)
    for start, end in spans:
        if end <= first + 3 * _CONTEXT:
            shown += f"{printable(text[last:start])}\x1b[1m{printable(text[start:end])}\x1b[0m"
            last = end
    return shown + printable(text[last : first + 3 * _CONTEXT]) + " ..." * (len(text) > first + 3 * _CONTEXT)
