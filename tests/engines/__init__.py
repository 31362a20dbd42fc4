"""Servers that the tests start from packages alone, once per run; a variable names a live one in place of it.

Each engine is a module here with `start() -> (url, stop)`; the URL is that of the server, without an index's name. It
calls `pytest.skip` with the reason where the server cannot be started.
"""

import atexit
import os
from functools import cache
from importlib import import_module


@cache
def engine_url(name: str) -> str:
    """The URL of a running engine; `SIGHTLINE_TEST_QDRANT_URL` and the like name one that runs already."""
    given = os.environ.get(f"SIGHTLINE_TEST_{name.upper()}_URL")
    if given:
        return given.rstrip("/")
    url, stop = import_module(f"tests.engines.{name}").start()
    atexit.register(stop)
    return str(url).rstrip("/")
