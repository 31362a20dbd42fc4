"""A Ray of one node on this machine: a head with two CPUs, and the port that clients come to."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec

import pytest

_SETTINGS = "--object-store-memory=200000000 --include-dashboard=false --disable-usage-stats --port=0"


class Head:
    """A running head; `address` is what `--workers` takes. What killed clients leave behind ends in 3 s."""

    def __init__(self, cpus: int = 2) -> None:
        if find_spec("ray") is None or find_spec("grpc") is None:
            pytest.skip("no Ray: pip install 'sightline[ray]'")
        self._folder = tempfile.mkdtemp(prefix="sightline-ray-", dir="/tmp")  # short: sockets lie in it
        port = _free_port()
        self.address = f"ray://127.0.0.1:{port}"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *_SETTINGS.split()]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={cpus}"]
        self._process = subprocess.Popen(
            [*command, f"--ray-client-server-port={port}", f"--temp-dir={self._folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"RAY_CLIENT_RECONNECT_GRACE_PERIOD": "3"},
        )
        until = time.monotonic() + 90
        while not _is_open(port):
            assert self._process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)

    def workers(self) -> dict[int, int]:
        """The bytes of memory of each of Sightline's workers that runs, by process id."""
        listed = subprocess.run(["ps", "-eo", "pid=,rss=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines() if "ray::" in line and "Worker)" in line]
        return {int(pid): int(rss) << 10 for pid, rss, _ in rows}

    def remove(self) -> None:
        for pid in [self._process.pid, *_below(self._process.pid)]:  # asked to end, it takes half a minute
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(60)
        shutil.rmtree(self._folder, ignore_errors=True)


def _below(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [pid]
    for parent in found:  # grows meanwhile
        found += [child for child, its_parent in pairs if its_parent == parent]
    return found[1:]


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
