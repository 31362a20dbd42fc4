"""What lies on the web is reached through the proxy that the system names, and directly where it says so."""

import base64
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.pages import web
from tests.pictures import encoded, scene
from tests.serving import answering

from sightline.cli.main import main
from sightline.errors import SourceError
from sightline.index import Index
from sightline.sources.web import Downloader

PICTURE = encoded(scene(1), "JPEG")
ASKED: list[tuple[str, str]] = []


class Proxy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ASKED.append((self.path, self.headers.get("Proxy-Authorization", "")))
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(PICTURE)))
        self.end_headers()
        self.wfile.write(PICTURE)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    ASKED.clear()
    with answering(Proxy) as address:
        yield address


def test_a_proxy_of_the_environment_is_asked(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://ann:s%20t@{proxy}")
    assert Downloader().fetch("http://pictures.invalid/1.jpg") == PICTURE
    assert [("http://pictures.invalid/1.jpg", f"Basic {base64.b64encode(b'ann:s t').decode()}")] == ASKED


def test_hosts_of_no_proxy_are_asked_directly(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with web(lambda _: encoded(scene(2), "JPEG")) as served:
        assert Downloader().fetch(f"{served.url}/ok/1") != PICTURE
    assert ASKED == []


def test_without_a_proxy_a_host_that_is_nowhere_is_told(proxy: str) -> None:
    with pytest.raises(SourceError, match=r"pictures.invalid/1.jpg cannot be reached"):
        Downloader().fetch("http://pictures.invalid/1.jpg")
    assert ASKED == []


def test_headers_that_were_given_go_with_every_request(proxy: str, tmp_path: Path) -> None:
    seen = list[dict[str, str]]()

    class Site(Proxy):
        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            if self.headers.get("X-Key") == "secret":
                super().do_GET()
            else:
                self.send_error(403)

    with answering(Site) as address:
        (tmp_path / "a.csv").write_text(f"url\nhttp://{address}/1.jpg\n")
        command = ["index", str(tmp_path / "a.csv"), "--index", str(tmp_path / "a.index"), "--model", "pixels", "-q"]
        main([*command, "--no-cache"])
        assert seen
        assert main([*command, "--retry", "--header", "X-Key: secret", "--header", "user-agent: me"]) == 0
    with Index(str(tmp_path / "a.index")) as index:
        assert (index.count(), index.failures()) == (1, [])
    assert (seen[-1]["x-key"], seen[-1]["user-agent"]) == ("secret", "me")


def test_a_header_that_is_none_is_refused_without_showing_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["index", "a.csv", "--header", "secret"])
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert "NAME: VALUE" in told
    assert "secret" not in told
