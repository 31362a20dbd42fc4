"""The house stands: imports go down only, and files and functions keep the sizes that people can read."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.conftest import FIRST, MARKED_FILES

ROOT = Path(__file__).parents[1] / "src" / "sightline"
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = {
    "types": 0,
    "errors": 0.2,
    "moments": 0,
    "xmp": 0.5,
    "text": 0,
    "files": 0,
    "pages": 0,
    "filters": 0.5,  # also on the ground: on values and errors, below every room
    "web": 0.5,
    "images": 1,
    "sources": 1,
    "encoders": 1,
    "stores": 1,
    "pictures": 1.5,
    "query": 2,
    "ingest": 2,
    "results": 2,
    "analysis": 2,
    "calibration": 2,
    "datasets": 2,
    "index": 3,
    "fusion": 4,
    "explain": 4,
    "__init__": 4,
    "distribute": 5,
    "evaluate": 5,
    "exchange": 5,
    "train": 5,
    "server": 5,
    "cli": 6,
    "notebook": 6,
    "__main__": 7,
}
LONGEST_FILE, LONGEST_FUNCTION = 600, 60  # lines, statements
MOST_IMPORTS = 0.077  # of all lines
SILENT = [path for path in FILES if FLOORS[path.relative_to(ROOT).parts[0].removesuffix(".py")] < 6]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> Iterator[str]:
    """What a file imports of the package, wherever in the file: `stores.base`, or `stores.base.Store` of a module.

    Imports for types alone do not count.
    """
    tree = tree_of(path)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sightline":
            yield from (f"{node.module}.{alias.name}".removeprefix("sightline.") for alias in node.names)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "sightline"]
            yield from (name.removeprefix("sightline").removeprefix(".") or "__init__" for name in names)


def imported_rooms(path: Path) -> Iterator[str]:
    for name in imported(path):
        first = name.split(".")[0]
        yield first if first in FLOORS else "__init__"


def imported_files(path: Path) -> Iterator[Path]:
    for name in imported(path):
        parts = name.split(".")
        for place in (ROOT.joinpath(*parts), ROOT.joinpath(*parts[:-1])):
            for candidate in (place.with_suffix(".py"), place / "__init__.py"):
                if candidate in FILES and candidate != path:
                    yield candidate
                    break
            else:
                continue
            break


def test_imports_go_down_only() -> None:
    upward = [
        f"{named(path)} imports {other}"
        for path in FILES
        for other in imported_rooms(path)
        if other != room(path) and FLOORS[other] >= FLOORS[room(path)]
    ]
    assert upward == []


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {path: set(imported_files(path)) for path in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(named(path) for path in error.args[1])) from None


def test_a_class_name_stands_for_one_thing() -> None:
    """Sibling rooms may call the same part by the same name, in a file of the same name."""
    found = defaultdict[str, set[str]](set)
    for path in FILES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                is_sibling = path.parents[1].name == "stores"
                found[node.name].add(f"stores/*/{path.name}" if is_sibling else named(path))
    shared = {name: sorted(files) for name, files in found.items() if len(files) > 1}
    assert shared == {}


def test_imports_are_a_small_part_of_the_code() -> None:
    """Many imports for few lines mean that a subject is spread over too many files."""
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in FILES)
    imports = sum(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
    )
    assert imports / lines < MOST_IMPORTS


def test_files_and_functions_can_be_read_at_a_sitting() -> None:
    too_long = list[str]()
    for path in FILES:
        if len(path.read_text("utf-8").splitlines()) > LONGEST_FILE:
            too_long.append(named(path))
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and statements(node) > LONGEST_FUNCTION:
                too_long.append(f"{named(path)}: {node.name}")
    assert too_long == []


def test_only_the_top_floor_prints_exits_and_reads_the_environment() -> None:
    found = list[str]()
    for path in SILENT:
        tree = tree_of(path)
        allowed = {  # the one way to ask for it below
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == "from_environment"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in allowed:
                continue
            is_print = isinstance(node, ast.Name) and node.id == "print"
            reads = isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.exit", "os.environ", "os.getenv")
            if is_print or reads or isinstance(node, ast.Assert):
                found.append(f"{named(path)}: {ast.unparse(node)}")
    assert found == []


def statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1


def test_files_that_the_runs_treat_differently_exist() -> None:
    here = Path(__file__).parent
    names = [*FIRST, *(name for files in MARKED_FILES.values() for name in files)]
    assert [name for name in names if not (here / name).is_file()] == []


def test_importing_sightline_imports_no_runtime() -> None:
    assert heavy_modules_after("import sightline") == []


def test_help_imports_no_runtime() -> None:
    assert heavy_modules_after("import sightline.cli.main as m; m.parser().format_help()") == []


def heavy_modules_after(code: str) -> list[str]:
    heavy = {"numpy", "onnxruntime", "torch", "PIL", "tokenizers"}
    code = f"import sys; {code}; print(*sorted({heavy} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
