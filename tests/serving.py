"""Real servers on real ports, for the tests of the API and of the page."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def answering(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a small server on this machine. It ends with the block however that ends, and keeps no process."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    process: "subprocess.Popen[bytes]"

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, data: bytes | None = None, **headers: str
    ) -> Answer:
        """GET, or POST of a JSON body; header names are written with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            data, sent = json.dumps(body).encode(), {"Content-Type": "application/json", **sent}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return Answer(reply.status, reply.headers, reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def send(self, path: str, files: Sequence[tuple[str, str, bytes]], **headers: str) -> Answer:
        """POST a form: (part, file name, bytes); a part without a file name is text."""
        boundary = uuid4().hex
        parts = []
        for part, name, data in files:
            file_name = f'; filename="{name}"' if name else ""
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{part}"{file_name}\r\n'
            parts.append(head.encode() + (b"Content-Type: application/octet-stream\r\n" if name else b"") + b"\r\n")
            parts.append(data + b"\r\n")
        body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
        return self.ask(path, data=body, Content_Type=f"multipart/form-data; boundary={boundary}", **headers)


@contextmanager
def serving(
    index: Path | str, *options: str, cache: Path, is_ready: bool = True, **environment: str
) -> Iterator[Server]:
    """`sightline serve` as a process of its own, ended by SIGTERM."""
    port = free_port()
    command = [sys.executable, "-m", "sightline", "serve", "--index", str(index), "--port", str(port), *options]
    with _running(command, port, cache, is_ready=is_ready, **environment) as server:
        yield server


@contextmanager
def serving_with(index: Path | str, settings: str, *, cache: Path, **environment: str) -> Iterator[Server]:
    """The same with settings that the command line does not offer: Python's keyword arguments of `ServerSettings`."""
    port = free_port()
    code = (
        "from sightline.server.app import serve\n"
        "from sightline.server.settings import Limits, ServerSettings\n"
        "from sightline.stores.url import StoreUrl\n"
        f"settings = ServerSettings(indexes=(StoreUrl({str(index)!r}),), {settings})\n"
        f"serve(settings, host='127.0.0.1', port={port}, workers=1)"
    )
    with _running([sys.executable, "-c", code], port, cache, is_ready=True, **environment) as server:
        yield server


@contextmanager
def _running(command: Sequence[str], port: int, cache: Path, *, is_ready: bool, **environment: str) -> Iterator[Server]:
    more = {"SIGHTLINE_OFFLINE": "1", "SIGHTLINE_CACHE": str(cache), **environment}
    with (cache / f"server-{port}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | more)
        server = Server(f"http://127.0.0.1:{port}", process)
        try:
            wait_for(server, "/readyz" if is_ready else "/healthz", Path(log.name))
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def wait_for(server: Server, path: str, log: Path) -> None:
    """Until the server answers 200."""
    for _ in range(600):
        if server.process.poll() is not None:
            raise RuntimeError(log.read_text("utf-8"))
        try:
            if server.ask(path).status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise TimeoutError(log.read_text("utf-8"))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
