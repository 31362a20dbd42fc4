"""Check the documents, or write what is generated in them: python docs/check.py [--write]."""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from sightline.cli.main import parser
from sightline.cli.options import ENVIRONMENT

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SOURCE = ROOT / "src" / "sightline"
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
INCLUDE = re.compile(r"<!-- file: (?P<name>\S+) -->\n(?:\n```python\n.*?```\n)?", re.DOTALL)


def main() -> int:
    """Say what is wrong, a line each."""
    write = sys.argv[1:] == ["--write"]
    problems = [*broken_links(), *untrue_structure(), *out_of_date(write=write)]
    print("\n".join(problems) or "the documents are in order")
    return 1 if problems else 0


def broken_links() -> Iterator[str]:
    """Links to files that do not exist."""
    for path in pages():
        for target in LINK.findall(path.read_text("utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                yield f"{path.relative_to(ROOT)}: the link to {target} leads nowhere"


def untrue_structure() -> Iterator[str]:
    """Rooms and kinds of notes that the architecture names and the code does not have, or the other way round."""
    text = (DOCS / "architecture.md").read_text("utf-8")
    drawing = text.partition("```text")[2].partition("```")[0]
    yield from differences("room", set(re.findall(r"[a-z_]+(?:/|\.py)", drawing)), rooms())
    rows = re.findall(r"^\| (`.*?`) \|", text.partition("## Notes")[2].partition("\n## ")[0], re.MULTILINE)
    listed = [kind for row in rows for kind in re.findall(r"`(\w+)`", row)]
    yield from differences("kind of note", set(listed), kinds_of_notes())
    for page in ("howto/store.md", "howto/source.md", "howto/encoder.md", "architecture.md"):
        for name in re.findall(r"`((?:src/sightline|[a-z]+)/[\w/]+\.(?:py|toml))`", (DOCS / page).read_text("utf-8")):
            if not any((base / name).exists() for base in (ROOT, SOURCE, SOURCE / "stores")):
                yield f"docs/{page}: there is no file {name}"


def differences(what: str, named: set[str], there: set[str]) -> Iterator[str]:
    """A line for each name that is on one side alone."""
    yield from (f"docs/architecture.md names a {what} that there is not: {name}" for name in sorted(named - there))
    yield from (f"docs/architecture.md does not name the {what} {name}" for name in sorted(there - named))


def rooms() -> set[str]:
    """The folders and files at the top of the package."""
    folders = {f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")}
    return folders | {path.name for path in SOURCE.glob("*.py") if path.name != "__main__.py"}


def kinds_of_notes() -> set[str]:
    """The first argument of each call of `notes` and `write_notes`, where it is a string or a constant's name."""
    trees = [ast.parse(path.read_text("utf-8")) for path in SOURCE.rglob("*.py")]
    constants: dict[str, set[str]] = {}
    found = set[str]()
    for tree in trees:
        here = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, str)
        }
        for name, value in here.items():
            if not name.startswith("_"):
                constants.setdefault(name, set()).add(value)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("notes", "write_notes"):
                kind = node.args[0]
                if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
                    found.add(kind.value)
                elif isinstance(kind, ast.Name) and kind.id in here:
                    found.add(here[kind.id])
                elif isinstance(kind, ast.Name | ast.Attribute):
                    name = kind.id if isinstance(kind, ast.Name) else kind.attr
                    if len(constants.get(name, ())) == 1 and name.isupper():
                        found |= constants[name]
    return found


def out_of_date(*, write: bool) -> Iterator[str]:
    """Generated text that is not what would be generated now; written anew if asked."""
    wanted = {path: with_files(path.read_text("utf-8")) for path in pages()}
    wanted[DOCS / "cli.md"] = command_line()
    for path, text in wanted.items():
        if path.exists() and path.read_text("utf-8") == text:
            continue
        if write:
            path.write_text(text, "utf-8")
        else:
            yield f"{path.relative_to(ROOT)} is out of date: run ./run python docs/check.py --write"


def pages() -> list[Path]:
    """Every document."""
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def with_files(text: str) -> str:
    """The text with each example file shown below its mark."""

    def show(match: re.Match[str]) -> str:
        code = (ROOT / match["name"]).read_text("utf-8").rstrip()
        return f"<!-- file: {match['name']} -->\n\n```python\n{code}\n```\n"

    return INCLUDE.sub(show, text)


def command_line() -> str:
    """The whole command line as one page."""
    root = parser()
    (commands,) = [action for action in root._actions if isinstance(action, argparse._SubParsersAction)]
    parts = ["# Command line", "Generated by `docs/check.py --write` from the program itself.", fenced(root)]
    for name, command in commands.choices.items():
        parts += [f"## sightline {name}", fenced(command)]
    rows = [f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items()]
    parts += ["## Environment", "\n".join(["| variable | meaning |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def fenced(command: argparse.ArgumentParser) -> str:
    """The help of one command, at a fixed width."""
    command.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=110, max_help_position=32)
    return f"```text\n{command.format_help().rstrip()}\n```"


if __name__ == "__main__":
    sys.exit(main())
