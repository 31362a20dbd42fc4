"""A real HTTP server on this machine that speaks the hub's protocol and serves model folders; it can misbehave."""

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.serving import answering

COMMIT = "c0ffee" * 6 + "beef"
LARGE_BYTES = 10_000
"""Files from here on are announced with their SHA-256, as the hub does for what lies in its large file storage."""


@dataclass
class Asked:
    """One request: the path, where it wants to start, and the token that came with it."""

    path: str
    start: int
    token: str


@dataclass
class FakeHub:
    """What the server serves, how it misbehaves, and what it was asked."""

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cut_after: int | None = None
    """Close the connection after so many bytes of each file."""
    cuts_left: int = 1000
    garbles: bool = False
    """Serve other bytes than announced."""
    ignores_range: bool = False
    pause_s: float = 0.0
    """Between the first bytes of an answer."""
    status: int = 200
    answer: bytes | None = None
    """What to say instead of the list of files."""
    file_status: int = 200
    """What files are answered with."""
    busy_files: int = 0
    """So many requests for files are answered by 429."""
    resolves_cached: bool = False
    """Files are answered by 307 to another path of the same host."""
    card: dict[str, str] = field(default_factory=dict)
    """What the model's card says, such as its licence."""
    needed_token: str = ""
    clients: set[int] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)
    endpoint: str = ""
    elsewhere: str = ""
    """Another server that files are to be fetched from."""

    def add(self, repository: str, folder: Path, **more: bytes) -> None:
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.models[repository] = files | more

    def fetched(self) -> list[Asked]:
        return [one for one in self.asked if "/resolve/" in one.path]


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub, answering at `hub.endpoint`."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with answering(handler) as address:
        hub.endpoint = f"http://{address}"
        yield hub


@contextmanager
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def refusing() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        begins = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0]
        self.hub.asked.append(Asked(self.path, int(begins), self.headers.get("Authorization", "")))
        self.hub.clients.add(self.client_address[1])
        is_cached = self.path.startswith("/api/resolve-cache/")
        parts = self.path.removeprefix("/api/resolve-cache").split("?")[0].strip("/").split("/")
        is_list = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if is_list else parts[:2])
        if self.hub.status != 200 or repository not in self.hub.models:
            self._send(self.hub.status if self.hub.status != 200 else 404, b'{"error":"no"}')
        elif is_list:
            self._send(200, self._listing(repository) if self.hub.answer is None else self.hub.answer)
        elif self.hub.needed_token != self.headers.get("Authorization", "") and self.hub.needed_token:
            self._send(401, b"")
        elif self.hub.file_status != 200:
            self._send(self.hub.file_status, b"")
        elif self.hub.busy_files > 0:
            self.hub.busy_files -= 1
            self._send(429, b"", **{"Retry-After": "0"})
        elif self.hub.resolves_cached and not is_cached:
            self._send(307, b"", Location=f"/api/resolve-cache{self.path}")
        elif self.hub.elsewhere:
            self._send(302, b"", Location=self.hub.elsewhere + self.path)
        else:
            self._file(self.hub.models[repository]["/".join(parts[4:])], int(begins))

    def _listing(self, repository: str) -> bytes:
        siblings = []
        for name, data in self.hub.models[repository].items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            sibling: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob}
            if len(data) >= LARGE_BYTES:
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(sibling)
        return json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings, "cardData": self.hub.card}).encode()

    def _file(self, data: bytes, start: int) -> None:
        start = 0 if self.hub.ignores_range else start
        body = data[start:]
        if self.hub.garbles:
            body = bytes(byte ^ 1 for byte in body)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.hub.cut_after is not None and self.hub.cuts_left > 0 and len(body) > self.hub.cut_after:
            self.hub.cuts_left -= 1
            self.wfile.write(body[: self.hub.cut_after])
            self.close_connection = True
            return
        self.wfile.write(body)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        dripped = 20 if self.hub.pause_s else 0
        for byte in body[:dripped]:
            self.wfile.write(bytes([byte]))
            time.sleep(self.hub.pause_s)
        self.wfile.write(body[dripped:])
