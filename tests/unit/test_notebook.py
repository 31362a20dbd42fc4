"""Indexes side by side, in a notebook and as a page."""

import re
from pathlib import Path

import pytest
from tests.pictures import scene

from sightline.cli.main import main
from sightline.errors import UsageError
from sightline.index import Index
from sightline.notebook import compare


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
    assert "knows no words" in html
    assert "2.png" in str(shown)


def test_a_search_can_be_shown_and_kept(folder: Path) -> None:
    with Index(str(folder / "mini.index")) as index:
        hits = index.search("a red circle", k=2)
    assert hits.show()._repr_html_() == hits._repr_html_()
    assert str(hits.show()) == str(hits)


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
