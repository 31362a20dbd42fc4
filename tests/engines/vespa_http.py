"""Plain HTTP for the small Vespa: requests that become calls, answers in JSON or CBOR, ports that can be closed."""

import contextlib
import gzip
import json
import socket
import struct
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Answer(Exception):
    """What a request is answered with, where it is not 200."""

    def __init__(self, status: int, body: Any) -> None:
        self.status, self.body = status, body


class Calls(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    engine: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        path, parameters = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
        try:
            status, answer = 200, self.call(path.path, {name: values[0] for name, values in parameters.items()}, body)
        except Answer as other:
            status, answer = other.status, other.body
        content, kind = (answer, "application/octet-stream") if isinstance(answer, bytes) else self._encoded(answer)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _encoded(self, answer: Any) -> tuple[bytes, str]:
        if "application/cbor" in self.headers.get("Accept", ""):
            return cbor(answer), "application/cbor"
        return json.dumps(answer).encode(), "application/json"

    def call(self, path: str, parameters: Mapping[str, str], body: bytes) -> Any:
        raise NotImplementedError


class Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections = set[Any]()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # somebody hung up


def close(server: Server) -> None:
    """Stop listening, and hang up on those who are connected."""
    server.shutdown()
    server.server_close()
    for connection in list(server.connections):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def cbor(value: Any) -> bytes:
    """RFC 8949, with doubles and definite lengths."""
    if isinstance(value, bool) or value is None:
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return _head(3, len(data)) + data
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(cbor, value))
    return _head(5, len(value)) + b"".join(cbor(name) + cbor(one) for name, one in value.items())


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    size, code = next((size, code) for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)) if number < 1 << 8 * size)
    return bytes([major << 5 | code]) + number.to_bytes(size)
