"""The command line as a whole: which module adds a command, and what is said about arguments that are wrong."""

import argparse
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pictures import scene

from sightline.cli.main import COMMANDS, main, parser
from sightline.errors import SourceError
from sightline.sources import base as sources
from sightline.types import Item


def names_of(root: argparse.ArgumentParser) -> list[str]:
    (commands,) = [action for action in root._actions if isinstance(action, argparse._SubParsersAction)]
    return list(commands.choices)


def test_every_command_is_in_the_table_and_in_its_order() -> None:
    assert names_of(parser()) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_added_by_the_module_that_the_table_names(command: str) -> None:
    assert names_of(parser(command)) == [name for name in COMMANDS if COMMANDS[name] == COMMANDS[command]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serach", "red car"], "did you mean sightline search?"),
        (["red car"], "did you mean sightline search 'red car'?"),
        (["find", "dog"], "did you mean sightline search?"),
        (["ls"], "did you mean sightline status?"),
        (["version"], "did you mean sightline --version?"),
        (["--index", "photos.index", "search", "dog"], "options stand after the command: sightline search ... --index"),
        (["search", "dog", "--top", "3"], "unknown option --top of sightline search: did you mean -k?"),
        (["search", "dog", "-n", "3"], "unknown option -n of sightline search: did you mean -k?"),
        (["search", "dog", "--threshold=0.3"], "did you mean --min-score?"),
        (["search", "dog", "--jsom"], "did you mean --json?"),
        (["models", "get", "mini", "--yess"], "unknown option --yess of sightline models get: did you mean --yes?"),
        (["status", "dog"], "unexpected argument 'dog': sightline status --help"),
    ],
)
def test_what_is_misspelt_gets_a_suggestion(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_help_and_version_have_their_usual_spellings(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["help", "search"], ["help"], ["-V"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    assert "usage: sightline search" in capsys.readouterr().out


def test_an_index_in_a_folder_above_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SIGHTLINE_INDEX", raising=False)
    below = tmp_path / "2024" / "may"
    below.mkdir(parents=True)
    scene(1).save(tmp_path / "a.png")
    monkeypatch.chdir(below)
    assert main(["status"]) == 2
    assert f"there is no photos.index in {below} or in a folder above it" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["index", "a.png", "--model", "pixels"]) == 0
    assert "search: sightline search ./photo.jpg" in capsys.readouterr().out  # what this model can do
    monkeypatch.chdir(below)
    assert main(["status", "--json"]) == 0
    assert '"pictures": 1' in capsys.readouterr().out


def test_a_command_imports_no_other_command() -> None:
    code = "import sys, sightline.cli.main as m; m.parser('search'); print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = {f"sightline.cli.{module}" for module in COMMANDS.values()} - {"sightline.cli.search"}
    assert others.isdisjoint(modules)


def test_a_source_that_breaks_while_it_is_counted_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal a thread counts the pictures for the time left; what it meets is the run's to tell."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    class Broken:
        root = tmp_path.as_uri()

        def __iter__(self) -> Iterator[Item]:
            raise SourceError("the disk is gone: mount it")

    monkeypatch.setattr(sources, "open_source", lambda *_: Broken())
    assert main(["index", "x", "--index", str(tmp_path / "a.index"), "--model", "pixels"]) == 2
    for thread in threading.enumerate():
        if thread.name == "sightline-count":
            thread.join(10)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "sightline: the disk is gone: mount it" in err
