"""Whatever is wrong with the input: a clear error or a row in the failures table, and an index that is intact."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pictures import bomb, encoded, odd_names, scene, truncated, write

from sightline.index import Index

COMMAND = [sys.executable, "-m", "sightline"]
GOOD = 3


def sightline(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=cwd,
        check=False,
        env=os.environ | {"SIGHTLINE_OFFLINE": "1", "HOME": str(cwd)},
    )


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with `pictures/`, three good ones in it."""
    for number in range(GOOD):
        write(tmp_path / "pictures", f"good {number}.jpg", encoded(scene(number), "JPEG"))
    return tmp_path


def index(here: Path, *more: str) -> dict[str, int]:
    done = sightline("index", "pictures", "--model", "pixels", "--json", *more, cwd=here)
    assert done.returncode == 0, done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    return result


def assert_intact(here: Path, pictures: int = GOOD) -> None:
    done = sightline("status", "--json", "--verify", cwd=here)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert (status["pictures"], status["damaged"]) == (pictures, [])
    found = sightline("search", "pictures/good 1.jpg", "--json", "-k", "1", cwd=here)
    assert json.loads(found.stdout)["hits"][0]["payload"]["name"] == "good 1.jpg"


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


BROKEN = {
    "not-a-picture.jpg": (b"just some text, no picture at all", "not a picture"),
    "page.png": (b"<!doctype html><html><body>404</body></html>", "HTML"),
    "empty.jpg": (b"", "empty"),
    "cut.jpg": (truncated(encoded(scene(8), "JPEG")), "truncated"),
    "cut.png": (truncated(encoded(scene(8), "PNG")), "truncated"),
    "bomb.png": (bomb(), "--max-megapixels"),
}


def test_broken_files_are_failures_with_reasons_and_the_rest_is_indexed(here: Path) -> None:
    for name, (data, _) in BROKEN.items():
        write(here / "pictures", name, data)
    summary = index(here)
    assert (summary["encoded"], summary["failed"]) == (GOOD, len(BROKEN))
    listed = json.loads(sightline("failures", "--json", cwd=here).stdout)
    reasons = {failure["uri"].rsplit("/", 1)[1]: failure["reason"] for failure in listed}
    for name, (_, part) in BROKEN.items():
        assert part in reasons[name], reasons[name]
    assert_intact(here)


def test_a_lifted_limit_is_obeyed(here: Path) -> None:
    write(here / "pictures", "large.jpg", encoded(scene(5, (1200, 1000)), "JPEG"))
    assert index(here, "--max-megapixels", "1")["failed"] == 1
    assert index(here)["skipped"] == 1
    assert index(here, "--retry")["encoded"] == 1


def test_names_of_every_kind_are_indexed_found_and_printed(here: Path) -> None:
    for position, name in enumerate(odd_names()):
        write(here / "pictures", name, encoded(scene(20 + position), "JPEG"))
    assert index(here)["encoded"] == GOOD + len(odd_names())
    done = subprocess.run(
        [*COMMAND, "search", "pictures/good 1.jpg", "-0", "-k", "100"], capture_output=True, cwd=here, check=True
    )
    found = {os.path.basename(path) for path in done.stdout.split(b"\0") if path}  # noqa: PTH119
    assert found >= set(odd_names())
    shown = sightline("search", "pictures/good 1.jpg", "-k", "100", cwd=here).stdout
    assert len(shown.splitlines()) == GOOD + len(odd_names())
    assert index(here)["unchanged"] == GOOD + len(odd_names())


def test_a_symlink_loop_ends(here: Path) -> None:
    (here / "pictures" / "loop").symlink_to(here / "pictures")
    assert index(here)["encoded"] == GOOD


def test_a_dead_link_is_a_failure(here: Path) -> None:
    (here / "pictures" / "dead.jpg").symlink_to(here / "nowhere.jpg")
    assert index(here)["failed"] == 1
    assert_intact(here)


def test_a_pipe_named_like_a_picture_does_not_hang(here: Path) -> None:
    os.mkfifo(here / "pictures" / "pipe.jpg")
    assert index(here)["failed"] == 1


