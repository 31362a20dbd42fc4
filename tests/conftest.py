"""What every test can rely on: which tests a run takes, which worker each goes to, and an account of what was left out.

`./run test` leaves out what only `./run check` runs: tests marked `torch`, `servers` or `browser`.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

CHECK_ONLY = {
    "torch": "need torch",
    "servers": "start a database server or a cluster",
    "browser": "drive a browser",
    "long": "take long",
}
LEFT_OUT = pytest.StashKey[Counter[str]]()
MILVUS = ("test_milvus.py", "[milvus]", "[milvus-")
"""What may start the one Milvus server that a machine can run: all of it goes to one worker."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run what `./run check` runs, too: torch, servers, a browser")
    parser.addoption("--slow", action="store_true", help="run the long forms of tests, too")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, left_out = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        reason = _reason_to_leave_out(item)
        if reason:
            config.stash[LEFT_OUT][reason] += 1
        (left_out if reason else kept).append(item)
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if left_out:
        items[:] = kept
        config.hook.pytest_deselected(items=left_out)


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
    plug = getattr(getattr(item, "callspec", None), "params", {})
    store = plug.get("plug") or plug.get("store")
    return f"{item.path.name} {getattr(store, 'name', '')}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Every worker collects all tests: what one of them left out is what the run did."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash[LEFT_OUT])


def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reasons = [f"{count} that {reason}" for reason, count in sorted(config.stash[LEFT_OUT].items())]
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
