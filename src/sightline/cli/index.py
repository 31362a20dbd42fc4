"""The commands index, failures and remove: fill an index and maintain it."""

import argparse
import json
import re
import shlex
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.options import (
    MANY,
    Commands,
    add_command,
    better_model,
    hub,
    index_url,
    model_name,
    open_index,
    progress_bar,
)
from sightline.errors import StoreNotFound, TextNotSupported, UsageError
from sightline.text import count, duration, left_out_text, printable

if TYPE_CHECKING:
    from sightline.index import Index
    from sightline.ingest import Options, Summary
    from sightline.sources.base import Opening, Source
    from sightline.sources.select import Selected


def add_commands(commands: Commands) -> None:
    """Add index, failures and remove."""
    indexing = add_command(commands, index, "index model json quiet")
    indexing.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="a folder, with all folders below it; a table of paths or URLs; a zip or tar file, or a pattern of "
        "them (shards/{0000..0010}.tar); a picture or its URL",
    )
    listing = add_command(commands, failures, "index model json quiet")
    for command in (indexing, listing):
        command.add_argument(
            "--workers",
            metavar="N",
            type=_workers,
            help="how many work at once (default: one a core), or a Ray cluster: ray://head:10001",
        )
        command.add_argument(
            "--max-megapixels", metavar="N", type=float, help="lift or lower the limit on a picture's size"
        )
        command.add_argument(
            "--header",
            metavar="'NAME: VALUE'",
            type=_header,
            **MANY,
            help="send this with every request for a picture on the web, such as 'Authorization: Bearer ...'; any "
            "number",
        )
        command.add_argument("--retry", action="store_true", help="read pictures again that failed before")
    indexing.add_argument("--archives", action="store_true", help="take the zip and tar files in a folder too")
    indexing.add_argument(
        "--exclude",
        metavar="PATTERN",
        **MANY,
        help="leave out what matches in a folder, as in .gitignore: '*.tmp.png', trash/; any number. Patterns that "
        "always hold go into a file .sightlineignore in the folder",
    )
    table = indexing.add_argument_group("tables (.csv, .tsv, .jsonl, .parquet)")
    table.add_argument(
        "--image-column", metavar="NAME", help="the column with paths or URLs, or of shards the ending: seg.png"
    )
    table.add_argument("--caption-column", metavar="NAME", help="the column with captions (default: by its name)")
    table.add_argument("--images", metavar="DIR", help="where relative paths start (default: the table's folder)")
    table.add_argument("--encoding", metavar="NAME", help="of text that is not UTF-8: cp1251, gb18030 ...")
    table.add_argument("--no-cache", action="store_true", help="do not keep what is fetched from the web")
    part = indexing.add_argument_group("a part of the source; what is left out stays in the index as it is")
    part.add_argument(
        "--where",
        metavar="FILTER",
        **MANY,
        help="only pictures that match: split=train, price>=10, or JSON; by what is known before they are read",
    )
    part.add_argument("--sample", metavar="N", type=int, help="N random ones, the same each time")
    part.add_argument("--seed", metavar="N", type=int, default=0, help="another number draws another sample")
    part.add_argument("--limit", metavar="N", type=int, help="the first N of them")
    removing = add_command(commands, remove, "index model")
    removing.add_argument(
        "pictures",
        metavar="PICTURE",
        nargs="+",
        help="an indexed picture: its path, URI or id; a folder, even one that is gone, with all below it; or a "
        "pattern such as 'shop/*.jpg'",
    )


