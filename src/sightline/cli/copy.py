"""The commands copy, verify and tune: move an index to another store, and measure its recall there."""

import argparse
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from sightline.cli.options import (
    Commands,
    add_command,
    add_index,
    add_model,
    model_name,
    open_at,
    open_index,
    store_url,
)
from sightline.text import count, duration, printable, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sightline.calibration.tuning import Tuning
    from sightline.exchange.copy import Copied
    from sightline.exchange.verify import Verdict
    from sightline.index import Index

_EXAMPLES = """\
examples:
  sightline copy photos.index qdrant://localhost:6333/photos
  sightline verify photos.index qdrant://localhost:6333/photos
  sightline search "two dogs" --index qdrant://localhost:6333/photos
"""


def add_commands(commands: Commands) -> None:
    """Add copy, verify and tune."""
    command = add_command(commands, "copy", copy, "copy an index into another store", epilog=_EXAMPLES)
    _add_pair(command)
    command.add_argument("--prune", action="store_true", help="remove from TARGET what SOURCE no longer has")
    command.add_argument("--quiet", "-q", action="store_true", help="print nothing but errors")
    command = add_command(
        commands, "verify", verify, "check that two indexes hold the same and answer the same", epilog=_EXAMPLES
    )
    _add_pair(command)
    command.add_argument("--sample", metavar="N", type=int, default=200, help="queries of each kind (default: 200)")
    command = add_command(commands, "tune", tune, "measure a server's recall and set how widely it searches")
    add_index(command)
    add_model(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_pair(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="SOURCE", type=store_url, help="the index that is there: a folder or URL")
    command.add_argument("target", metavar="TARGET", type=store_url, help="the other index: a folder or URL")
    add_model(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def copy(options: argparse.Namespace) -> int:
    """Copy, and then measure what the target finds."""
    from sightline.errors import EncoderError
    from sightline.exchange.copy import copy as copy_index

    is_silent = options.json or options.quiet
    with open_at(options.source, model_name(options)) as source, _bar(source, is_silent) as listen:
        copied = copy_index(source, options.target, prune=options.prune, on_progress=listen)
    tuning = None
    with open_at(options.target, model_name(options)) as target:
        try:
            tuning = target.tune(only_if_grown=True)
        except EncoderError as error:
            print(f"sightline: recall was not measured: {error}", file=sys.stderr)
    if options.json:
        print(json.dumps({**asdict(copied), "tuning": tuning.to_dict() if tuning else None}))
    elif not options.quiet:
        print(_copied(copied, str(options.target)))
        print(tuning_text(tuning)) if tuning else None
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare; exit code 1 when the records differ."""
    from sightline.errors import UsageError
    from sightline.exchange.verify import verify_index

    if options.sample < 1:
        raise UsageError(f"--sample is {options.sample}, expected at least 1")
    model = model_name(options)
    with open_at(options.source, model) as source, open_at(options.target, model) as target:
        verdict = verify_index(source, target, sample=options.sample)
    print(json.dumps(verdict.to_dict(), indent=2) if options.json else _verdict(verdict))
    return 0 if verdict.is_same else 1


def tune(options: argparse.Namespace) -> int:
    """Measure and set the width."""
    with open_index(options) as index:
        tuning = index.tune()
    if options.json:
        print(json.dumps(tuning.to_dict() if tuning else None, indent=2))
    else:
        print(tuning_text(tuning) if tuning else "this index is searched exactly: there is nothing to tune")
    return 0


def tuning_text(tuning: "Tuning") -> str:
    """What was measured, in one line."""
    text = f"recall@10 of {_shares(tuning.recalls)} at width {tuning.width}"
    if tuning.width != tuning.default_width:
        text += f"; at the engine's own {tuning.default_width}: {_shares(tuning.default)}"
    return text if tuning.reached else f"{text}; no width reached a recall of 0.98"


def _shares(recalls: "Mapping[str, float]") -> str:
    return " and ".join(f"{kind} queries {value:.3f}" for kind, value in recalls.items())


@contextmanager
def _bar(source: "Index", is_silent: bool) -> "Iterator[Callable[[Copied], None]]":
    """A bar on a terminal, with records/s and the time left."""
    if is_silent or not sys.stderr.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=source.count(), unit=" pictures", dynamic_ncols=True, leave=False) as bar:
        yield lambda copied: bar.update(copied.written + copied.same - bar.n)


def _copied(copied: "Copied", target: str) -> str:
    parts = [f"{count(copied.written, 'picture')} copied"]
    parts += [f"{copied.same:,} there already"] if copied.same else []
    parts += [f"{copied.removed:,} removed"] if copied.removed else []
    rate = f", {copied.written / copied.seconds:,.0f}/s" if copied.written and copied.seconds else ""
    return f"{', '.join(parts)} in {duration(copied.seconds)}{rate}; {target} is up to date"


def _verdict(verdict: "Verdict") -> str:
    rows = [["pictures", f"{verdict.source_count:,} and {verdict.target_count:,}"]]
    for fault, number in (("missing", verdict.missing), ("extra", verdict.extra), ("different", verdict.different)):
        named = ", ".join(printable(uri) for uri in verdict.named[fault])
        rest = ", ..." if number > len(verdict.named[fault]) else ""
        rows.append([fault, f"{number:,}: {named}{rest}" if number else "0"])
    lines = [table(rows)]
    answers = [["queries", "asked", "recall@10, source", "target", "overlap", "same order"]]
    for kind, found in verdict.answers.items():
        shares = (found.source_recall, found.target_recall, found.overlap, found.same_order)
        answers.append([kind, f"{found.queries:,}", *(f"{share:.4f}" for share in shares)])
    lines += ["", table(answers, right=frozenset(range(1, 6)))] if len(answers) > 1 else []
    lines += ["", "the same" if verdict.is_same else "not the same: sightline copy brings the target up to date"]
    return "\n".join(lines)
