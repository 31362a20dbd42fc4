"""Run one command and return its exit code, as grep does: 0 found or done, 1 nothing found, 2 an error."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

import sightline
from sightline.cli.options import no_default_index
from sightline.errors import SightlineError, StoreNotFound
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
    "export-index": "copy",
    "import-index": "copy",
    "serve": "serve",
    "evaluate": "evaluate",
    "compare": "evaluate",
    "classify": "classify",
    "tag": "classify",
    "duplicates": "duplicates",
    "map": "map",
    "caption": "train",
    "train": "train",
    "export": "train",
    "datasets": "datasets",
    "demo": "datasets",
}
"""Every command, in the order of the help, and the module of this package that adds it; only that one is imported."""

_OTHER_COMMANDS = {
    "find": "search",
    "query": "search",
    "add": "index",
    "update": "index",
    "ls": "status",
    "list": "status",
    "info": "status",
    "stats": "status",
    "rm": "remove",
    "delete": "remove",
    "dedupe": "duplicates",
    "export": "export-index",
    "import": "import-index",
    "version": "--version",
}
"""What other programs call a command, for those who try it here."""

_OTHER_OPTIONS = {
    **dict.fromkeys(("--top", "-t", "-n", "--limit", "--count", "--number", "--max", "--results"), "-k"),
    **dict.fromkeys(("--threshold", "--score", "--min"), "--min-score"),
    **dict.fromkeys(("--filter", "-w"), "--where"),
    **dict.fromkeys(("--folder", "--in", "--path"), "--under"),
    **dict.fromkeys(("--jobs", "-j", "--threads"), "--workers"),
    **dict.fromkeys(("--database", "--db", "-i"), "--index"),
    **dict.fromkeys(("--out", "-o"), "--output"),
}
"""What other programs call an option."""

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
    first = given[0] if given else ""
    if first == "help":
        given = [*given[1:2], "--help"]
    elif first not in COMMANDS and not {"-h", "--help", "-V", "--version"}.intersection(given[:1]) and given:
        print(f"sightline: {redact(_no_command(given))}", file=sys.stderr)
        return WRONG
    root = parser(given[0] if given else None)
    options, unknown = root.parse_known_args(given)
    if unknown:
        print(f"sightline: {redact(_unknown_argument(unknown[0], options))}", file=sys.stderr)
        return WRONG
    if "run" not in options:
        root.print_help()
        return WRONG
    logging.basicConfig(level=logging.WARNING, format="sightline: %(message)s", force=True)
    try:
        return int(options.run(options))
    except SightlineError as error:
        lost = no_default_index(options) if isinstance(error, StoreNotFound) else None
        print(f"sightline: {redact(lost or str(error))}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        done = "what is done is kept; run the same command to continue"
        print(f"\nsightline: stopped; {done if options.is_resumable else 'nothing was changed'}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough: `sightline search ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as of every other mistake; the message repeats what was typed."""
        self.exit(2, f"{self.prog}: {redact(message)} (see {self.prog} --help)\n")


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of one command (and of those that share its module), or of all where it is no command."""
    root = _Parser(
        prog="sightline",
        description="Find pictures by meaning: by words, by another picture, or by both.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("-V", "--version", action="version", version=f"sightline {sightline.__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND")
    for module in dict.fromkeys([COMMANDS[command]] if command in COMMANDS else COMMANDS.values()):
        import_module(f"sightline.cli.{module}").add_commands(commands)
    return root


def _no_command(given: Sequence[str]) -> str:
    """What to say where the first argument is no command."""
    first = given[0]
    if first.startswith("-"):
        command = next((argument for argument in given if argument in COMMANDS), None)
        if command:
            return f"options stand after the command: sightline {command} ... {first}"
        return f"unknown option {first}: sightline --help lists the commands, sightline COMMAND --help their options"
    near = [_OTHER_COMMANDS[first]] if first in _OTHER_COMMANDS else get_close_matches(first, COMMANDS, n=1, cutoff=0.7)
    meant = f"sightline {near[0]}" if near else f"sightline search {shlex.join(given)}"
    return f"{first!r} is not a command: did you mean {meant}? (sightline --help lists the commands)"


def _unknown_argument(argument: str, options: argparse.Namespace) -> str:
    """What to say about an argument that a command does not take."""
    command: argparse.ArgumentParser = options.parser
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}: {command.prog} --help shows what it takes"
    name = argument.partition("=")[0]
    known = [option for option in command._option_string_actions if option not in ("-h", "--help")]
    meant = _OTHER_OPTIONS.get(name)
    near = [meant] if meant in known else get_close_matches(name, known, n=1, cutoff=0.7)
    advice = f"did you mean {near[0]}?" if near else f"{command.prog} --help lists its options"
    return f"unknown option {name} of {command.prog}: {advice}"
