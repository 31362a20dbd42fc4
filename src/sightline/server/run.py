"""Run the application: one listening process, or several that share a port and the index."""

import socket
from functools import partial

import uvicorn
from uvicorn.supervisors import Multiprocess

from sightline.errors import UsageError
from sightline.server.app import create_app
from sightline.server.settings import Settings, check_address

_SHUTDOWN_S = 10
_BACKLOG = 512
_HEAD_BYTES = 64 * 1024
_MOST_CONNECTIONS = 800  # below the usual 1,024 files that a process may open; more get 503
_KEEP_ALIVE_S = 60  # longer than clients leave a connection idle, so that they, not we, end it


def serve(settings: Settings, *, host: str, port: int, workers: int) -> None:
    """Answer until SIGINT or SIGTERM; then finish what was begun, for ten seconds at most."""
    check_address(host, settings)
    config = uvicorn.Config(
        partial(create_app, settings),
        factory=True,
        http="h11",  # unlike httptools it bounds the head of a request
        h11_max_incomplete_event_size=_HEAD_BYTES,
        limit_concurrency=_MOST_CONNECTIONS,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    listening = _bind(host, port)
    try:
        if workers > 1:
            Multiprocess(config, sockets=[listening]).run()
        else:
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def _bind(host: str, port: int) -> socket.socket:
    """A socket whose connections send small answers at once.

    The protocol is named: asyncio turns Nagle's algorithm off only where it is. Else each answer waits 40 ms for the
    client's delayed acknowledgement (measured: 50 ms a query, not 5).
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.set_inheritable(True)
    except (OSError, OverflowError) as error:
        raise UsageError(f"port {port} of {host} cannot be used ({error}): choose another with --port") from error
    return listening
