"""kill -9 at any moment loses no call that returned and leaves no half of one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.crash.writer import DIM, calls

from sightline.stores.base import Store
from sightline.stores.local.store import LocalStore
from sightline.stores.memory import MemoryStore

ROOT = Path(__file__).parents[2]


def test_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=6, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_writer_killed_a_hundred_times_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for seed in range(10):
        kill_and_compare(tmp_path / str(seed), kills=10, seed=seed)


def kill_and_compare(folder: Path, *, kills: int, seed: int) -> None:
    """Kill writers one after the other; each goes on where the one before it stopped."""
    source, oracle, script = random.Random(seed), MemoryStore(DIM), calls(seed)
    done = 0
    for _ in range(kills):
        acknowledged = write_until_killed(folder / "killed.index", seed, done, source.uniform(0, 0.7))
        while done < acknowledged:
            next(script)(oracle)
            done += 1
        if not (folder / "killed.index").exists():
            continue
        store = LocalStore(folder / "killed.index", DIM)
        if contents(store) != contents(oracle):  # the call in flight may have been committed, wholly
            next(script)(oracle)
            done += 1
        compare(store, oracle)
        store.close()
    assert done > kills


def write_until_killed(folder: Path, seed: int, done: int, after_s: float) -> int:
    """Run a writer that starts at call number `done`; gives how many calls have returned by the time it is dead."""
    command = [sys.executable, "-m", "tests.crash.writer", str(folder), str(seed), str(done)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        if after_s > 0.1:  # else it dies while it starts or creates the index
            process.stdout.readline()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        lines = [line for line in process.stdout.read().split() if line.isdigit()]
    return int(lines[-1]) + 1 if lines else done


def compare(store: LocalStore, oracle: MemoryStore) -> None:
    assert contents(store) == contents(oracle)
    assert store.count() == oracle.count()
    assert store.verify() == []
    for record in list(oracle.scan())[::97]:
        where: Any = {"call": record.payload["call"]}
        query = record.vector[None]
        found, expected = (
            [(hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in some.search(query, 5, where)[0]]
            for some in (store, oracle)
        )
        assert found == expected
        assert store.count({"$match": str(record.payload["caption"])}) == 1


def contents(store: Store) -> list[Any]:
    return [(record.id, record.uri, record.payload, record.vector.tolist()) for record in store.scan()]
