"""Every example runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pictures import encoded, scene, write

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = {
    "first_search.py": ["pictures", "a red circle"],
    "arithmetic.py": ["photos.index", "pictures/1.jpg"],
    "own_encoder.py": ["pictures"],
}


def test_every_example_is_in_the_list() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_example_runs_and_prints_hits(name: str, tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "pictures", f"{number}.jpg", encoded(scene(number), "JPEG"))
    environment = os.environ | {"SIGHTLINE_OFFLINE": "1"}
    if name == "arithmetic.py":
        command = [sys.executable, "-m", "sightline", "index", "pictures", "--model", "mini"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=environment)
    command = [sys.executable, str(EXAMPLES / name), *ARGUMENTS[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "file:///" in done.stdout
