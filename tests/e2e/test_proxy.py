"""Behind a proxy the page and the API work under another host and below a path; a real nginx stands in front."""

import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from tests.pictures import encoded, scene
from tests.serving import Server, free_port, serving

from sightline.cli.main import main
from sightline.index import Index

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine: apt-get install nginx-light")
KEY = "a-key-for-everything"
CONFIG = """
daemon off; {user}
pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 200; }}
http {{
  access_log off; client_max_body_size 20m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /find/ {{ proxy_pass http://127.0.0.1:{kept}; {forwarded} }}
    location /cut/ {{ proxy_pass http://127.0.0.1:{cut}/; {forwarded} }}
  }}
}}
"""
FORWARDED = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto https;"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        scene(number).save(folder / f"{number}.png")
    path = tmp_path_factory.mktemp("index") / "photos.index"
    with Index(str(path), model="mini") as opened:
        opened.add(folder)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@contextmanager
def nginx(folder: Path, kept: Server, cut: Server) -> Iterator[Server]:
    port = free_port()
    ports = {"kept": kept.url.rsplit(":", 1)[1], "cut": cut.url.rsplit(":", 1)[1], "port": port}
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, user=user, forwarded=FORWARDED, **ports))
    process = subprocess.Popen([str(NGINX), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)])
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        for _ in range(200):
            try:
                server.ask("/")
                break
            except OSError:
                assert process.poll() is None, (folder / "error.log").read_text()
                time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(20)


@needs_nginx
@pytest.mark.parametrize("keys", [{}, {"SIGHTLINE_WRITE_KEY": KEY}], ids=["open", "keys"])
def test_page_and_api_work_behind_nginx_below_a_path(
    tmp_path: Path, index: Path, cache: Path, keys: dict[str, Any]
) -> None:
    public = "https://photos.example"
    options = ("--trusted-proxy", "127.0.0.1", "--uploads", str(tmp_path / "uploads"), "--public-url")
    with (
        serving(index, *options, f"{public}/find", cache=cache, **keys) as kept,
        serving(index, *options, f"{public}/cut/", cache=cache, **keys) as cut,
        nginx(tmp_path, kept, cut) as front,
    ):
        for prefix in ("/find", "/cut"):
            headers: dict[str, Any] = {"Host": "photos.example"}
            page = front.ask(f"{prefix}/", **headers)
            assert page.status == 200
            parts = re.findall(r'(?:src|href)="([^"#]+)"', page.body.decode())
            assert len(parts) > 5
            for part in parts:
                address = urljoin(f"{prefix}/", part)
                assert address.startswith(f"{prefix}/")
                assert front.ask(address, **headers).status == 200
            for module in re.findall(
                r'from "(\./[^"]+)"', front.ask(f"{prefix}/static/app.js", **headers).body.decode()
            ):
                assert front.ask(urljoin(f"{prefix}/static/", module), **headers).status == 200
            if keys:
                opened = front.ask(
                    f"{prefix}/api/session", method="POST", data=b"", Authorization=f"Bearer {KEY}", Origin=public
                )
                assert opened.status == 200
                cookie = opened.headers["Set-Cookie"]
                assert f"Path={prefix}".lower() in cookie.lower()
                assert "Secure" in cookie
                headers["Cookie"] = cookie.split(";")[0]
            origins: list[dict[str, Any]] = [{"Origin": public}, {"Origin": public, "Sec_Fetch_Site": "same-origin"}]
            for own in origins:
                found = front.ask(f"{prefix}/api/search", {"text": "a dog", "k": 2}, **headers, **own)
                assert found.status == 200, found.body
            for link in found.json["hits"][0]["links"].values():
                assert urlsplit(link).path.startswith(f"{prefix}/api/images/")
                assert front.ask(link, **headers).status == 200
            sent = front.send(
                f"{prefix}/api/query-pictures", [("image", "x.png", encoded(scene(1), "PNG"))], **headers, Origin=public
            )
            assert front.ask(sent.json["thumbnail"], **headers).status == 200
            evil = front.ask(f"{prefix}/api/search", {"text": "a"}, **headers, Origin="https://evil.example")
            assert evil.status == 403
            description = front.ask(f"{prefix}/openapi.json", **headers).json
            assert description["servers"][0]["url"].rstrip("/") == public + prefix
        redirect = urllib.request.Request(f"{kept.url}/find", method="HEAD", headers={"Host": "photos.example"})
        with urllib.request.urlopen(redirect) as reply:
            assert reply.url.endswith("/find/")


@pytest.mark.parametrize("host", ["127.0.0.1:18978", "photos.example.com:443", "photos.example.com"])
def test_a_browser_says_itself_which_page_sent_a_request(index: Path, cache: Path, host: str) -> None:
    with serving(index, cache=cache, SIGHTLINE_API_KEY=KEY) as running:
        headers: dict[str, Any] = {
            "Authorization": f"Bearer {KEY}",
            "Host": host,
            "Origin": "https://photos.example.com",
        }
        assert running.ask("/api/search", {"text": "a"}, **headers, Sec_Fetch_Site="same-origin").status == 200
        assert running.ask("/api/search", {"text": "a"}, **headers, Sec_Fetch_Site="cross-site").status == 403


@pytest.mark.parametrize("is_trusted", [True, False])
def test_what_is_forwarded_counts_from_trusted_proxies_only(index: Path, cache: Path, is_trusted: bool) -> None:
    options = ("--trusted-proxy", "127.0.0.0/8") if is_trusted else ()
    with serving(index, *options, cache=cache, SIGHTLINE_API_KEY=KEY) as running:
        statuses = [
            running.ask("/api/status", Authorization=f"Bearer {number}", X_Forwarded_For=f"198.51.100.{number}").status
            for number in range(40)
        ]
        assert statuses[:20] == [401] * 20
        assert (statuses[-1] == 401) is is_trusted  # each of 40 addresses has its own guesses, or all are one
        opened = running.ask(
            "/api/session",
            method="POST",
            data=b"",
            Authorization=f"Bearer {KEY}",
            X_Forwarded_For="203.0.113.9",
            X_Forwarded_Proto="https",
        )
        assert (opened.status == 200 and "Secure" in opened.headers["Set-Cookie"]) is is_trusted


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--public-url", "photos.example"),
        ("--public-url", "https://u:p@photos.example/"),
        ("--public-url", "https://a/?b"),
        ("--trusted-proxy", "somewhere"),
    ],
)
def test_a_wrong_option_is_said(index: Path, capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    assert main(["serve", "--index", str(index), option, value]) == 2
    assert f"{option} is" in capsys.readouterr().err
