"""One query text means the same on the command line, in Python and over HTTP."""

import json
from collections.abc import Iterator

import pytest
from tests.pictures import scene
from tests.serving import Server, serving

from sightline.cli.main import main
from sightline.index import Index
from sightline.query import Term

TEXTS = {
    "dog -snow": "dog - snow",
    "dog - snow": "dog - snow",
    "a dog + 2:a red car": "a dog + 2:a red car",
    '"dog - snow"': "dog - snow",
    "16:9 wallpaper": "16:9 wallpaper",
    "id:card": "id:card",
    "a photo called sunset.png": "a photo called sunset.png",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(4):
        scene(number, (64, 48)).save(folder / f"{number}.png")
    with Index(str(folder / "photos.index"), model="mini") as index:
        index.add(folder)
    return str(folder / "photos.index")


@pytest.fixture(scope="module")
def server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(url, cache=tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_means_the_same_on_every_surface(
    text: str, url: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with Index(url) as index:
        by_python = index.search(text, k=4).to_dict()
    assert main(["search", text, "--index", url, "-k", "4", "--json"]) == 0
    by_command = json.loads(capsys.readouterr().out)
    over_http = json.loads(server.ask("/api/search", {"text": text, "k": 4}).body)
    assert by_python["query"] == by_command["query"] == TEXTS[text]
    found = [[(hit["id"], hit["score"]) for hit in answer["hits"]] for answer in (by_python, by_command, over_http)]
    assert found[0] == found[1] == found[2]


def test_signs_in_a_text_do_what_terms_do(url: str) -> None:
    with Index(url) as index:
        terms = [Term("text", "a red circle"), Term("text", "a blue square", -1.0)]
        assert index.search("a red circle - a blue square").hits == index.search(terms=terms).hits
