"""What the server does not do for strangers: fetch from its own network, wait for ever, guess at misspelt fields."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from tests.pictures import encoded, scene
from tests.serving import Answer, Server, answering, serving, serving_with

from sightline.exchange.files import load, write_folder
from sightline.index import Index
from sightline.types import record_id
from sightline.web.addresses import is_public

ONE_ADDRESS = "urls=Limits(total_s=1.5, size_bytes=200_000, may_reach=lambda address: str(address) == '127.0.0.1')"


INNER = """
127.0.0.1 127.1 2130706433 0x7f000001 0177.0.0.1 localhost 127.0.0.2 0.0.0.0 0 10.0.0.1 172.16.0.1 192.168.1.1
169.254.169.254 100.64.0.1 192.0.0.192 168.63.129.16 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255
[::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::7f00:1] [2002:7f00:1::1] [fe80::1] [fd00::1]
[ff02::1] 192.88.99.1 [3fff::1] [2001:20::1] [2620:4f:8000::1]
""".split()


class Site(BaseHTTPRequestHandler):
    """A web site with a picture, redirects, and pages that never end; `seen` is what was asked of it."""

    seen: list[str] = []  # noqa: RUF012  one site for all tests
    picture = encoded(scene(3), "JPEG")

    def do_GET(self) -> None:
        self.seen.append(self.path)
        name, _, rest = self.path.partition("?")
        if name == "/redirect":
            return self.say(302, b"", Location=rest)
        if name == "/text":
            return self.say(200, b"only text")
        if name == "/large":
            return self.say(200, bytes(300_000))
        if name == "/endless":
            return self.forever(b"Content-Type: image/jpeg\r\n\r\n", bytes(65536), 0)
        if name == "/slow":
            return self.forever(b"Content-Length: 100000\r\n\r\n", b"x", 0.1)
        if name == "/slow-head":
            return self.forever(b"X-Slow: ", b"x", 0.1)
        if name == "/chunked":
            size = f"{len(self.picture):x}".encode()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.wfile.write(size + b"\r\n" + self.picture + b"\r\n0\r\n\r\n")
            return None
        return self.say(200, self.picture) if name == "/picture.jpg" else self.say(404, b"")

    def say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def forever(self, head: bytes, piece: bytes, pause_s: float) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + head)
        try:
            while True:
                self.wfile.write(piece)
                time.sleep(pause_s)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with answering(Site) as address:
        yield address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        scene(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "photos.index"
    with Index(str(path), model="pixels") as opened:
        opened.add(folder)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def strict(index: Path, cache: Path) -> Iterator[Server]:
    with serving(index, "--allow-url-queries", cache=cache) as running:
        yield running


@pytest.fixture(scope="module")
def lenient(index: Path, cache: Path) -> Iterator[Server]:
    """Fetches from one address of this machine, and is short of patience."""
    with serving_with(index, f"{ONE_ADDRESS}, patience_s=1.0", cache=cache) as running:
        yield running


def by_url(server: Server, url: str) -> Answer:
    return server.ask("/api/search", {"image_url": url, "k": 1})


def test_urls_are_not_fetched_unless_it_was_allowed(index: Path, cache: Path, site: str) -> None:
    before = list(Site.seen)
    with serving(index, cache=cache) as running:
        for body in ({"image_url": f"http://{site}/picture.jpg"}, {"terms": [{"image_url": f"http://{site}/"}]}):
            answer = running.ask("/api/search", body)
            assert answer.status == 403
            assert "--allow-url-queries" in answer.json["detail"]
    assert Site.seen == before


def test_a_url_finds_what_its_picture_finds(lenient: Server, site: str, folder: Path) -> None:
    expected = record_id((folder / "3.png").as_uri())
    for page in (
        "/picture.jpg",
        "/chunked",
        "/redirect?/picture.jpg",
        f"/redirect?http://{site}/redirect?/picture.jpg",
    ):
        answer = by_url(lenient, f"http://{site}{page}")
        assert answer.status == 200, answer.body
        assert answer.json["hits"][0]["id"] == expected
    both = {"terms": [{"image_url": f"http://{site}/picture.jpg", "weight": 2}], "k": 1}
    assert lenient.ask("/api/search", both).json["hits"][0]["id"] == expected


@pytest.mark.parametrize("host", INNER)
def test_no_address_of_an_inner_network_is_asked(strict: Server, site: str, host: str) -> None:
    before = len(Site.seen)
    answer = by_url(strict, f"http://{host}:{site.rsplit(':', 1)[1]}/picture.jpg")
    if answer.status == 422:  # this machine's resolver does not take the notation, or knows no IPv6
        assert "is not known" in answer.json["detail"]
    else:
        assert (answer.status, "open Internet" in answer.json["detail"]) == (403, True)
    assert len(Site.seen) == before


@pytest.mark.parametrize("text", ["93.184.215.14", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_the_open_internet_may_be_asked(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("to", ["http://127.0.0.2:{port}/picture.jpg", "//0.0.0.0:{port}/picture.jpg"])
def test_a_redirect_is_checked_like_the_first_address(lenient: Server, site: str, to: str) -> None:
    before = len(Site.seen)
    answer = by_url(lenient, f"http://{site}/redirect?{to.format(port=site.rsplit(':', 1)[1])}")
    assert (answer.status, "open Internet" in answer.json["detail"]) == (403, True)
    assert len(Site.seen) == before + 1


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("file:///etc/passwd", "expected http"),
        ("ftp://example.org/a.jpg", "expected http"),
        ("gopher://example.org/", "expected http"),
        ("http://", "expected http"),
        ("http://user:secret@127.0.0.1/", "no password"),
        ("http://127.0.0.1:99999/", "expected http"),
        ("http://[::1/", "expected http"),
        ("http://no.such.host.invalid/a.jpg", "is not known"),
        ("http://127.0.0.1:9/a.jpg", "cannot be reached"),
        ("http://SITE/nothing", "answers 404"),
        ("http://SITE/text", "not a picture but text"),
        ("http://SITE/large", "larger than 200 kB"),
        ("http://SITE/endless", "larger than 200 kB"),
        ("http://SITE/slow", "more than 1.5 s"),
        ("http://SITE/slow-head", "more than 1.5 s"),
        ("http://SITE/redirect?file:///etc/passwd", "expected http"),
        ("http://SITE/redirect?/redirect?/redirect?/redirect?/redirect?/redirect?/picture.jpg", "too many redirects"),
    ],
)
def test_what_cannot_be_fetched_gets_a_problem_in_time(lenient: Server, site: str, url: str, part: str) -> None:
    began = time.monotonic()
    answer = by_url(lenient, url.replace("SITE", site))
    assert answer.status == 422, answer.body
    assert part in answer.json["detail"]
    assert time.monotonic() - began < 5


def test_slow_urls_of_one_client_keep_no_other_out(index: Path, cache: Path, site: str) -> None:
    settings = f"{ONE_ADDRESS.replace('1.5', '20.0')}, trusted_proxies=('127.0.0.1',)"
    slow, quick = f"http://{site}/slow", f"http://{site}/picture.jpg"
    with serving_with(index, settings, cache=cache) as running, ThreadPoolExecutor(9) as pool:

        def ask(client: str, url: str) -> Answer:
            return running.ask("/api/search", {"image_url": url, "k": 1}, X_Forwarded_For=client)

        before = Site.seen.count("/slow")
        waiting = [pool.submit(ask, "192.0.2.1", slow) for _ in range(8)]
        while Site.seen.count("/slow") < before + 8:
            time.sleep(0.05)
        refused = ask("192.0.2.1", quick)
        assert refused.status == 503  # all places are its own
        for client in ("192.0.2.2", "2001:db8::1"):
            assert ask(client, quick).status == 200
        assert sorted(answer.result().status for answer in waiting) == [422] * 7 + [503]


def test_who_leaves_gives_the_place_of_a_slow_url_back(index: Path, cache: Path, site: str) -> None:
    with serving_with(index, ONE_ADDRESS.replace("1.5", "60.0"), cache=cache) as running:
        body = json.dumps({"image_url": f"http://{site}/slow"}).encode()
        head = "POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        for _ in range(3):
            leaving = [connect(running) for _ in range(8)]
            for connection in leaving:
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(0.5)
            for connection in leaving:
                connection.close()
        until = time.monotonic() + 10
        while (found := by_url(running, f"http://{site}/picture.jpg")).status == 503 and time.monotonic() < until:
            time.sleep(0.05)
        assert found.status == 200


def test_all_urls_of_a_query_have_the_time_of_one(lenient: Server, site: str) -> None:
    began = time.monotonic()
    terms = [{"image_url": f"http://{site}/{page}"} for page in ("picture.jpg", *["slow"] * 20)]
    answer = lenient.ask("/api/search", {"terms": terms})
    assert answer.status == 422
    assert "takes more than 1.5 s" in answer.json["detail"]
    assert time.monotonic() - began < 10


def test_a_name_is_looked_up_once_and_what_was_checked_is_asked(site: str) -> None:
    code = """
