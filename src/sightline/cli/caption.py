"""The command caption: write captions for pictures that have none, by a local model."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.options import Commands, add_command, hub
from sightline.text import count, printable

if TYPE_CHECKING:
    from sightline.train.captions import CaptionProgress, Listener

_BLIP = "blip:Salesforce/blip-image-captioning-base"
_EXAMPLES = f"""\
models:
  {_BLIP}        BLIP, 990 MB, BSD-3-Clause: the default
  blip:Salesforce/blip-image-captioning-large       better and slower, 1.9 GB, BSD-3-Clause
  coca:coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k    CoCa of open_clip, MIT
  ./folder                                          a BLIP model as transformers saves it

examples:
  sightline caption photos                          writes captions.tsv; again after changes, only new ones
  sightline evaluate captions.tsv --images photos   reads it, as training does
"""


def add_commands(commands: Commands) -> None:
    """Add caption."""
    command = add_command(
        commands, "caption", caption, "write captions for pictures that have none, by a local model", epilog=_EXAMPLES
    )
    command.add_argument("folder", metavar="DIR", help="a folder of pictures, with all below it")
    command.add_argument(
        "--output", metavar="FILE", default="captions.tsv", help="the table (default: captions.tsv); it is added to"
    )
    command.add_argument("--model", metavar="NAME", default=_BLIP, help="a captioning model, see below")
    command.add_argument("--batch", metavar="N", type=int, default=8, help="pictures at a time (default: 8)")
    command.add_argument("--json", action="store_true", help="print the outcome as JSON")


def caption(options: argparse.Namespace) -> int:
    """Caption the pictures that the table lacks, and print which could not be read."""
    from importlib.util import find_spec

    from sightline.errors import ExtraMissing, UsageError

    if options.batch < 1:
        raise UsageError(f"--batch is {options.batch}, expected at least 1")
    family = "open_clip" if options.model.startswith("coca:") else "transformers"
    for package in ("torch", family):
        if find_spec(package) is None:
            raise ExtraMissing(
                f"captioning needs {package!r}, which is not installed: pip install 'sightline[caption]'"
            )
    here = hub()
    if here.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # the libraries' own switch; they read it when they are imported
    if not sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from sightline.sources.base import open_source
    from sightline.train.captions import caption as run
    from sightline.train.captions import load_captioner

    open_source(options.folder)  # a wrong folder is said before a model is loaded
    done = run(
        Path(options.folder),
        Path(options.output),
        load_captioner(options.model, hub=here),
        batch_size=options.batch,
        listen=_listener(),
    )
    return _report(done, options)


def _report(done: "CaptionProgress", options: argparse.Namespace) -> int:
    for uri, reason in done.failed:
        print(f"{printable(uri)}\n    {printable(reason)}", file=sys.stderr)
    if options.json:
        failed = [{"uri": uri, "reason": reason} for uri, reason in done.failed]
        print(json.dumps({"table": options.output, "written": done.written, "kept": done.kept, "failed": failed}))
        return 0
    parts = [f"{count(done.written, 'picture')} captioned"]
    parts += [f"{done.kept:,} had one already"] if done.kept else []
    parts += [f"{len(done.failed):,} could not be read"] if done.failed else []
    print(f"{', '.join(parts)}: {options.output}")
    return 0


def _listener() -> "Listener":
    """A bar with the time left on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda _: None
    from tqdm import tqdm

    bar = tqdm(unit=" pictures", dynamic_ncols=True, leave=False)

    def show(done: "CaptionProgress") -> None:
        bar.total = done.total - done.kept
        bar.update(done.written + len(done.failed) - bar.n)
        if bar.n >= bar.total:
            bar.close()

    return show
