"""The house stands: imports go down only, and files and functions keep the sizes that people can read."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "sightline"
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = {
    "types": 0,
    "errors": 0,
    "text": 0,
    "chunks": 0,
    "files": 0,
    "filters": 0.5,  # also on the ground: on values and errors, below every room
    "web": 0.5,
    "images": 1,
    "sources": 1,
    "encoders": 1,
    "stores": 1,
    "query": 2,
    "ingest": 2,
    "results": 2,
    "analysis": 2,
    "calibration": 2,
    "datasets": 2,
    "identity": 2,
    "index": 3,
    "several": 4,
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
SILENT = [path for path in FILES if FLOORS[path.relative_to(ROOT).parts[0].removesuffix(".py")] < 6]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms that a file imports, wherever in the file; imports for types alone do not count."""
    tree = ast.parse(path.read_text("utf-8"))
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
            parts = (node.module or "").split(".")
            yield from (
                [parts[1]]
                if parts[1:]
                else [alias.name if alias.name in FLOORS else "__init__" for alias in node.names]
            )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "sightline":
                    yield parts[1] if parts[1:] else "__init__"


def test_imports_go_down_only() -> None:
    upward = [
        f"{named(path)} imports {other}"
        for path in FILES
        for other in imported_rooms(path)
        if other != room(path) and FLOORS[other] >= FLOORS[room(path)]
    ]
    assert upward == []


def test_files_and_functions_can_be_read_at_a_sitting() -> None:
    too_long = list[str]()
    for path in FILES:
        text = path.read_text("utf-8")
        if len(text.splitlines()) > LONGEST_FILE:
            too_long.append(named(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and statements(node) > LONGEST_FUNCTION:
                too_long.append(f"{named(path)}: {node.name}")
    assert too_long == []


def test_only_the_top_floor_prints_exits_and_reads_the_environment() -> None:
    found = list[str]()
    for path in SILENT:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            is_print = isinstance(node, ast.Name) and node.id == "print"
            reads = isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.exit", "os.environ", "os.getenv")
            if is_print or reads or isinstance(node, ast.Assert):
                found.append(f"{named(path)}:{node.lineno}")
    assert found == []


def statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1


def test_importing_sightline_imports_no_runtime() -> None:
    assert heavy_modules_after("import sightline") == []


def test_help_imports_no_runtime() -> None:
    assert heavy_modules_after("import sightline.cli.main as m; m.parser().format_help()") == []


def heavy_modules_after(code: str) -> list[str]:
    heavy = {"numpy", "onnxruntime", "torch", "PIL", "tokenizers"}
    code = f"import sys; {code}; print(*sorted({heavy} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
