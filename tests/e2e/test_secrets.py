"""No message of any command prints the password of a store's URL."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.pictures import encoded, scene, write

from sightline.cli.main import COMMANDS, main

PASSWORD = "hunter2%2Fsecret"
URLS = {
    "nobody listens": f"postgresql://me:{PASSWORD}@127.0.0.1:9/photos?table=a&patience_s=0",
    "nobody listens, qdrant": f"qdrant://:{PASSWORD}@127.0.0.1:9/photos?patience_s=0",
    "unknown scheme": f"nosuch://me:{PASSWORD}@127.0.0.1/photos",
    "unknown option": f"qdrant://:{PASSWORD}@127.0.0.1:9/photos?shrads=2",
    "slash in the password": "qdrant://:hunter2/secret@127.0.0.1:9/photos",
    "a key alone": f"pinecone://{PASSWORD}@127.0.0.1:9/photos?patience_s=1",
    "password as an option": f"postgresql://127.0.0.1:9/photos?password={PASSWORD}",
}
OTHER = f"postgresql://me:{PASSWORD}@localhost:9/photos?table=a&patience_s=0"


def commands(url: str, here: Path) -> dict[str, list[Sequence[str]]]:
    """Every command in the ways that take the URL of an index, and some where it stands in the wrong place."""
    pictures, index = str(here / "pictures"), str(here / "photos.index")
    at = ("--index", url)
    return {
        "index": [("index", pictures, *at), ("index", pictures, *at, "--workers", "ray://127.0.0.1:9")],
        "failures": [("failures", *at), ("failures", "--retry", *at)],
        "remove": [("remove", "a.jpg", *at)],
        "search": [
            ("search", "dog", *at),
            ("search", "dog", *at, "--index", OTHER, "--json"),
            ("search", "dog", "-k", url, *at),
        ],
        "similar": [("similar", "a.jpg", *at)],
        "status": [("status", *at), ("status", "--verify", *at), ("status", url)],
        "models": [("models", url)],
        "recommend": [("recommend", pictures, url)],
        "copy": [("copy", url, index), ("copy", index, url), ("copy", url, OTHER, url)],
        "verify": [("verify", index, url), ("verify", url, index)],
        "tune": [("tune", *at)],
        "export-index": [("export-index", str(here / "out.parquet"), *at)],
        "import-index": [("import-index", str(here / "nothing"), *at)],
        "serve": [("serve", *at, "--host", "192.0.2.1"), ("serve", *at, "--compare", OTHER, "--port", "-1")],
        "evaluate": [("evaluate", pictures, url)],
        "compare": [
            ("compare", "dog", *at, *at),
            ("compare", "dog", *at, "--index", OTHER, "--html", str(here / "c.html")),
        ],
        "classify": [("classify", "a.jpg", "--labels", "dog,cat", url)],
        "tag": [("tag", "--labels", "dog,cat", *at)],
        "duplicates": [("duplicates", *at)],
        "map": [("map", str(here / "map.html"), *at)],
        "caption": [("caption", url)],
        "train": [("train", url)],
        "export": [("export", url)],
        "datasets": [("datasets", url)],
        "demo": [("demo", url)],
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    for seed in range(2):
        write(folder / "pictures", f"{seed}.jpg", encoded(scene(seed), "JPEG"))
    for arguments in (["index", str(folder / "pictures"), "--model", "pixels"],):
        assert main([*arguments, "--index", str(folder / "photos.index")]) == 0
    return folder


def test_every_command_is_walked(here: Path) -> None:
    assert commands("", here).keys() == COMMANDS.keys()


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_no_command_prints_a_password(url: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for lines in commands(url, here).values():
        for arguments in lines:
            printed = run(arguments, capfd)
            assert "hunter2" not in printed, (arguments, printed)
            assert "Traceback" not in printed, (arguments, printed)
    assert not any("hunter2" in path.read_text("utf-8", "replace") for path in here.glob("*.html"))


def test_the_environment_is_no_exception(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_INDEX", URLS["nobody listens"])
    assert "hunter2" not in run(["search", "dog"], capfd)
    monkeypatch.setenv("SIGHTLINE_STORE_KEY", "hunter2")
    assert "hunter2" not in run(["status", "--index", "qdrant://127.0.0.1:9/photos?patience_s=0"], capfd)


def run(arguments: Sequence[str], capfd: pytest.CaptureFixture[str]) -> str:
    """What a command prints."""
    with contextlib.suppress(SystemExit):
        main(arguments)
    printed = capfd.readouterr()
    return printed.out + printed.err
