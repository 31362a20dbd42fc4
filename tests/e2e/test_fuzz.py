"""Requests that nobody would write, made from the OpenAPI document: none of them breaks the server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pictures import scene
from tests.serving import serving

from sightline.index import Index

pytest.importorskip("schemathesis", reason="the package schemathesis is not installed")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.parametrize(
    ("phases", "examples"),
    [("fuzzing", "8"), pytest.param("coverage,fuzzing", "60", marks=pytest.mark.slow)],
)
@pytest.mark.timeout(900)
def test_the_fuzzer_finds_no_server_error(tmp_path: Path, phases: str, examples: str) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(5):
        scene(number).save(pictures / f"{number}.jpg")
    with Index(str(tmp_path / "fuzzed.index"), model="mini") as index:
        index.add(pictures)
    with serving(tmp_path / "fuzzed.index", cache=tmp_path) as running:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{running.url}/openapi.json", "--checks", CHECKS]
        command += ["--phases", phases, "--max-examples", examples, "--continue-on-failure", "--seed", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ.copy())
        assert done.returncode == 0, done.stdout[-6000:]
        assert "Tested: 2" in done.stdout  # some twenty operations: it did run
        assert running.ask("/readyz").status == 200
