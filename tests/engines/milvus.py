"""A Milvus server from the package `milvus` 2.3.5, with access control, for the tests."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

USER, KEY = "root", "Milvus"
_BINARIES = Path(tempfile.gettempdir()) / "sightline-tests-milvus-2.3.5"  # unpacking 57 MB takes 6 s: once is enough
_START_S = 60.0
_ETCD_PORT = 23790  # the wheel goes on to 2380 when 2379 is taken, where etcd itself listens
_TICK_MS = 20  # a strong read waits for the next tick, as delivered 200 ms, and the contract makes thousands of reads


running: list["Server"] = []
"""The one server of this run, for tests that kill it."""


def start() -> tuple[str, Callable[[], None]]:
    """A running server's URL, and what stops it and removes its data."""
    pytest.importorskip("milvus", reason="the server is not installed: pip install milvus==2.3.5")
    folder = Path(tempfile.mkdtemp(prefix="milvus-"))
    server = Server(folder)
    server.start()
    running.append(server)

    def stop() -> None:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)

    return server.url, stop


class Server:
    """One server and its folder; it may be killed and started again on the same port and data.

    Two do not run on one machine: the etcd within listens on a port that cannot be chosen.
    """

    def __init__(self, folder: Path) -> None:
        from milvus import MilvusServerConfig, _initialize_data_files

        _BINARIES.mkdir(exist_ok=True)
        (folder / "bin").symlink_to(_BINARIES)
        _initialize_data_files(str(folder))
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        config = MilvusServerConfig(data_dir=str(folder))
        config.set("authorization_enabled", True)
        config.set("proxy.timeTickInterval", _TICK_MS)
        config.set("etcd_port", _ETCD_PORT)
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # it leaves sockets open
            config.resolve()
        self._port, self._health_port = int(config.get("proxy_port")), free_port()

    @property
    def url(self) -> str:
        return f"milvus://{USER}:{KEY}@127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it is healthy; skips where it does not start."""
        environment = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._health_port),
            "MILVUS_RUN_DIR": str(self._folder / "run"),
            "LD_LIBRARY_PATH": str(self._folder / "bin"),
        }
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._folder / "bin" / "milvus"), "run", "standalone"],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError), urlopen(self._health_url, timeout=5) as answer:
                if b"OK" in answer.read():
                    return
            time.sleep(0.1)
        self.kill()
        pytest.skip("the Milvus server does not start here: is another one running on this machine?")

    def stop(self) -> None:
        """End it in good order, which it takes its time for; else at once."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def _health_url(self) -> str:
        return f"http://127.0.0.1:{self._health_port}/healthz"


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