def index(options: argparse.Namespace) -> int:
    """Index pictures; again after changes.

    Examples:
      sightline index ~/Pictures
      sightline index products.csv                 paths or URLs; the other columns can be searched and filtered by
      sightline index captions.tsv --images photos
    """
    from sightline.sources.base import open_source
    from sightline.sources.folder import Folder

    opening = _opening(options)
    # A wrong name is said before anything is done.
    sources = [(source := open_source(place, opening), _selected(source, options)) for place in options.source]
    if options.exclude and (others := [source.root for source, _ in sources if not isinstance(source, Folder)]):
        raise UsageError(f"--exclude is for folders, and {others[0]} is not one: use --where, or leave --exclude out")
    by, reading = _by(options), _reading(options)
    with _open_for_writing(options) as target:
        for source, items in sources:
            with progress_bar(" pictures", smoothing=0.05) as bar:

                def listen(summary: "Summary", bar: Any = bar) -> None:
                    done = summary.unchanged + summary.encoded + summary.reused + summary.failed + summary.skipped
                    bar.set_postfix(failed=summary.failed, refresh=False) if summary.failed else None
                    bar.update(done - bar.n)
                    if bar.total and bar.n >= bar.total:
                        bar.set_description_str("finishing: measuring which scores are likely")

                if not bar.disable:
                    reading = replace(reading, on_progress=listen)
                    threading.Thread(target=_count, args=(items, bar), daemon=True, name="sightline-count").start()
                summary = target.add(items, reading, by=by)
            _report(summary, source, target, options)
    return 0


def failures(options: argparse.Namespace) -> int:
    """List the pictures that could not be indexed, and why."""
    with open_index(options) as target:
        if options.retry:
            summary = target.retry(_reading(options), _opening(options), by=_by(options))
            read = count(summary.encoded + summary.reused, "picture")
            _say(f"read {read} of {summary.seen:,} that failed before", options)
        found = target.failures()
    if options.json:
        print(json.dumps([asdict(failure) for failure in found], indent=2))
        return 0
    for failure in found:
        print(f"{printable(failure.uri)}\n    {failure.stage}: {printable(failure.reason)} ({failure.when})")
    if not found:
        _say("no failures: every picture is indexed", options)
    return 0


def remove(options: argparse.Namespace) -> int:
    """Take pictures out of the index; the files stay."""
    with open_index(options) as target:
        removed = target.remove_each(options.pictures)
    for picture in (picture for picture, number in removed.items() if not number):
        print(
            f"sightline: {picture!r} is not in {target.url}, expected the path, URI or id of an indexed picture, a "
            "folder that holds some, or a pattern: `sightline status` lists the folders",
            file=sys.stderr,
        )
    print(f"removed {count(sum(removed.values()), 'picture')} from {target.url}")
    return 0 if all(removed.values()) else 1


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII) or not re.fullmatch(r"[ -~]*", value):
        raise argparse.ArgumentTypeError("a header is written 'NAME: VALUE', in ASCII")  # it may hold a secret
    return name, value.strip()


def _reading(options: argparse.Namespace) -> "Options":
    from sightline.ingest import Options

    workers = options.workers if isinstance(options.workers, int) else None  # else a cluster's, which has its own
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}, expected at least 1")
    given = {"workers": workers, "limit_megapixels": options.max_megapixels}
    return replace(Options(retry=options.retry), **{name: value for name, value in given.items() if value is not None})


def _workers(text: str) -> int | str:
    try:
        return text if "://" in text else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not valid, expected a number or a Ray cluster such as ray://head:10001"
        ) from error


def _by(options: argparse.Namespace) -> "Callable[..., Summary] | None":
    """What does the work: a cluster if one was named, else None for the threads of this process."""
    if not isinstance(options.workers, str):
        return None
    from sightline.distribute.driver import open_cluster

    return open_cluster(options.workers, index_url(options), hub()).ingest


def _opening(options: argparse.Namespace) -> "Opening":
    from sightline.sources.base import Opening

    given = vars(options)
    is_fresh = options.retry or given.get("no_cache")  # what failed may have been kept as it came
    return Opening(
        cache=None if is_fresh else hub().cache / "pictures",
        image=given.get("image_column"),
        caption=given.get("caption_column"),
        base=Path(given["images"]) if given.get("images") else None,
        encoding=given.get("encoding"),
        archives=given.get("archives", False),
        exclude=tuple(given.get("exclude", ())),
        headers=tuple(options.header),
    )


def _selected(source: "Source", options: argparse.Namespace) -> "Source | Selected":
    """The part of a source that is wanted; the source itself if that is all of it."""
    from sightline.sources.select import Selected

    if not options.where and options.sample is None and options.limit is None:
        return source
    where, look = None, None
    if options.where:
        from sightline.images.metadata import metadata

        limit = {} if options.max_megapixels is None else {"limit_megapixels": options.max_megapixels}
        where, look = {"$and": options.where}, partial(metadata, **limit)
    return Selected(source, where=where, sample=options.sample, limit=options.limit, seed=options.seed, look=look)