import asyncio, sys
from sightline.server.incoming import Fetcher
from sightline.server.settings import Limits
events = []
sys.addaudithook(lambda name, given: events.append((name, given)) if name.startswith("socket.") else None)
checked = []
limits = Limits(may_reach=lambda address: not checked.append(str(address)))
(data,) = asyncio.run(Fetcher(limits).fetch([f"http://localhost:{sys.argv[1]}/picture.jpg"], "somebody"))
looked_up = [given[0] for name, given in events if name == "socket.getaddrinfo"]
asked = [given[1][0] for name, given in events if name == "socket.connect"]
assert data[:2] == b"\\xff\\xd8" and looked_up == ["localhost"] and asked and set(asked) <= set(checked), events
"""
    command = [sys.executable, "-c", code, site.rsplit(":", 1)[1]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=10)


def test_a_head_without_end_is_cut_off(lenient: Server) -> None:
    with connect(lenient) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        sent, answer = 0, b""
        connection.setblocking(False)
        until = time.monotonic() + 20
        while not answer and sent < 20 * 2**20 and time.monotonic() < until:
            with suppress(BlockingIOError, ConnectionError):
                sent += connection.send(b"X: a\r\n" * 1000)
            with suppress(BlockingIOError):
                answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 "), (sent, answer)
    assert lenient.ask("/healthz").status == 200


@pytest.mark.parametrize("path", ["/api/search", "/api/images", "/api/classify"])
def test_a_body_that_trickles_in_ends_with_408(lenient: Server, path: str) -> None:
    is_form = path == "/api/images"
    kind = "multipart/form-data; boundary=x" if is_form else "application/json"
    with connect(lenient) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
        part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' if is_form else "{"
        connection.sendall((head + part).encode())
        connection.setblocking(False)
        answer, until = b"", time.monotonic() + 8
        while not answer and time.monotonic() < until:
            try:
                answer = connection.recv(4096)
            except BlockingIOError:
                connection.sendall(b" ")
                time.sleep(0.1)
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert b"application/problem+json" in answer


def test_a_slow_but_steady_upload_is_waited_for(lenient: Server) -> None:
    body = json.dumps({"image": "A" * 200_000}).encode()
    with connect(lenient) as connection:
        head = "POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for at in range(0, len(body), 10_000):
            connection.sendall(body[at : at + 10_000])
            time.sleep(0.1)  # 100 kB/s: two seconds in all
        assert connection.recv(100).startswith(b"HTTP/1.1 422 ")


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ({"widht": 3}, "did you mean 'width'?"),
        ({"$and": [{"width": 3}, {"$or": [{"nonsense": {"$gte": 1}}]}]}, "'nonsense'"),
        ({"$not": {"colour": "red"}}, "'colour'"),
    ],
)
def test_a_field_that_no_picture_has_is_said_with_those_there_are(strict: Server, where: object, part: str) -> None:
    body = {"terms": [{"image_id": strict.ask("/api/images?k=1").json["hits"][0]["id"]}], "where": where}
    for answer in (
        strict.ask("/api/search", body),
        strict.ask("/api/scores", body),
        strict.ask(f"/api/images?where={json.dumps(where).replace(' ', '')}"),
    ):
        assert answer.status == 422, answer.body
        assert part in answer.json["detail"]
        assert "folders, format, height" in answer.json["detail"]


def test_a_field_counts_as_soon_as_one_picture_has_it(index: Path, strict: Server) -> None:
    assert strict.ask('/api/images?where={"mood":"calm"}').status == 422
    assert strict.ask('/api/images?where={"mood":{"$exists":false}}').json["total_estimate"] == 6
    assert strict.ask('/api/images?where={"camera":"none"}').json["total_estimate"] == 0
    with Index(str(index)) as opened:
        (record, *_) = opened.store.scan()
        opened.store.upsert([type(record)(record.id, record.uri, record.vector, {**record.payload, "mood": "calm"})])
    assert strict.ask('/api/images?where={"mood":"calm"}').json["total_estimate"] == 1


def test_an_index_without_pictures_takes_any_field(tmp_path: Path, cache: Path) -> None:
    with Index(str(tmp_path / "empty.index"), model="pixels") as opened:
        opened.add([])
    with serving(tmp_path / "empty.index", cache=cache) as running:
        assert running.ask('/api/images?where={"anything":1}').json["total_estimate"] == 0


def stalled_s(server: Server, path: str, body: bytes) -> tuple[float, Answer]:
    """For how long the server gives no sign of life while it is busy with that body."""
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(server.ask, path, data=body, Content_Type="application/json")
        longest = 0.0
        while not sending.done():
            began = time.monotonic()
            assert server.ask("/healthz").status == 200
            longest = max(longest, time.monotonic() - began)
        return longest, sending.result()


@pytest.mark.parametrize(
    ("path", "start", "part", "end"),
    [
        ("/api/search", '{"where": {"a": [', "{},", "{}]}}"),
        ("/api/search", '{"where": {"$and": [', "1,", "1]}}"),
        ("/api/search", '{"terms": [', "1,", "1]}"),
        ("/api/embeddings", '{"texts": [', "1,", "1]}"),
        ("/api/classify", '{"labels": [', '"a",', '"a"]}'),
    ],
)
def test_a_body_of_millions_of_parts_is_refused_before_it_is_parsed(
    strict: Server, path: str, start: str, part: str, end: str
) -> None:
    answer = strict.ask(path, data=(start + part * 5_000_000 + end).encode(), Content_Type="application/json")
    assert answer.status == 413
    assert "more than 400,000 values" in answer.json["detail"]


def test_no_request_silences_the_server(strict: Server) -> None:
    calm = max(stalled_s(strict, "/api/search", b'{"text": "a"}')[0] for _ in range(3))
    keys = "{" + ",".join(f'"k{number}":1' for number in range(390_000)) + "}"
    for body in (keys, '{"where":{"a":[' + "{}," * 190_000 + "{}]}}", '{"image":"' + "A" * 60_000_000 + '"}'):
        longest, answer = stalled_s(strict, "/api/search", body.encode())
        assert answer.status == 422
        assert len(answer.body) < 20_000
        assert longest < 3 + 10 * calm  # 22 s before; a busy machine may stretch it


def test_errors_are_listed_up_to_a_number(strict: Server) -> None:
    answer = strict.ask("/api/embeddings", {"texts": [1] * 250})
    assert (answer.status, len(answer.json["errors"])) == (422, 20)


def test_bodies_that_are_held_have_a_bound_together(index: Path, cache: Path) -> None:
    with serving_with(index, "max_upload_bytes=1_000_000, patience_s=30.0", cache=cache) as running:
        head = "POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += "Content-Length: 999999\r\n\r\n"
        waiting = [connect(running) for _ in range(20)]
        for connection in waiting:
            connection.sendall(head.encode() + b" " * 900_000)
        time.sleep(0.5)
        waiting[-1].sendall(b" " * 99_999)
        assert waiting[-1].recv(100).startswith(b"HTTP/1.1 503 ")
        for connection in waiting:
            connection.close()
        until = time.monotonic() + 10
        while running.ask("/api/search", {"text": "a" * 2000}).status == 503 and time.monotonic() < until:
            time.sleep(0.1)
        assert running.ask("/api/search", data=b" " * 900_000 + b"{}", Content_Type="application/json").status == 422


@pytest.mark.skipif(os.name != "posix", reason="the number of open files is bounded on Unix")
def test_a_burst_of_silent_connections_keeps_nobody_out(index: Path, cache: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # what the server inherits
    try:
        with serving(index, cache=cache) as running:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
            silent = list[socket.socket]()
            for number in range(1500):
                silent.append(connect(running))
                silent[-1].sendall(b"GET / HTTP/1.1\r\n" if number % 2 else b"")
                if number % 300 == 299:
                    began = time.monotonic()
                    assert running.ask("/healthz").status == 200
                    assert time.monotonic() - began < 5
            if sys.platform == "linux":
                assert len(list(Path(f"/proc/{running.process.pid}/fd").iterdir())) < 1000
            for connection in silent:
                connection.close()
            log = (cache / f"server-{running.url.rsplit(':', 1)[1]}.log").read_text("utf-8")
            assert "Too many open files" not in log
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_keys_cannot_be_guessed_quickly(index: Path, cache: Path) -> None:
    with serving(index, cache=cache, SIGHTLINE_API_KEY="the-right-key") as running:
        right: dict[str, Any] = {"Authorization": "Bearer the-right-key"}
        assert running.ask("/api/status", **right).status == 200
        paths = ("/api/status", "/api/session")
        guesses = [
            running.ask(
                path, method="POST" if "session" in path else "GET", Authorization=f"Bearer guess-{number}-{path}"
            )
            for number in range(40)
            for path in paths
        ]
        statuses = [answer.status for answer in guesses]
        assert statuses[:10] == [401] * 10
        assert statuses.count(401) < 30
        assert statuses[-1] == 429
        assert int(guesses[-1].headers["Retry-After"]) >= 1
        assert running.ask("/api/status", **right).status == 200  # who had the key before is not kept out
        assert running.ask("/api/status").status == 401  # no key is no guess
        repeated = [running.ask("/api/status", Authorization="Bearer guess-1-/api/status").status for _ in range(5)]
        assert repeated == [401] * 5  # an old cookie of a page, sent with each picture, is one guess


def test_an_open_server_names_no_index_to_strangers(tmp_path: Path, cache: Path) -> None:
    with serving(tmp_path / "secret-name", cache=cache, is_ready=False, SIGHTLINE_API_KEY="the-right-key") as running:
        answer = running.ask("/readyz")
        assert answer.status == 503
        assert b"secret-name" not in answer.body


def test_of_several_uploads_the_broken_ones_are_named(tmp_path: Path, cache: Path, index: Path) -> None:
    good = encoded(scene(90), "PNG")
    with serving_with(
        index, f"uploads=__import__('pathlib').Path({str(tmp_path / 'uploads')!r})", cache=cache
    ) as running:
        answer = running.send(
            "/api/images", [("files", "a.png", good), ("files", "b.jpg", b"\xff\xd8\xff broken"), ("files", "c", b"c")]
        )
        assert answer.status == 422
        assert [error["where"] for error in answer.json["errors"]] == ["file 2 of 3, 'b.jpg'", "file 3 of 3, 'c'"]
        assert "b.jpg" in answer.json["detail"]
        assert not list(tmp_path.glob("uploads/*/*"))


def built(path: Path, folder: Path, count: int) -> Path:
    with Index(str(path), model="pixels") as opened:
        opened.add(sorted(folder.glob("*.png"))[0] if count == 1 else folder)
    return path


def pictures_of(running: Server) -> int:
    return int(running.ask("/api/images?k=100").json["total_estimate"])


def test_an_index_that_is_replaced_or_deleted_is_followed_within_a_second(
    tmp_path: Path, folder: Path, cache: Path
) -> None:
    path, new = built(tmp_path / "some.index", folder, 6), built(tmp_path / "new.index", folder, 1)
    query = {"image": base64.b64encode(encoded(scene(5), "PNG")).decode()}
    with serving(path, cache=cache) as running:
        assert len(running.ask("/api/search", query).json["hits"]) == pictures_of(running) == 6
        path.rename(tmp_path / "old.index")
        new.rename(path)
        time.sleep(1)
        assert len(running.ask("/api/search", query).json["hits"]) == pictures_of(running) == 1
        assert running.ask("/api/status").json["indexes"][0]["pictures"] == 1
        assert running.ask("/readyz").status == 200
        uploaded = running.send("/api/images", [("files", "x.png", encoded(scene(80), "PNG"))])
        assert uploaded.status == 201, uploaded.body
        assert pictures_of(running) == 2
        shutil.rmtree(path)
        time.sleep(1)
        for answer in (running.ask("/api/search", query), running.ask("/api/images"), running.ask("/readyz")):
            assert answer.status == 503
        assert "no index" in running.ask("/api/search", query).json["detail"]
        (tmp_path / "old.index").rename(path)
        assert running.ask("/readyz").status == 200
        assert len(running.ask("/api/search", query).json["hits"]) == 6


@pytest.mark.parametrize("file", ["vectors-0.int8", "vectors-0.float32", "index.sqlite"])
def test_a_shortened_file_is_an_error_and_not_the_end(tmp_path: Path, folder: Path, cache: Path, file: str) -> None:
    path = built(tmp_path / "some.index", folder, 6)
    query = {"image": base64.b64encode(encoded(scene(5), "PNG")).decode()}
    with serving(path, cache=cache) as running:
        assert running.ask("/api/search", query).status == 200
        whole = (path / file).read_bytes()
        os.truncate(path / file, 100)
        for _ in range(3):
            answer = running.ask("/api/search", query)
            assert answer.status in (500, 503), answer.body
            assert answer.json["detail"]
        (path / file).write_bytes(whole)
        assert running.ask("/api/search", query).status == 200
        assert running.process.poll() is None


@pytest.mark.skipif(os.name != "posix", reason="permissions are of Unix")
def test_indexes_and_uploads_are_for_their_owner(tmp_path: Path, folder: Path, cache: Path) -> None:
    path = built(tmp_path / "some.index", folder, 6)
    with serving(path, cache=cache) as running:
        assert running.send("/api/images", [("files", "x.png", encoded(scene(81), "PNG"))]).status == 201
        uploads = tmp_path / "some.index.uploads"
        assert {place.stat().st_mode & 0o777 for place in (path, uploads)} == {0o700}
        files = [*path.glob("index.sqlite*"), *path.glob("vectors-*"), *uploads.glob("*/*")]
        assert len(files) >= 4
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_imported_records_show_no_file_outside_of_the_roots(tmp_path: Path, folder: Path, cache: Path) -> None:
    private = tmp_path / "private.png"
    scene(70).save(private)
    with Index(str(tmp_path / "theirs.index"), model="pixels") as theirs:
        theirs.add(private)
        write_folder(theirs.store, tmp_path / "files")
    path = built(tmp_path / "some.index", folder, 6)
    load(tmp_path / "files", str(path))
    identity, own = record_id(private.as_uri()), record_id((folder / "1.png").as_uri())
    for options, status in (((), 403), (("--root", str(tmp_path)), 200)):
        with serving(path, *options, cache=cache) as running:
            assert running.ask(f"/api/images/{identity}/file").status == status
            assert running.ask(f"/api/images/{identity}/thumbnail?size={160 if options else 320}").status == status
            assert running.ask(f"/api/images/{own}/file").status == 200


def test_files_of_uploads_that_never_ended_are_removed(tmp_path: Path, folder: Path, cache: Path) -> None:
    path, uploads = built(tmp_path / "some.index", folder, 6), tmp_path / "some.index.uploads"
    with serving(path, cache=cache) as running:
        kept = running.send("/api/images", [("files", "x.png", encoded(scene(60), "PNG"))]).json["pictures"][0]
        assert not list(uploads.glob("*/.*"))
    (recorded,) = uploads.glob("*/*.png")
    names = {"old": recorded.parent / "old.png", "new": recorded.parent / "new.png", "recorded": recorded}
    for name, file in names.items():
        file.write_bytes(recorded.read_bytes())
        mark = file.with_name(f".{file.name}.new")
        mark.touch()
        if name != "new":
            os.utime(mark, (0, 0))
    with serving(path, cache=cache) as running:
        assert running.ask(kept["links"]["file"]).status == 200
        until = time.monotonic() + 10
        while names["old"].exists() and time.monotonic() < until:
            time.sleep(0.05)
    assert sorted(file.name for file in uploads.glob("*/*.png")) == sorted([recorded.name, "new.png"])


def test_the_description_says_where_a_key_is_needed(index: Path, cache: Path) -> None:
    cases: list[tuple[dict[str, Any], list[Any]]] = [
        ({}, [{}, {"key": []}]),
        ({"SIGHTLINE_API_KEY": "the-right-key"}, [{"key": []}]),
    ]
    for environment, needed in cases:
        with serving(index, cache=cache, **environment) as running:
            paths = running.ask("/openapi.json").json["paths"]
            assert paths["/api/search"]["post"]["security"] == needed
            assert paths["/healthz"]["get"]["security"] == []


def test_long_texts_of_one_request_are_one_line_of_the_log(
    index: Path, cache: Path, tmp_path: Path, folder: Path
) -> None:
    with Index(str(tmp_path / "words.index"), model="mini") as opened:
        opened.add(folder)
    with serving(tmp_path / "words.index", cache=cache) as running:
        texts = [f"number {number} " + "word " * 390 for number in range(50)]
        assert running.ask("/api/embeddings", {"texts": texts}).status == 200
        log = (cache / f"server-{running.url.rsplit(':', 1)[1]}.log").read_text("utf-8")
    assert log.count("is too long") == 1
    assert "49 more" in log
