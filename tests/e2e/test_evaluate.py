"""`sightline evaluate` on judged pictures and on an index."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.pictures import encoded, scene, write

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
SHARED = Path(__file__).parents[3] / "shared" / "data" / "flickr8k"


def sightline(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sightline", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        check=False,
        env=os.environ | {"SIGHTLINE_OFFLINE": "1", "SIGHTLINE_CACHE": str(cwd / "cache")},
    )


def measured(*arguments: str, cwd: Path) -> dict[str, Any]:
    done = sightline("evaluate", *arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Plain pictures, each with two captions that name its colour."""
    rows = ["image\tcaption"]
    for colour in COLOURS:
        write(tmp_path / "pictures", f"{colour}.png", encoded(Image.new("RGB", (64, 48), colour), "PNG"))
        rows += [f"{colour}.png\tthe colour {colour}", f"{colour}.png\ta {colour} wall"]
    (tmp_path / "captions.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_the_json_has_the_stable_shape(here: Path) -> None:
    result = measured("captions.tsv", "--images", "pictures", "--model", "mini", cwd=here)
    assert (result["dataset"], result["gallery"], result["queries"]) == ("captions", 6, 12)
    (model,) = result["models"]
    assert {"recall@1", "recall@5", "recall@10", "mrr", "ndcg@10"} <= set(model["text_to_image"])
    assert set(model["image_to_text"]) == set(model["text_to_image"])
    assert model["text_to_image"]["recall@10"] == 1.0
    assert model["ms_per_text"] > 0
    low, high = model["intervals"]["text_to_image"]["mrr"]
    assert 0 <= low <= model["text_to_image"]["mrr"] <= high <= 1


def test_a_second_run_encodes_nothing_and_says_the_same(here: Path) -> None:
    command = ("captions.tsv", "--images", "pictures", "--model", "mini")
    first = measured(*command, cwd=here)["models"][0]
    before = {path: path.stat().st_mtime_ns for path in (here / "cache").rglob("vectors-*.int8")}
    second = measured(*command, cwd=here)["models"][0]
    assert first["text_to_image"] == second["text_to_image"]
    assert before == {path: path.stat().st_mtime_ns for path in (here / "cache").rglob("vectors-*.int8")}


def test_two_models_are_compared_and_the_report_shows_the_worst_queries(here: Path) -> None:
    for number in range(12):
        write(here / "classes" / COLOURS[number % 2], f"{number}.png", encoded(scene(number), "PNG"))
    command = ("evaluate", "classes", "--model", "mini", "--model", "pixels", "--report", "report.html")
    done = sightline(*command, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "classification" in done.stdout
    assert "pixels" in done.stdout
    page = (here / "report.html").read_text("utf-8")
    assert "instead of" in page
    assert page.count("data:image/webp") >= 4


def test_an_index_in_a_folder_is_exact_for_text_and_for_pictures(here: Path) -> None:
    assert sightline("index", "pictures", "--model", "mini", cwd=here).returncode == 0
    done = sightline("evaluate", "--index", "photos.index", "--sample", "20", "--json", cwd=here)
    found = {part["queries"]: part["recall"] for part in json.loads(done.stdout)}
    assert found == {"text": 1.0, "image": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.tsv"], "nowhere.tsv cannot be read"),
        (["captions.tsv", "--images", "pictures", "--split", "dev"], "no column split"),
        (["captions.tsv", "--images", "nowhere"], "judges no picture"),
        (["captions.tsv", "--index", "x.index"], "give one of the two"),
        ([], "nothing to measure"),
        (["--index", "x.index", "--sample", "0"], "--sample: '0' is not valid, expected a whole number of at least 1"),
    ],
)
def test_wrong_use_gets_one_clear_line(here: Path, arguments: list[str], message: str) -> None:
    done = sightline("evaluate", *arguments, cwd=here)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the pictures of ../shared are not here")
def test_mini_reaches_its_bar_on_pictures_it_never_saw(tmp_path: Path) -> None:
    result = measured(
        str(SHARED / "captions.tsv"),
        "--images",
        str(SHARED / "images"),
        "--split",
        "dev",
        "--model",
        "mini",
        cwd=tmp_path,
    )
    assert result["models"][0]["text_to_image"]["recall@10"] >= 0.48
