"""The command line as a person uses it: real processes, real folders."""

import json
import os
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.pictures import encoded, scene
from tests.waiting import until

COMMAND = [sys.executable, "-m", "sightline"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "holiday").mkdir()
    for number in range(12):
        scene(number).save(folder / ("holiday" if number % 3 == 0 else "") / f"scene {number}.jpg")
    return folder


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("index") / "photos.index")
    done = sightline("index", str(folder), "--index", url, "--model", "mini")
    assert done.returncode == 0, done.stderr
    return url


def sightline(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        check=False,
        env=os.environ | {"SIGHTLINE_OFFLINE": "1"} | environment,
    )


def found(*arguments: str) -> dict[str, Any]:
    done = sightline("search", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_two_commands_from_a_folder_to_results(folder: Path, tmp_path: Path) -> None:
    first = sightline("index", str(folder), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "12 pictures encoded" in first.stdout
    second = sightline("search", "a red circle", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert len(second.stdout.splitlines()) == 10
    score, path = second.stdout.splitlines()[0].split("\t")
    assert float(score) <= 1
    assert Path(path).exists()


def test_json_has_the_stable_shape(index: str) -> None:
    result = found("a red circle", "--index", index, "-k", "3")
    assert set(result) == {"query", "model", "took_ms", "likely", "hits"}
    assert (result["query"], result["model"], len(result["hits"])) == ("a red circle", "mini", 3)
    assert set(result["hits"][0]) == {"id", "uri", "score", "payload", "line", "is_likely", "evidence"}
    scores = [hit["score"] for hit in result["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_a_picture_finds_itself(index: str, folder: Path) -> None:
    picture = folder / "scene 4.jpg"
    best = found("--image", str(picture), "--index", index)["hits"][0]
    assert best["uri"] == picture.as_uri()
    assert best["score"] > 0.99
    assert found(str(picture), "--index", index)["hits"][0]["uri"] == picture.as_uri()


def test_words_and_pictures_add_and_subtract(index: str, folder: Path) -> None:
    picture = str(folder / "scene 4.jpg")
    result = found("2:a red circle", "+", picture, "-", "a dog", "--index", index)
    assert result["query"] == f"2:a red circle + {picture} - a dog"
    same = found("2:a red circle", "--add", picture, "--subtract", "a dog", "--index", index)
    assert same["hits"] == result["hits"]


def test_similar_leaves_out_the_picture_itself(index: str, folder: Path) -> None:
    picture = folder / "scene 4.jpg"
    done = sightline("similar", str(picture), "--index", index, "--json", "-k", "3")
    uris = [hit["uri"] for hit in json.loads(done.stdout)["hits"]]
    assert len(uris) == 3
    assert picture.as_uri() not in uris


def test_paths_feed_other_programs(index: str, folder: Path) -> None:
    done = sightline("search", "a dog", "--index", index, "-0", "--under", str(folder / "holiday"))
    paths = done.stdout.split("\0")
    assert paths.pop() == ""
    assert sorted(paths) == sorted(str(path) for path in (folder / "holiday").iterdir())
    lines = sightline("search", "a dog", "--index", index, "--paths", "-k", "2").stdout.splitlines()
    assert all(Path(line).exists() for line in lines)


def test_where_and_match_narrow_the_search(index: str) -> None:
    assert sightline("search", "dog", "--index", index, "--where", "width>=100000").returncode == 1
    names = [hit["payload"]["name"] for hit in found("dog", "--index", index, "--match", "scene 7")["hits"]]
    assert names == ["scene 7.jpg"]


def test_html_holds_the_pictures(index: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    sightline("search", "a <b>red</b> circle", "--index", index, "--html", str(page), "-k", "4")
    text = page.read_text("utf-8")
    assert text.count("data:image/webp;base64,") == 4
    assert "&lt;b&gt;red" in text
    assert "<b>red" not in text


def test_status_names_the_model_and_the_folder(index: str, folder: Path) -> None:
    done = sightline("status", "--index", index)
    assert done.returncode == 0
    assert "mini" in done.stdout
    assert folder.as_uri() in done.stdout
    info = json.loads(sightline("status", "--index", index, "--json", "--verify").stdout)
    assert (info["pictures"], info["failures"], info["damaged"]) == (12, 0, [])


def test_models_lists_the_bundled_one() -> None:
    listed = json.loads(sightline("models", "--json").stdout)
    (mini,) = [entry for entry in listed if entry["name"] == "mini"]
    assert mini["here"] is True
    assert "siglip2-b32" in sightline("models").stdout


def test_failures_are_listed_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    scene(0).save(tmp_path / "pictures" / "good.jpg")
    (tmp_path / "pictures" / "broken.jpg").write_text("not a picture")
    done = sightline("index", "pictures", "--model", "pixels", cwd=tmp_path)
    assert done.returncode == 0
    assert "1 picture could not be read: sightline failures" in done.stdout
    listed = sightline("failures", cwd=tmp_path)
    assert "broken.jpg" in listed.stdout
    assert "decode:" in listed.stdout
    scene(1).save(tmp_path / "pictures" / "broken.jpg")
    assert "read 1 picture of 1" in sightline("failures", "--retry", cwd=tmp_path).stdout
    assert "no failures" in sightline("failures", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "dog"], "sightline index"),
        (["search", "dog", "--index", "INDEX", "-k", "0"], "k is 0"),
        (["search", "", "--index", "INDEX"], "query is empty"),
        (["search", "--index", "INDEX"], "query is empty"),
        (["search", "missing.jpg", "--index", "INDEX"], "no picture at missing.jpg"),
        (["search", "dog", "--index", "INDEX", "--where", "nonsense"], "is not a valid filter"),
        (["search", "dog", "--index", "INDEX", "--where", '{"$no": 1}'], "$no"),
        (["search", "dog", "--index", "INDEX", "--model", "pixels"], "was built with 'mini', not 'pixels'"),
        (["index", "missing"], "missing"),
        (["index", ".", "--model", "minni"], "mini"),
        (["similar", "missing.jpg", "--index", "INDEX"], "is not in"),
        (["search", "dog", "--index", "INDEX", "--html", "missing/page.html"], "missing/page.html"),
        (["index", ".", "--workers", "0"], "--workers is 0"),
        (["search", "dog", "--index", "nosuch://host/x"], "nosuch"),
    ],
)
def test_wrong_use_gets_one_clear_line(index: str, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = sightline(*[index if argument == "INDEX" else argument for argument in arguments], cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("sightline: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_index_and_model(index: str, tmp_path: Path) -> None:
    assert sightline("search", "dog", cwd=tmp_path, SIGHTLINE_INDEX=index).returncode == 0


def test_the_model_of_the_environment_is_that_of_new_indexes_only(index: str, tmp_path: Path, folder: Path) -> None:
    """An index that another model built is opened with its own; --model is still refused."""
    assert sightline("search", "dog", "--index", index, cwd=tmp_path, SIGHTLINE_MODEL="pixels").returncode == 0
    assert sightline("search", "dog", "--index", index, cwd=tmp_path, SIGHTLINE_MODEL="siglip2-b32").returncode == 0
    assert sightline("search", "dog", "--index", index, "--model", "pixels", cwd=tmp_path).returncode == 2
    assert sightline("index", str(folder), cwd=tmp_path, SIGHTLINE_MODEL="pixels").returncode == 0
    status = sightline("status", "--json", cwd=tmp_path, SIGHTLINE_MODEL="mini")
    assert json.loads(status.stdout)["model"] == "pixels"


COUNT = 300


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on(how: signal.Signals, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    several = [encoded(scene(number).resize((1500, 1100)), "JPEG") for number in range(10)]
    for number in range(COUNT):  # some seconds on any machine
        (pictures / f"{number}.jpg").write_bytes(several[number % 10] + number.to_bytes(4, "big"))
    process = subprocess.Popen([*COMMAND, "index", "pictures", "--model", "mini"], cwd=tmp_path, stderr=subprocess.PIPE)
    until((tmp_path / "photos.index" / "index.sqlite").exists)
    process.send_signal(how)
    _, message = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert b"run the same command to continue" in message
        assert b"Traceback" not in message
    done = json.loads(sightline("index", "pictures", "--json", cwd=tmp_path).stdout)
    assert done["encoded"] + done["reused"] + done["unchanged"] == COUNT
    assert json.loads(sightline("status", "--json", "--verify", cwd=tmp_path).stdout)["pictures"] == COUNT


def test_without_a_command_the_help_says_what_there_is() -> None:
    done = sightline()
    assert done.returncode == 2
    assert "search" in done.stdout
    assert "start here:" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_sees_how_far_it_is_and_that_the_last_step_goes_on(folder: Path, tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [*COMMAND, "index", str(folder), "--index", str(tmp_path / "i.index"), "--model", "mini"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # what a terminal's other end gives when it is closed
            while part := os.read(ours, 4096):
                shown += part
        assert process.wait(60) == 0
    os.close(ours)
    assert b"12/12" in shown
    assert b"finishing: measuring which scores are likely" in shown
    assert b"12 pictures encoded" in shown
