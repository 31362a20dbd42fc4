"""HTTP connections with a bound on how many there are, and on how long the head of a request may take to come."""

import asyncio
from functools import partial

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST = 800  # below the usual 1,024 files that a process may open
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself waits for ever; it has no other hook, hence the inheritance."""

    def __init__(self, *given: object, patience_s: float, **named: object) -> None:
        super().__init__(*given, **named)  # type: ignore[arg-type]
        self._patience_s = patience_s
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection; one that still owes its request makes room for it where there are too many."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > _MOST:
            owing = (other for other in self.connections if isinstance(other, PatientProtocol) and other._waiting)
            next(owing, self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request: called by the parser."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """The head is there: called by the parser."""
        self._stop_waiting()
        super().on_headers_complete()

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self._patience_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.write(_TIMEOUT)
            self.transport.close()


def protocol(patience_s: float) -> "partial[PatientProtocol]":
    """What uvicorn calls for each connection."""
    return partial(PatientProtocol, patience_s=patience_s)
