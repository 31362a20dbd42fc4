"""PostgreSQL with pgvector 0.6, which has neither halfvec nor iterative scans."""

from collections.abc import Callable

from tests.engines.pgvector import OLD, Server


def start() -> tuple[str, Callable[[], None]]:
    server = Server(OLD)
    return server.url, server.remove
