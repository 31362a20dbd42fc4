"""What every test can rely on: which tests a run takes, which worker each goes to, and an account of what was left out.

`./run test` leaves out what only `./run check` runs: tests marked `torch`, `servers` or `browser`.
"""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHECK_ONLY = {
    "torch": "need torch",
    "servers": "start an engine's server, or a stand-in for one",
    "browser": "drive a browser",
    "long": "take long",
}
MARKED_FILES = {
    "servers": (
        "crash/test_milvus.py",
        "crash/test_pgvector.py",
        "e2e/test_ray.py",
        "e2e/test_tutorials.py",
        "unit/test_milvus.py",
        "unit/test_pgvector.py",
        "unit/test_pinecone.py",
        "unit/test_qdrant.py",
        "unit/test_vespa.py",
    ),
    "browser": ("e2e/test_page.py",),
    "long": (
        "crash/test_store_full.py",
        "crash/test_store_kill.py",
        "crash/test_store_power.py",
        "crash/test_store_processes.py",
        "e2e/test_fuzz.py",
        "e2e/test_hostile.py",
        "e2e/test_kill.py",
        "e2e/test_life.py",
        "e2e/test_server_limits.py",
        "unit/test_copied.py",
    ),
}
FIRST = ("e2e/test_ray.py", "contract/test_store.py", "unit/test_train_clip.py", "unit/test_train_run.py")
"""What takes longest starts first, so that no worker is left alone with it at the end."""
LEFT_OUT = pytest.StashKey[Counter[str]]()
IGNORED = pytest.StashKey[set[Path]]()
MILVUS = ("test_milvus.py", "[milvus]", "[milvus-", "-milvus]", "moves_to_milvus")
"""What may start the one Milvus server that a machine can run: all of it goes to one worker."""
NEEDS_TORCH = ('pytest.importorskip("torch"', 'torch = pytest.importorskip("torch"')
HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run what `./run check` runs, too: torch, servers, a browser")
    parser.addoption("--slow", action="store_true", help="run the long forms of tests, too")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT], config.stash[IGNORED] = Counter(), set()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background: the programs under test would
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignore an interrupt, too


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that need torch as a whole are not even imported, which would take longer than many tests."""
    if config.getoption("--all") or collection_path.suffix != ".py":
        return None
    if not any(line.startswith(NEEDS_TORCH) for line in collection_path.read_text("utf-8").splitlines()):
        return None
    config.stash[IGNORED].add(collection_path)
    config.stash[LEFT_OUT]["files of tests need torch (./run check)"] = len(config.stash[IGNORED])
    return True


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, left_out = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        for marker in _markers(item):
            item.add_marker(marker)
        reason = _reason_to_leave_out(item)
        if reason:
            config.stash[LEFT_OUT][reason] += 1
        (left_out if reason else kept).append(item)
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items[:] = sorted(kept, key=lambda item: not _place(item).startswith(FIRST))
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def _place(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).as_posix() if item.path.is_relative_to(HERE) else ""


def _markers(item: pytest.Item) -> Iterator[str]:
    """What a test needs by its file, or by the case that it is run for."""
    yield from (marker for marker, files in MARKED_FILES.items() if _place(item) in files)
    case = _case(item)
    if getattr(case, "engine", "") or getattr(case, "name", "") == "milvus lite":
        yield "servers"
    if getattr(case, "needs", ""):
        yield "torch"


def _case(item: pytest.Item) -> object:
    """The store or the encoder that a test of a contract is run for."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    found = parameters.get("plug") or parameters.get("store") or parameters.get("case")
    cases: dict[object, object] = getattr(getattr(item, "module", None), "CASES", {})
    return cases.get(found, found) if isinstance(found, str) else found


def _reason_to_leave_out(item: pytest.Item) -> str:
    if "slow" in item.keywords and not item.config.getoption("--slow"):
        return "are the long forms of tests (--slow)"
    if item.config.getoption("--all"):
        return ""
    return next((f"{why} (./run check)" for marker, why in CHECK_ONLY.items() if marker in item.keywords), "")


def _group(item: pytest.Item) -> str:
    """Tests of one group share a worker, and so what their modules make once; the contract of stores goes by store."""
    if any(part in item.nodeid for part in MILVUS):
        return "milvus"
    return f"{item.path.name} {getattr(_case(item), 'name', '')}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Every worker collects all tests: what one of them left out is what the run did."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        left_out: Counter[str] = session.config.stash[LEFT_OUT]
        output["left_out"] = dict(left_out)


def pytest_testnodedown(node: Any) -> None:
    left_out: Counter[str] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))
    node.config.stash[LEFT_OUT] = left_out


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reasons = [f"{count} {reason}" for reason, count in sorted(config.stash[LEFT_OUT].items())]
    skipped = Counter(_skip_reason(report) for report in terminalreporter.stats.get("skipped", []))
    reasons += [f"{count} skipped: {reason}" for reason, count in sorted(skipped.items())]
    if reasons:
        terminalreporter.section("tests that did not run")
        for reason in reasons:
            terminalreporter.line(reason)


def _skip_reason(report: Any) -> str:
    place = report.longrepr
    text = str(place[2]) if isinstance(place, tuple) else str(place)
    return f"{text.removeprefix('Skipped: ')} ({Path(report.nodeid.split('::')[0]).name})"
