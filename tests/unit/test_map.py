"""A map of pictures: alike ones side by side, everything in one page."""

import base64
import json
import re
import shutil
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.archives import make_zip
from tests.pictures import encoded, scene

from sightline.analysis.map import page, principal_components, project
from sightline.cli.main import main
from sightline.errors import ExtraMissing, UsageError
from sightline.index import Index
from sightline.types import Record

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def data_of(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'id="data">(.*?)</script>', html, re.DOTALL)
    return dict(json.loads(text))


def test_principal_components_are_those_of_the_singular_value_decomposition() -> None:
    vectors = np.random.default_rng(0).standard_normal((60, 9)).astype(np.float32) * np.arange(1, 10)
    left, values, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    found = principal_components(vectors.astype(np.float32))
    assert np.allclose(np.abs(found), np.abs((left * values)[:, :2]), atol=0.02)


def test_alike_pictures_lie_side_by_side_and_all_on_the_page() -> None:
    noise = np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32) * 0.05
    vectors = noise + np.repeat(np.eye(2, 16, dtype=np.float32), 20, axis=0)
    places, method = project(vectors, "pca")
    assert method == "pca"
    assert np.linalg.norm(places[:20].mean(axis=0) - places[20:].mean(axis=0)) > 0.6
    assert (places >= -0.02).all()
    assert (places <= 1.02).all()


def test_a_method_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="pca"):
        project(np.eye(4, dtype=np.float32), "tsne")
    if find_spec("umap") is None:
        with pytest.raises(ExtraMissing, match="pip install umap-learn"):
            project(np.eye(4, dtype=np.float32), "umap")


def test_names_cannot_end_the_script_and_lost_files_leave_a_tile() -> None:
    records = [
        Record(
            str(n), f"file:///gone/{n}.jpg", np.ones(2, np.float32), {"name": "</script><b>", "tags": ["x", "y"][n:]}
        )
        for n in range(3)
    ]
    html = page(records, np.zeros((3, 2), np.float32), title="<i>")
    assert html.count("</script>") == 2
    assert "<title>&lt;i&gt;</title>" in html
    data = data_of(html)
    assert data["names"] == ["</script><b>"] * 3
    assert data["colours"]["tag"] == {"names": ["y"], "of": [0, 0, -1]}
    assert len(data["sheets"]) == 1


@pytest.fixture(scope="module")
def map_of_twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map")
    for seed in range(12):
        place = folder / "photos" / ("sea" if seed % 3 else "land")
        place.mkdir(parents=True, exist_ok=True)
        scene(seed, (96, 64)).save(place / f"{seed}.png")
    with Index(str(folder / "a.index"), model="pixels") as index:
        index.add(folder / "photos")
    assert main(["map", "--index", str(folder / "a.index"), "--html", str(folder / "map.html")]) == 0
    return folder / "map.html"


def test_the_page_holds_everything_itself(map_of_twelve: Path) -> None:
    html = map_of_twelve.read_text("utf-8")
    assert not re.search(r'(?:src|href)\s*=\s*"(?!data:)', html)
    assert "http" not in html
    data = data_of(html)
    assert sorted(data["colours"]["folder"]["names"]) == ["land", "sea"]
    assert len(data["places"]) == len(data["uris"]) == 12


def test_too_few_pictures_are_no_map(map_of_twelve: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(map_of_twelve.parent / "a.index")
    assert main(["map", "--index", url, "--limit", "2"]) == 2
    assert "at least 3" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_the_map_can_be_zoomed_coloured_and_pointed_at(map_of_twelve: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 800, "height": 600})
        faults: list[str] = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(map_of_twelve.as_uri())
        tab.wait_for_function("sheets.every((sheet) => sheet.naturalWidth) && placed.length === 12")
        at, left, top, side = tab.evaluate("placed[5]")
        tab.mouse.move(left + side / 2, top + side / 2)
        assert tab.locator("#near p").inner_text().split("\n")[0] == tab.evaluate(f"data.names[{at}]")
        tab.locator("#legend button", has_text="land").click()
        tab.wait_for_function("placed.length === 4")
        tab.locator("#legend button", has_text="land").click()
        before = tab.evaluate("side()")
        tab.locator("#map").focus()
        tab.keyboard.press("+")
        tab.mouse.move(600, 300)
        tab.mouse.down()
        tab.mouse.move(500, 300, steps=3)
        tab.mouse.up()
        assert tab.evaluate("side()") > before
        assert tab.evaluate("view.x") > 0.5
        tab.locator("#all").click()
        assert tab.evaluate("view") == {"x": 0.5, "y": 0.5, "zoom": 1}
        browser.close()
    assert faults == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_wherever_the_map_is_moved_and_zoomed_some_picture_stays_in_view(map_of_twelve: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 800, "height": 600})
        tab.goto(map_of_twelve.as_uri())
        tab.wait_for_function("sheets.every((sheet) => sheet.naturalWidth) && placed.length === 12")
        tab.evaluate("zoomAt(5, 595, 1000); move(1e6, -1e6); paint()")
        assert tab.evaluate("placed.length") >= 1
        tab.evaluate("centre(1000); paint()")
        assert tab.evaluate("placed.length") >= 1
        assert tab.evaluate("view.zoom") < 200
        browser.close()


def test_pictures_in_an_archive_have_their_tiles(tmp_path: Path) -> None:
    files = {f"{seed}.png": encoded(scene(seed, (64, 64)), "PNG") for seed in range(3)}
    make_zip(tmp_path / "photos.zip", files)
    records = [
        Record(str(seed), f"{(tmp_path / 'photos.zip').as_uri()}#{seed}.png", np.ones(2, np.float32), {})
        for seed in (2, 0, 1)
    ]
    (sheet,) = data_of(page(records, np.zeros((3, 2), np.float32), title="zip"))["sheets"]
    with Image.open(BytesIO(base64.b64decode(sheet.partition(",")[2]))) as image:
        for at, seed in enumerate((2, 0, 1)):
            tile = np.asarray(image.convert("RGB").crop((at * 64, 0, at * 64 + 64, 64)), np.float32)
            assert np.abs(tile - np.asarray(scene(seed, (64, 64)).convert("RGB"), np.float32)).mean() < 20
