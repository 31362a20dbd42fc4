"""Waiting for a state, for as long as a busy machine may take."""

import asyncio
import time
from collections.abc import Callable

BUSY_S = 30.0
"""So long may a busy machine take for what takes an idle one a second."""


def until(is_so: Callable[[], object]) -> None:
    """Return as soon as it is so."""
    end = time.monotonic() + BUSY_S
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {BUSY_S:g} s")
        time.sleep(0.01)


async def until_here(is_so: Callable[[], object]) -> None:
    """The same within an event loop, which goes on meanwhile."""
    end = time.monotonic() + BUSY_S
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {BUSY_S:g} s")
        await asyncio.sleep(0.001)
