"""A call to a server turned into one that is tried again, with back-off and a cap, while the server is away."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from sightline.errors import StoreUnreachable

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
PATIENCE_S = 30.0

T = TypeVar("T")
_log = logging.getLogger(__name__)


def persist(
    call: Callable[[], T], *, is_passing: Callable[[Exception], bool], what: str, patience_s: float = PATIENCE_S
) -> T:
    """What the call gives; while it raises an error that `is_passing`, it is made again for up to `patience_s`.

    Pauses double from 0.2 s to 5 s, each drawn from its upper half, so that many clients do not return at once ("full
    jitter", halved). The call must be safe to repeat. Raises `StoreUnreachable` in the end, other errors at once.
    """
    until = time.monotonic() + patience_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except Exception as error:
            if not is_passing(error):
                raise
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise StoreUnreachable(
                    f"{what} does not answer ({_short(error)}) and did not for {patience_s:.0f} s, expected a running "
                    "server: start it, or check host, port and network; what was acknowledged is kept"
                ) from error
            _log.info("%s: %s; trying again", what, _short(error))
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _short(error: Exception) -> str:
    """The first line of an error, or its kind where it has no words; some clients print whole traces."""
    text = str(error).strip().split("\n", 1)[0][:200]
    return text or type(error).__name__
