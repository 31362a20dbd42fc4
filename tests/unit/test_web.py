"""The one HTTP client: what is tried again, what is kept from whom, and what is never reached."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.hubs import refusing, silent
from tests.serving import answering

from sightline.errors import AddressRefused, WebError, WrongContent
from sightline.web import download as downloads
from sightline.web.addresses import AddressGuard, is_public
from sightline.web.client import HttpClient, Retries, fetch_json, see_that_it_answers
from sightline.web.download import Expected, download

DATA = bytes(range(256)) * 400


class Site(BaseHTTPRequestHandler):
    """Answers by the path; `asked` holds the requests in their order."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, str], float]] = []  # noqa: RUF012  emptied before each test
    elsewhere = ""
    ports: set[int] = set()  # noqa: RUF012  of the clients

    def do_GET(self) -> None:
        self.asked.append((self.path, dict(self.headers), time.monotonic()))
        self.ports.add(self.client_address[1])
        times = sum(path == self.path for path, _, _ in self.asked)
        match self.path.split("/")[1]:
            case "busy" if times < 3:
                self.say(503, b"")
            case "wait" if times < 2:
                self.say(429, b"", Retry_After="1")
            case "odd-wait" if times < 2:
                self.say(429, b"", Retry_After="soon")
            case "here":
                self.say(307, b"", Location="/ok")
            case "elsewhere":
                self.say(302, b"", Location=f"http://{self.elsewhere}/ok")
            case "umlaut":
                self.say(302, b"", Location="/äöü".encode().decode("latin-1"))
            case "large":
                self.say(200, DATA)
            case "cut" if times < 3:
                self.say(200, DATA[: len(DATA) // 2], Content_Length=str(len(DATA)))
                self.close_connection = True
            case "file":
                self.file()
            case _:
                self.say(200, self.path.encode())

    def file(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        piece = DATA[start : start + 40_000]  # each answer is cut off
        self.say(206 if start else 200, piece, Content_Length=str(len(DATA) - start))
        self.close_connection = True

    def say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def site() -> Iterator[str]:
    with answering(Site) as address:
        yield f"http://{address}"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    Site.asked.clear()
    Site.ports.clear()
    with site() as url, answering(Site) as other:
        Site.elsewhere = other
        yield url


def paths() -> list[str]:
    return [path for path, _, _ in Site.asked]


def test_a_busy_server_is_asked_again(url: str) -> None:
    assert (
        HttpClient().fetch(f"{url}/busy", most_bytes=100, retries=Retries(3, within_s=9, pause_s=0.01)).data == b"/busy"
    )
    assert paths() == ["/busy"] * 3


def test_without_retries_a_server_is_asked_once(url: str) -> None:
    with pytest.raises(WebError, match="/busy answers 503") as caught:
        HttpClient().fetch(f"{url}/busy", most_bytes=100)
    assert (caught.value.status, caught.value.is_transient, paths()) == (503, True, ["/busy"])


def test_retry_after_is_honoured(url: str) -> None:
    HttpClient().fetch(f"{url}/wait", most_bytes=100, retries=Retries(3, within_s=9, pause_s=0))
    (_, _, first), (_, _, second) = Site.asked
    assert second - first >= 1


def test_retry_after_is_honoured_up_to_a_limit_and_nonsense_is_not(url: str) -> None:
    retries = Retries(3, within_s=9, pause_s=0, longest_wait_s=0.1)
    HttpClient().fetch(f"{url}/wait", most_bytes=100, retries=retries)
    HttpClient().fetch(f"{url}/odd-wait", most_bytes=100, retries=retries)
    assert Site.asked[1][2] - Site.asked[0][2] < 1


def test_a_body_that_breaks_off_is_fetched_again(url: str) -> None:
    assert HttpClient().fetch(f"{url}/cut", most_bytes=9**9, retries=Retries(3, within_s=9, pause_s=0)).data == b"/cut"
    with pytest.raises(WebError, match="broke off before the end"):
        HttpClient().fetch(f"{url}/cut/2", most_bytes=9**9)


def test_retries_end_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(WebError, match=r"cannot be reached \(.*refused\)"):
        HttpClient().fetch(f"{refusing()}/", most_bytes=100, retries=Retries(within_s=0.5, pause_s=0.1))
    assert 0.1 < time.monotonic() - began < 5


def test_a_token_stays_on_its_host_and_never_leaves_it(url: str) -> None:
    client = HttpClient(headers={"X-Key": "mine"}, private=["X-Key"])
    sent = {"Authorization": "Bearer secret"}
    client.fetch(f"{url}/here", most_bytes=100, headers=sent)
    client.fetch(f"{url}/elsewhere", most_bytes=100, headers=sent)
    seen = [(path, given.get("Authorization"), given.get("X-Key")) for path, given, _ in Site.asked]
    mine = ("Bearer secret", "mine")
    assert seen == [("/here", *mine), ("/ok", *mine), ("/elsewhere", *mine), ("/ok", None, None)]


def test_a_redirect_in_plain_utf_8_is_followed(url: str) -> None:
    assert HttpClient().fetch(f"{url}/umlaut", most_bytes=100).data == b"/%C3%A4%C3%B6%C3%BC"


def test_what_is_too_large_is_not_loaded(url: str) -> None:
    with pytest.raises(WebError, match="larger than 5 bytes"):
        HttpClient().fetch(f"{url}/large", most_bytes=5)


def test_connections_are_kept(url: str) -> None:
    client = HttpClient(per_host=1)
    for path in ("ok", "ok", "here"):
        client.fetch(f"{url}/{path}", most_bytes=100)
    assert len(Site.ports) == 1


def test_json_is_asked_for_within_seconds_in_all(url: str) -> None:
    with silent() as mute, pytest.raises(WebError, match=r"does not answer within 0\.3 s"):
        fetch_json(mute, answer_s=0.3)
    with pytest.raises(WebError, match="does not answer in JSON"):
        fetch_json(f"{url}/ok", answer_s=5)
    with silent() as mute, pytest.raises(WebError, match=r"does not answer within 0\.3 s"):
        see_that_it_answers(mute, answer_s=0.3)
    see_that_it_answers(f"{url}/ok", answer_s=5)  # HEAD is answered by 501


def test_a_download_goes_on_wherever_it_is_cut(url: str, tmp_path: Path) -> None:
    counted = list[int]()
    expected = Expected(len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
    download(HttpClient(), f"{url}/file", tmp_path / "a" / "b", expected, on_bytes=counted.append)
    assert (tmp_path / "a" / "b").read_bytes() == DATA
    assert sum(counted) == len(DATA)
    assert [given.get("Range") for _, given, _ in Site.asked] == [None, "bytes=40000-", "bytes=80000-"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_download_of_other_content_leaves_nothing(url: str, tmp_path: Path) -> None:
    with pytest.raises(WrongContent, match="has the sha256"):
        download(HttpClient(), f"{url}/ok", tmp_path / "b", Expected(sha256="0" * 64), on_bytes=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_is_refused_ends_at_once(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PATIENCE_S", 0.05)
    with pytest.raises(WebError, match="answers 503"):
        download(HttpClient(), f"{url}/busy", tmp_path / "b", Expected(), on_bytes=lambda _: None)
    assert list(tmp_path.iterdir()) == []


SPECIAL = """
0.1.2.3 10.1.2.3 100.64.0.1 127.0.0.1 169.254.169.254 172.31.0.1 192.0.0.8 192.0.0.192 192.0.2.1 192.31.196.1
192.52.193.1 192.88.99.1 192.168.1.1 192.175.48.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1
255.255.255.255 168.63.129.16
:: ::1 ::ffff:10.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 100:0:0:1::1 2001::1 2001:1::1 2001:2::1 2001:3::1
2001:4:112::1 2001:10::1 2001:20::1 2001:30::1 2001:db8::1 2002:808:808::1 2620:4f:8000::1 3fff::1 5f00::1 fc00::1
fe80::1 ff02::1
""".split()


@pytest.mark.parametrize("address", SPECIAL)
def test_no_special_address_of_the_registries_is_public(address: str) -> None:
    assert not is_public(ip_address(address))


def test_a_guarded_client_reaches_what_was_checked_and_nothing_else(url: str) -> None:
    with AddressGuard() as guard, pytest.raises(AddressRefused, match="not on the open Internet"):
        HttpClient(guard=guard).fetch(f"{url}/ok", most_bytes=100)
    assert paths() == []
    with AddressGuard(lambda address: str(address) == "127.0.0.1") as guard:
        client = HttpClient(guard=guard)
        assert client.fetch(f"{url}/ok", most_bytes=100).data == b"/ok"
        client.close()


def test_a_guarded_client_asks_no_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", refusing())
    with AddressGuard(lambda _: True) as guard:
        client = HttpClient(guard=guard)
        assert client.fetch(f"{url}/ok", most_bytes=100).data == b"/ok"
        client.close()


def test_a_guard_ends_what_it_opened_and_opens_nothing_more(url: str) -> None:
    guard = AddressGuard(lambda _: True)
    host, port = url.removeprefix("http://").split(":")
    with guard.connect(host, int(port), timeout_s=5, options=()) as connection:
        guard.abort()
        assert connection.recv(1) == b""
    with guard.connect(host, int(port), timeout_s=5, options=()) as connection:
        assert connection.recv(1) == b""
