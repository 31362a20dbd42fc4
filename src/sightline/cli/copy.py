"""The commands copy, verify and tune, export-index and import-index: an index in another store, or in files."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from sightline.cli import options as cli
from sightline.cli.options import Commands, add_command, open_at, open_index, show, store_url
from sightline.errors import EncoderError, UsageError
from sightline.text import count, duration, printable, table

_NO_FOLDERS = (".csv", ".tsv", ".json", ".jsonl", ".npy", ".npz", ".txt", ".zip", ".tar", ".gz")


def add_commands(commands: Commands) -> None:
    """Add copy, verify, tune, export-index and import-index."""
    copying = add_command(commands, copy, "model json quiet")
    verifying = add_command(commands, verify, "model json")
    for command in (copying, verifying):
        command.add_argument("source", metavar="SOURCE", type=store_url, help="an index that exists: a folder or URL")
        command.add_argument("target", metavar="TARGET", type=store_url, help="the other index: a folder or URL")
    copying.add_argument("--prune", action="store_true", help="remove from TARGET what SOURCE no longer has")
    verifying.add_argument(
        "--sample", metavar="N", type=cli.positive, default=200, help="queries of each kind (default: 200)"
    )
    add_command(commands, tune, "index model json")
    command = add_command(commands, export_index, "index model json")
    command.add_argument("target", metavar="TARGET", help="a file that ends in .parquet, or a new folder")
    command = add_command(commands, import_index, "index model json")
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="what export-index wrote, a Parquet file with vectors, or clip-retrieval's folder",
    )


def copy(options: argparse.Namespace) -> int:
    """Copy an index into another store.

    Examples:
      sightline copy photos.index qdrant://localhost:6333/photos
      sightline verify photos.index qdrant://localhost:6333/photos
      sightline search "two dogs" --index qdrant://localhost:6333/photos
    """
    from sightline.exchange.copy import copy as copy_index

    with (
        open_at(options.source, options.model) as source,
        cli.progress_bar(" pictures", quiet=options.json or options.quiet, total=source.count()) as bar,
    ):
        copied = copy_index(
            source,
            options.target,
            prune=options.prune,
            on_progress=lambda copied: bar.update(copied.written + copied.same - bar.n),
        )
    tuning = None
    with open_at(options.target, options.model) as target:
        try:
            tuning = target.tune(only_if_grown=True)
        except EncoderError as error:
            print(f"sightline: recall was not measured: {error}", file=sys.stderr)
    if options.quiet and not options.json:
        return 0
    parts = [f"{count(copied.written, 'picture')} copied"]
    parts += [f"{copied.same:,} there already"] if copied.same else []
    parts += [f"{copied.removed:,} removed"] if copied.removed else []
    rate = f", {copied.written / copied.seconds:,.0f}/s" if copied.written and copied.seconds else ""
    text = f"{', '.join(parts)} in {duration(copied.seconds)}{rate}; {options.target} is up to date"
    plain = {**asdict(copied), "tuning": asdict(tuning) if tuning else None}
    return show(options, plain, f"{text}\n{tuning}" if tuning else text)


def verify(options: argparse.Namespace) -> int:
    """Check that two indexes hold the same and answer the same; exit code 1 when they do not.

    Examples:
      sightline copy photos.index qdrant://localhost:6333/photos
      sightline verify photos.index qdrant://localhost:6333/photos
    """
    from sightline.exchange.copy import verify_index

    model = options.model
    with open_at(options.source, model) as source, open_at(options.target, model) as target:
        verdict = verify_index(source, target, sample=options.sample)
    rows = [["pictures", f"{verdict.source_count:,} and {verdict.target_count:,}"]]
    for fault, number in (("missing", verdict.missing), ("extra", verdict.extra), ("different", verdict.different)):
        named = ", ".join(printable(uri) for uri in verdict.named[fault])
        rest = ", ..." if number > len(verdict.named[fault]) else ""
        rows.append([fault, f"{number:,}: {named}{rest}" if number else "0"])
    rows.append(["line", "the same" if verdict.has_same_line else "another one: hits are judged otherwise"])
    lines = [table(rows), ""]
    answers = [["queries", "asked", "recall@10, source", "target", "overlap", "same order"]]
    for kind, found in verdict.answers.items():
        shares = (found.source_recall, found.target_recall, found.overlap, found.same_order)
        answers.append([kind, f"{found.queries:,}", *(f"{share:.4f}" for share in shares)])
    lines += [table(answers, right=frozenset(range(1, 6))), ""] if len(answers) > 1 else []
    lines.append("the same" if verdict.is_same else "not the same: sightline copy brings the target up to date")
    show(options, verdict.to_dict(), "\n".join(lines))
    return 0 if verdict.is_same else 1


def tune(options: argparse.Namespace) -> int:
    """Measure a server's recall and set how widely it searches."""
    with open_index(options) as index:
        tuning = index.tune()
    text = str(tuning) if tuning else "this index is searched exactly: there is nothing to tune"
    return show(options, asdict(tuning) if tuning else None, text)


def export_index(options: argparse.Namespace) -> int:
    """Write vectors and what is known of pictures to files.

    Examples:
      sightline export-index photos.parquet      one table: id, uri, vector, and what is known of each picture
      sightline export-index photos-vectors      a folder: vectors.npy, and records.jsonl line by line beside it
    """
    from sightline.exchange.files import write_folder, write_parquet

    target = Path(options.target)
    if target.suffix.lower() in _NO_FOLDERS:
        raise UsageError(
            f"{target} is not a format that is written: name a file that ends in .parquet, or a new folder"
        )
    write = write_parquet if target.name.lower().endswith(".parquet") else write_folder
    with open_index(options) as index:
        written = write(index.store, target)
    show(options, {"pictures": written}, f"wrote {count(written, 'picture')} to {target}")
    return 0 if written else 1


def import_index(options: argparse.Namespace) -> int:
    """Fill an index from files of vectors.

    Examples:
      sightline import-index photos.parquet --index copy.index
      sightline import-index embeddings --index laion.index --model clip-b32    what clip-retrieval's inference wrote
    """
    from sightline.exchange.files import load

    url = cli.index_url(options)
    written = load(Path(options.source), url, model=cli.model_name(options), hub=cli.hub())
    show(options, {"pictures": written}, f"read {count(written, 'picture')} from {options.source} into {url}")
    return 0 if written else 1
