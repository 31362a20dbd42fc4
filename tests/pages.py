"""A web server with pictures and everything that stands in their place on the web."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Web:
    """What the server answers, by the first part of the path, and how often each path was asked for."""

    def __init__(self, pictures: Callable[[str], bytes]) -> None:
        self.pictures, self.asked = pictures, Counter[str]()
        self.url, self.most_at_once, self.at_once = "", 0, 0
        self.lock = threading.Lock()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        kind = request.path.split("/")[1]
        with self.lock:
            self.asked[request.path] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self._send(request, kind)
        finally:
            with self.lock:
                self.at_once -= 1

    def _send(self, request: BaseHTTPRequestHandler, kind: str) -> None:
        data = self.pictures(request.path)
        match kind:
            case "dead":
                _reply(request, 404, b"gone", {"Content-Type": "text/plain"})
            case "loop":
                _reply(request, 302, b"", {"Location": request.path})
            case "moved":
                _reply(request, 301, b"", {"Location": request.path.replace("moved", "ok")})
            case "page":
                _reply(request, 200, b"<html>", {"Content-Type": "text/html"})
            case "mislabelled":
                _reply(request, 200, b"<html>not a picture", {"Content-Type": "image/jpeg"})
            case "cut":
                _reply(request, 200, data[: len(data) // 2], {"Content-Length": str(len(data))})
                request.close_connection = True
            case "busy" if self.asked[request.path] == 1:
                _reply(request, 503, b"", {"Retry-After": "0"})
            case "slow":
                time.sleep(0.3)
                _reply(request, 200, data, {"Content-Type": "image/jpeg"})
            case _:
                _reply(request, 200, data, {"Content-Type": "image/jpeg"})


@contextmanager
def web(pictures: Callable[[str], bytes], address: str = "127.0.0.1") -> Iterator[Web]:
    """A running server; its `url` ends without a slash."""
    served = Web(pictures)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 256

        def handle_error(self, *_: Any) -> None:
            """Clients hang up on what they do not want."""

    server = Server((address, 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def _reply(request: BaseHTTPRequestHandler, status: int, data: bytes, headers: Mapping[str, str]) -> None:
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(data))} | dict(headers)).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(data)
