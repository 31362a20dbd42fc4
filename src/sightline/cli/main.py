"""Run one command and return its exit code, as grep does: 0 found or done, 1 nothing found, 2 an error."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import sightline
from sightline.errors import SightlineError
from sightline.stores.url import redact

COMMANDS = {
    "index": "index",
    "failures": "index",
    "remove": "index",
    "search": "search",
    "similar": "search",
    "status": "status",
    "models": "models",
    "recommend": "models",
    "copy": "copy",
    "verify": "copy",
    "tune": "copy",
    "export-index": "export_index",
    "import-index": "export_index",
    "serve": "serve",
    "evaluate": "evaluate",
    "compare": "compare",
    "classify": "classify",
    "tag": "classify",
    "duplicates": "duplicates",
    "map": "map",
    "caption": "caption",
    "train": "train",
    "export": "export",
    "datasets": "datasets",
    "demo": "demo",
}
"""Every command, in the order of the help, and the module of this package that adds it; only that one is imported."""

FOUND, NOTHING_FOUND, WRONG = 0, 1, 2
_INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C

_EPILOG = """\
start here:
  sightline index ~/Pictures             index a folder; run it again after changes
  sightline search "a dog in the snow"   search it by words
  sightline search ./photo.jpg           search it by a picture
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    root = parser(given[0] if given else None)
    options = root.parse_args(given)
    if "run" not in options:
        root.print_help()
        return WRONG
    logging.basicConfig(level=logging.WARNING, format="sightline: %(message)s", force=True)
    try:
        return int(options.run(options))
    except SightlineError as error:
        print(f"sightline: {redact(str(error))}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        done = "what is done is kept, run the same command to go on"
        print(f"\nsightline: stopped; {done if options.goes_on else 'nothing was changed'}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough: `sightline search ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(redact(message))  # it repeats what was typed


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of one command (and of those that share its module), or of all where it is no command."""
    root = _Parser(
        prog="sightline",
        description="Find pictures by meaning: by words, by another picture, or by both.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"sightline {sightline.__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND")
    for module in dict.fromkeys([COMMANDS[command]] if command in COMMANDS else COMMANDS.values()):
        import_module(f"sightline.cli.{module}").add_commands(commands)
    return root
