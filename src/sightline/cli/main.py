"""Arguments turned into one command's run and an exit code: 0 found or done, 1 nothing found, 2 wrong use or error."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import sightline
from sightline.cli import (
    captioning,
    choosing,
    comparing,
    demo,
    evaluating,
    exchanging,
    exporting,
    gathering,
    indexing,
    labelling,
    looking,
    mapping,
    moving,
    searching,
    serving,
    tidying,
    training,
)
from sightline.errors import SightlineError

FOUND, NOTHING_FOUND, WRONG = 0, 1, 2
_INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C

_EPILOG = """\
start here:
  sightline index ~/Pictures             index a folder; run it again after changes
  sightline search "a dog in the snow"   search it by words
  sightline search ./photo.jpg           search it by a picture
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    root = parser()
    options = root.parse_args(arguments)
    if "run" not in options:
        root.print_help()
        return WRONG
    logging.basicConfig(level=logging.WARNING, format="sightline: %(message)s", force=True)
    try:
        return int(options.run(options))
    except SightlineError as error:
        print(f"sightline: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        done = "what is done is kept, run the same command to go on"
        print(f"\nsightline: stopped; {done if options.goes_on else 'nothing was changed'}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough: `sightline search ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND


def parser() -> argparse.ArgumentParser:
    """The whole command line; the docs are generated from it."""
    root = argparse.ArgumentParser(
        prog="sightline",
        description="Find pictures by meaning: by words, by another picture, or by both.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"sightline {sightline.__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND")
    rooms = (
        indexing,
        searching,
        looking,
        choosing,
        moving,
        exchanging,
        serving,
        evaluating,
        comparing,
        labelling,
        tidying,
        mapping,
        captioning,
        training,
        exporting,
        gathering,
        demo,
    )
    for room in rooms:
        room.add_commands(commands)
    return root