def _open_for_writing(options: argparse.Namespace) -> "Index":
    """The index; for a new one the choice of a model is made, and said, here."""
    from sightline.encoders.base import choose_model

    target = open_index(options)
    try:
        target.store  # noqa: B018  opens it
    except StoreNotFound:
        choice = choose_model(model_name(options) or "auto", hub())
        if choice.reason:
            _say(f"model {choice.name}: {choice.reason}", options)
        return open_index(options, model=choice.name)
    return target


def _count(source: "Source | Selected", bar: Any) -> None:
    """Find out how many pictures there are while the first ones are worked on, for the time left."""
    with suppress(Exception):  # whatever is wrong with the source is said by the run itself
        bar.total = sum(1 for _ in source)


def _report(summary: "Summary", source: "Source", target: "Index", options: argparse.Namespace) -> None:
    from sightline.sources.base import file_of

    if options.json:
        print(json.dumps({"source": source.root, "index": target.url, **asdict(summary)}))
        return
    new = summary.encoded + summary.reused
    parts = [f"{count(summary.encoded, 'picture')} encoded"]
    parts += [f"{summary.moved:,} moved"] if summary.moved else []
    recognised = summary.reused - summary.moved
    parts += [f"{recognised:,} recognised"] if recognised > 0 else []
    parts += [f"{summary.unchanged:,} unchanged"] if summary.unchanged else []
    parts += [f"{summary.removed:,} removed"] if summary.removed else []
    rate = f", {summary.encoded / summary.seconds:.0f}/s" if summary.encoded and summary.seconds else ""
    now = f"{target.url} has {count(target.count(), 'picture')}"
    _say(f"{', '.join(parts)} in {duration(summary.seconds)}{rate}; {now}", options)
    named = f" --index {options.index}" if options.index else ""
    if failed := summary.failed + summary.skipped:
        _say(f"{count(failed, 'picture')} could not be read: sightline failures{named}", options)
    if better := better_model(str(target.info()["model"])):
        _say(better, options)
    if summary.left_out:
        _say(f"left out: {left_out_text(summary.left_out)}", options)
    if not summary.seen:
        what = f"passes --where under {source.root}" if options.where else f"found under {source.root}"
        _say(f"no picture {what}{'' if options.where else _suggest_other_source(source.root)}", options)
    if summary.kept:
        place = shlex.quote(str(file_of(source.root) or source.root))
        _say(
            f"{count(summary.kept, 'picture')} not found this time but kept: their folder was empty or unreadable; "
            f"if they are gone for good: sightline remove {place}{named}",
            options,
        )
    if new and not summary.unchanged:
        example = "search ./photo.jpg"
        with suppress(TextNotSupported):
            target.encoder.encode_texts(["a picture"])
            example = 'search "what you look for"'
        _say(f"search: sightline {example}{named}", options)


def _suggest_other_source(root: str) -> str:
    """What a folder without pictures holds that pictures can be taken from, and how."""
    from sightline.sources.base import file_of
    from sightline.sources.files import is_archive, is_table, is_video

    folder = file_of(root)
    names = sorted(folder.iterdir()) if folder and "#" not in root and folder.is_dir() else []
    no_tables = (".txt", ".json")  # more often something else
    kinds = (
        ("archive", is_archive, "take the pictures in them with --archives"),
        ("video", is_video, "index their scenes with sightline index {}"),
        ("table", lambda path: is_table(path) and path.suffix not in no_tables, "index it with sightline index {}"),
    )
    for noun, is_one, advice in kinds:
        if found := [path for path in names if is_one(path)]:
            one = found[0] if len(found) == 1 else found[0].with_name(f"*{found[0].suffix}")
            return f", but {count(len(found), noun)}: {advice.format(shlex.quote(str(one)))}"
    return ""


def _say(text: str, options: argparse.Namespace) -> None:
    if not (options.quiet or options.json):
        print(text)
