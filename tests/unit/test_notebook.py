"""Indexes side by side, in a notebook and as a page."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tests.archives import make_zip
from tests.pictures import scene

from sightline.cli.main import main
from sightline.errors import UsageError
from sightline.index import Index
from sightline.notebook import compare
from sightline.results import Hits, Took, page
from sightline.types import Hit

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes in an index of words and in one that knows none."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "photos").mkdir()
    for seed in range(6):
        scene(seed, (64, 48)).save(folder / "photos" / f"{seed}.png")
    for model in ("mini", "pixels"):
        with Index(str(folder / f"{model}.index"), model=model) as index:
            index.add(folder / "photos")
    return folder


def test_each_index_has_a_row_for_each_query_with_scores(folder: Path) -> None:
    urls = {"meaning": str(folder / "mini.index"), "look": str(folder / "pixels.index")}
    shown = compare(urls, ["a red circle", folder / "photos" / "2.png"], k=3)
    html = shown._repr_html_()
    assert html.count('class="strip"') == 4
    assert len(re.findall(r"<b>\d\.\d{3}</b>", html)) == 9  # pixels knows no words
    assert "no text encoder" in html
    assert "2.png" in str(shown)


def test_a_search_can_be_shown_and_kept(folder: Path) -> None:
    with Index(str(folder / "mini.index")) as index:
        hits = index.search("a red circle", k=2)
    assert hits.show()._repr_html_() == hits._repr_html_()
    assert str(hits.show()) == str(hits)


class Notebook(ModuleType):
    """Stands for IPython in a kernel: `lines` are the outputs of a cell, each with all texts that it showed."""

    def __init__(self, shell: object) -> None:
        super().__init__("IPython")
        self.get_ipython, self.lines = lambda: shell, list[list[str]]()

    def display(self, line: dict[str, str], *, raw: bool, display_id: bool) -> object:
        assert raw
        assert display_id
        self.lines.append([])

        def update(line: dict[str, str], raw: bool) -> None:
            self.lines[-1].append(line["text/plain"])

        update(line, raw)
        return SimpleNamespace(update=update)


@pytest.mark.parametrize("is_notebook", [True, False])
def test_a_notebook_shows_one_line_of_progress_and_a_terminal_none(
    tmp_path: Path, is_notebook: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook(SimpleNamespace(kernel=True) if is_notebook else SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    for seed in range(40):
        scene(seed, (32, 24)).save(tmp_path / f"{seed}.png")
    (tmp_path / "broken.png").write_bytes(b"broken")
    with Index(str(tmp_path / "some.index"), model="pixels") as index:
        index.add(tmp_path)
    assert len(notebook.lines) == is_notebook
    for line in notebook.lines:
        assert len(line) > 1
        assert re.fullmatch(r"41 pictures, [\d,]+ a second, 1 failed", line[-1])
    assert capsys.readouterr() == ("", "")


def test_nothing_to_compare_is_said(folder: Path) -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        compare({}, "a dog")


def test_the_command_writes_a_page_with_the_evaluation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"photos/{seed}.png\tscene {seed}\n" for seed in range(6))
    (folder / "captions.tsv").write_text("image\tcaption\n" + rows)
    (folder / "queries.txt").write_text("a red circle\n\na blue square & more\n")
    indexes = ["--index", str(folder / "mini.index"), "--index", str(folder / "pixels.index")]
    page = folder / "compare.html"
    judged = ["--judgements", str(folder / "captions.tsv")]
    assert main(["compare", str(folder / "queries.txt"), *indexes, "--html", str(page), *judged]) == 0
    assert "text to image" in capsys.readouterr().out
    text = page.read_text()
    assert text.count("<section") == 2
    assert "a blue square &amp; more" in text
    assert "recall@10" in text
    assert "http" not in text.replace("http-equiv", "").replace("https://", "http")
    assert main(["compare", "a dog", "--index", str(folder / "mini.index")]) == 2


def test_the_command_says_what_it_did_and_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mini, pixels = (str(folder / f"{model}.index") for model in ("mini", "pixels"))
    both = ["--index", mini, "--index", pixels]
    assert main(["compare", "a dog", *both]) == 0
    assert "pixels: nothing for 'a dog', model pixels (no text encoder)" in capsys.readouterr().out
    assert main(["compare", "a dog", *both, "--html", str(folder / "a.html")]) == 0
    assert f"wrote {folder / 'a.html'}: 2 indexes" in capsys.readouterr().out
    assert main(["compare", str(folder / "missing.txt"), *both]) == 2
    assert "missing.txt does not exist" in capsys.readouterr().err
    assert main(["compare", "a dog", "--index", mini, "--index", mini]) == 2
    assert "is given twice" in capsys.readouterr().err


def test_json_holds_the_hits_and_what_was_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"photos/{seed}.png\tscene {seed}\n" for seed in range(6))
    (folder / "judged.tsv").write_text("image\tcaption\n" + rows)
    both = ["--index", str(folder / "mini.index"), "--index", str(folder / "pixels.index")]
    assert main(["compare", "a dog", *both, "--judgements", str(folder / "judged.tsv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["hits"]) == ["mini", "pixels"]
    assert [model["name"] for model in found["models"]] == ["mini", "pixels"]


def test_a_page_shows_pictures_in_archives_and_those_on_the_web_where_they_lie(folder: Path) -> None:
    make_zip(folder / "a.zip", {"0.png": (folder / "photos" / "0.png").read_bytes()})
    uris = [f"{(folder / 'a.zip').as_uri()}#0.png", "https://example.org/1.jpg"]
    hits = Hits("x", "mini", Took(0, 0), tuple(Hit(uri, uri, 0.5, {}) for uri in uris))
    html = page([hits], title="x")
    assert "data:image/webp" in html
    assert '<img src="https://example.org/1.jpg"' in html
    assert "file not available" not in html


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
@pytest.mark.parametrize("colours", ["white; color: black", "black; color: white"])
def test_in_a_notebook_the_colours_are_its_own_whatever_the_desktop_prefers(folder: Path, colours: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    shown = compare({"meaning": str(folder / "mini.index")}, "a red circle", k=2)._repr_html_()
    ink = {"black": "rgb(0, 0, 0)", "white": "rgb(255, 255, 255)"}[colours.rpartition(" ")[2]]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            tab = browser.new_page(color_scheme=scheme)
            tab.set_content(f"<body style='background: {colours}'>{shown}</body>")
            assert tab.evaluate("getComputedStyle(document.querySelector('h2')).color") == ink
            faint = tab.evaluate("getComputedStyle(document.querySelector('figcaption')).color")
            assert faint != ink
            assert faint.replace(" ", "").startswith("color(srgb000/" if "0, 0" in ink else "color(srgb111/")
        browser.close()


def test_rows_stay_in_the_order_of_their_scores() -> None:
    """A likely hit may score less than an unlikely one, as each has its own threshold."""
    hits = tuple(
        Hit(name, f"file:///{name}", score) for name, score in (("a", 0.5), ("b", 0.4), ("c", 0.3), ("d", 0.2))
    )
    found = Hits("a dog", "mini", Took(1, 1), hits, thresholds=(0.45, 0.45, 0.25, 0.25))
    assert found.with_verdict(["a", "b", "c", "d"]) == ["a", "b  (low confidence)", "c", "Low confidence:", "d"]
    none = Hits("a dog", "mini", Took(1, 1), hits, thresholds=(1.0,) * 4)
    assert none.with_verdict(["a", "b", "c", "d"])[0] == "No confident match. Closest results:"
    assert Hits("a dog", "mini", Took(1, 1), hits).with_verdict(["a", "b", "c", "d"]) == ["a", "b", "c", "d"]
