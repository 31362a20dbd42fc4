"""The command line as a whole: which module adds a command, and what is said about arguments that are wrong."""

import argparse
import subprocess
import sys

import pytest

from sightline.cli.main import COMMANDS, parser


def names_of(root: argparse.ArgumentParser) -> list[str]:
    (commands,) = [action for action in root._actions if isinstance(action, argparse._SubParsersAction)]
    return list(commands.choices)


def test_every_command_is_in_the_table_and_in_its_order() -> None:
    assert names_of(parser()) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_added_by_the_module_that_the_table_names(command: str) -> None:
    assert names_of(parser(command)) == [name for name in COMMANDS if COMMANDS[name] == COMMANDS[command]]


def test_a_command_imports_no_other_command() -> None:
    code = "import sys, sightline.cli.main as m; m.parser('search'); print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = {f"sightline.cli.{module}" for module in COMMANDS.values()} - {"sightline.cli.search"}
    assert others.isdisjoint(modules)
