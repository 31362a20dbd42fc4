"""Pictures come, change, move and go in any order, runs are killed: the index is always what the folder was."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.pictures import encoded, scene

from sightline.index import Index
from sightline.ingest import Options

KILLED_RUN = """
import os, signal, sys
from sightline.index import Index
from sightline.ingest import Options
calls = 0
def count(summary):
    global calls
    calls += 1
    if calls > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
Index(sys.argv[1], model="pixels").add(sys.argv[2], Options(on_progress=count))
"""
PICTURES = [encoded(scene(number, (64, 48)), "PNG") for number in range(12)]
contents = st.integers(0, len(PICTURES) - 1)
names = st.sampled_from(["a.png", "b.png", "sub/c.png", "sub/d.png", "sub/deep/e.png", "f.png"])


class Life(RuleBasedStateMachine):
    """A folder, its index, and what the index must hold: the folder as the last complete run saw it, in memory."""

    @initialize()
    def begin(self) -> None:
        self.here = Path(tempfile.mkdtemp(prefix="sightline-life-"))
        self.folder = self.here / "pictures"
        self.folder.mkdir()
        (self.folder / "always.png").write_bytes(PICTURES[0])
        self.index = self._open()
        self.index.add(self.folder)
        self.clock = 1_700_000_000
        self.is_current = True

    def teardown(self) -> None:
        if hasattr(self, "here"):
            self.index.close()
            shutil.rmtree(self.here)

    @rule(name=names, content=contents)
    def write(self, name: str, content: int) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURES[content])
        self._changed(path)

    @rule(name=names, other=names)
    def rename(self, name: str, other: str) -> None:
        if (self.folder / name).exists():
            (self.folder / other).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).rename(self.folder / other)
            self._changed(self.folder / other)

    @rule(name=names, other=names)
    def copy(self, name: str, other: str) -> None:
        if (self.folder / name).exists() and name != other:
            (self.folder / other).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, self.folder / other)
            self._changed(self.folder / other)

    @rule(name=names)
    def delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        self.is_current = False

    @rule(name=names)
    def break_one(self, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.index.add(self.folder)  # so that its old record is gone and only the failure remains
        path.write_bytes(b"broken")
        self._changed(path)

    @precondition(lambda self: not self.is_current)
    @rule(workers=st.integers(1, 3))
    def run(self, workers: int) -> None:
        self.index.add(self.folder, Options(workers=workers))
        self.is_current = True

    @rule(after=st.integers(0, 3))
    def killed_run(self, after: int) -> None:
        command = [sys.executable, "-c", KILLED_RUN, str(self.here / "photos.index"), str(self.folder), str(after)]
        subprocess.run(command, check=False, capture_output=True, timeout=60)

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = self._open()

    @invariant()
    def every_record_is_sound(self) -> None:
        """Whatever happened: the index opens, every record is there once, with the vector of its own content."""
        if hasattr(self, "index"):
            records = list(self.index.store.scan())
            assert len({record.uri for record in records}) == len(records) == self.index.count()
            for record in records:
                np.testing.assert_allclose(record.vector, VECTORS[str(record.payload["sha256"])], atol=2e-3)

    @invariant()
    def a_current_index_is_the_folder(self) -> None:
        """After a complete run: the same records and the same answers as an index made in memory from scratch."""
        if not getattr(self, "is_current", False):
            return
        fresh = Index("memory:", model="pixels")
        fresh.add(self.folder)
        ours, theirs = ({record.uri for record in index.store.scan()} for index in (self.index, fresh))
        assert ours == theirs
        query = VECTORS[min(VECTORS)]
        found, expected = (index.store.search(query[None], 20)[0] for index in (self.index, fresh))
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=2e-3)
        assert {failure.uri for failure in self.index.failures()} == {failure.uri for failure in fresh.failures()}

    def _open(self) -> Index:
        return Index(str(self.here / "photos.index"), model="pixels")

    def _changed(self, path: Path) -> None:
        self.clock += 1
        os.utime(path, (self.clock, self.clock))  # file systems tell times apart only so finely
        self.is_current = False


def _vectors() -> "dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]":
    with tempfile.TemporaryDirectory() as scratch:
        for number, data in enumerate(PICTURES):
            (Path(scratch) / f"{number}.png").write_bytes(data)
        index = Index("memory:", model="pixels")
        index.add(scratch)
        return {str(record.payload["sha256"]): record.vector for record in index.store.scan()}


VECTORS = _vectors()
TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=12, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
