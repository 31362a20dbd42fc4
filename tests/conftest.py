"""What every test can rely on."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long forms of tests, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms out unless asked for."""
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="the long form: run it with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