def test_an_empty_folder_says_so(here: Path) -> None:
    (here / "empty").mkdir()
    done = sightline("index", "empty", "--model", "pixels", cwd=here)
    assert done.returncode == 0
    assert "no picture found" in done.stdout


def test_a_text_file_as_folder_is_refused(here: Path) -> None:
    (here / "notes.md").write_text("words")
    assert_one_line(sightline("index", "notes.md", cwd=here), "notes.md", "neither a folder nor a picture")
    assert not (here / "photos.index").exists()


def test_a_single_picture_can_be_indexed(here: Path) -> None:
    done = sightline("index", "pictures/good 1.jpg", "--model", "pixels", cwd=here)
    assert "1 picture encoded" in done.stdout


AS_NOBODY = """
import os, pwd, sys
from sightline.cli.main import main
main(["index", "warm", "--index", "warm.index", "--model", "pixels", "--quiet"])  # imports all that it needs
if os.geteuid() == 0:
    os.setgid(pwd.getpwnam("nobody").pw_gid), os.setuid(pwd.getpwnam("nobody").pw_uid)
sys.exit(main(sys.argv[1:]))
"""


def as_nobody(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line as a user to whom permissions mean something."""
    command = [sys.executable, "-c", AS_NOBODY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


@pytest.fixture
def open_here(here: Path) -> Path:
    """`here` on a path that anybody may walk, and owned by nobody where root runs the tests."""
    write(here / "warm", "0.jpg", encoded(scene(0), "JPEG"))
    if os.geteuid() == 0:
        for folder in (here, *here.parents):
            folder.chmod(folder.stat().st_mode | 0o055)
        for path in (here, *here.rglob("*")):
            shutil.chown(path, "nobody")
    return here


def test_what_may_not_be_read_is_a_failure_and_nothing_leaves_the_index(open_here: Path) -> None:
    private = open_here / "pictures" / "private"
    write(private, "secret.jpg", encoded(scene(7), "JPEG"))
    command = ["index", "pictures", "--model", "pixels", "--json"]
    assert json.loads(as_nobody(*command, cwd=open_here).stdout)["encoded"] == GOOD + 1
    private.chmod(0)
    summary = json.loads(as_nobody(*command, cwd=open_here).stdout)
    listed = as_nobody("failures", cwd=open_here).stdout
    (open_here / "pictures").chmod(0)
    refused = as_nobody(*command, cwd=open_here)
    (open_here / "pictures").chmod(0o755)
    private.chmod(0o755)
    assert (summary["failed"], summary["removed"], summary["kept"]) == (1, 0, 1)
    assert "Permission denied" in listed
    assert_one_line(refused, "Permission denied")


def test_a_read_only_index_is_searched_and_refuses_writes_in_one_line(open_here: Path) -> None:
    assert as_nobody("index", "pictures", "--model", "pixels", cwd=open_here).returncode == 0
    folder = open_here / "photos.index"
    write(open_here / "pictures", "new.jpg", encoded(scene(9), "JPEG"))
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    found = as_nobody("search", "pictures/good 1.jpg", "--json", cwd=open_here)
    refused = as_nobody("index", "pictures", cwd=open_here)
    folder.chmod(0o755)
    assert json.loads(found.stdout)["hits"][0]["payload"]["name"] == "good 1.jpg", found.stderr
    assert_one_line(refused, "photos.index")


def test_an_index_of_another_model_is_refused_and_both_are_named(here: Path) -> None:
    index(here)
    done = sightline("index", "pictures", "--model", "mini", cwd=here)
    assert_one_line(done, "'pixels'", "'mini'", "--model pixels")
    assert_intact(here)


def test_an_index_of_a_newer_format_is_left_alone(here: Path) -> None:
    index(here)
    database = sqlite3.connect(here / "photos.index" / "index.sqlite")
    database.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
    database.commit()
    database.close()
    assert_one_line(
        sightline("search", "pictures/good 1.jpg", cwd=here), "photos.index has the format 99", "update Sightline"
    )


@pytest.mark.parametrize(("suffix", "lost"), [("int8", False), ("float*", True)])
def test_truncated_vectors_are_noticed_and_mended(here: Path, suffix: str, lost: bool) -> None:
    """The scan's codes are made anew from the vectors; lost vectors are encoded again by the next run."""
    index(here)
    (path,) = (here / "photos.index").glob(f"*.{suffix}")
    os.truncate(path, path.stat().st_size // 2)
    assert_one_line(sightline("search", "pictures/good 1.jpg", cwd=here), "photos.index", "--repair")
    assert sightline("status", "--repair", cwd=here).returncode == 0
    assert (index(here)["encoded"] > 0) is lost
    assert_intact(here)


def test_a_damaged_database_is_an_error_that_says_what_to_do(here: Path) -> None:
    index(here)
    path = here / "photos.index" / "index.sqlite"
    path.write_bytes(path.read_bytes()[:100] + os.urandom(path.stat().st_size - 100))
    for command in (["search", "pictures/good 1.jpg"], ["index", "pictures"], ["status"], ["status", "--repair"]):
        assert_one_line(sightline(*command, cwd=here), "photos.index", "damaged")


def test_a_folder_that_is_no_index_is_not_written_to(here: Path) -> None:
    done = sightline("index", "pictures", "--index", "pictures", "--model", "pixels", cwd=here)
    assert_one_line(done, "pictures")
    assert len(list((here / "pictures").iterdir())) == GOOD


def test_a_model_folder_with_a_missing_or_damaged_file_is_named(here: Path) -> None:
    bundled = Path(sys.modules["sightline"].__file__ or "").parent / "encoders" / "mini"
    shutil.copytree(bundled, here / "model")
    (here / "model" / "visual" / "model.onnx").write_bytes(b"no graph")
    done = sightline("index", "pictures", "--model", "./model", cwd=here)
    assert_one_line(done, "visual/model.onnx")
    (here / "model" / "visual" / "model.onnx").unlink()
    done = sightline("index", "pictures", "--model", "./model", cwd=here)
    assert_one_line(done, "visual/model.onnx")


def test_a_query_longer_than_the_model_reads_is_cut_with_a_note(here: Path) -> None:
    assert sightline("index", "pictures", "--model", "mini", cwd=here).returncode == 0
    done = sightline("search", "a red dog on a green hill " * 400, cwd=here)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stderr.count("is too long: the model reads 64 tokens of it") == 1
    assert len(done.stderr.splitlines()) <= 2  # it may say, too, that nothing is likely


def test_a_full_disk_is_one_line_and_the_index_stays_intact(here: Path) -> None:
    """A limit on file sizes stands for a full disk: the write that does not fit fails in the middle of a commit."""
    index(here)
    for number in range(40):
        write(here / "pictures", f"more {number}.jpg", encoded(scene(100 + number), "JPEG"))
    limit = 1024 * (1 + max(path.stat().st_size for path in (here / "photos.index").iterdir()) // 1024)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from sightline.cli.main import main; sys.exit(main(['index', 'pictures', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here, check=False)
    assert_one_line(done, "photos.index")
    assert_intact(here)
    assert index(here)["encoded"] == 40
    assert_intact(here, GOOD + 40)


def test_a_folder_removed_in_mid_run_keeps_what_was_indexed(here: Path) -> None:
    """The second half of the listing finds its files gone: they are failures, and the first half stays."""
    target = Index(str(here / "photos.index"), model="pixels")
    target.add(here / "pictures")

    class Vanishing:
        root = (here / "pictures").as_uri()

        def __iter__(self):  # type: ignore[no-untyped-def]
            from sightline.sources.base import open_source

            items = list(open_source(here / "pictures"))
            shutil.rmtree(here / "pictures")
            write(here / "pictures", "good 0.jpg", encoded(scene(0), "JPEG"))
            os.utime(here / "pictures" / "good 0.jpg", (5, 5))
            return iter([*items[1:], *open_source(here / "pictures")])

    summary = target.add(Vanishing())
    assert summary.removed == 0
    assert target.count() == GOOD


def test_a_clock_going_backwards_changes_nothing(here: Path) -> None:
    index(here)
    for path in (here / "pictures").iterdir():
        os.utime(path, (10**9, 10**9))
    assert index(here)["reused"] == GOOD
    assert index(here)["unchanged"] == GOOD
    assert_intact(here)
