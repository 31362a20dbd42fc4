"""Two indexes of the same pictures, searched together: the ranking is that of the weighted scores of all pictures."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.pictures import scene

from sightline import fusion
from sightline.cli.main import main
from sightline.errors import TextNotSupported, UsageError
from sightline.fusion import Part
from sightline.index import Index
from sightline.query import SearchQuery, Term
from sightline.types import Record, Vectors, record_id

PICTURES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        scene(number, (64, 48)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def indexes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Index]]:
    place = tmp_path_factory.mktemp("indexes")
    made = [Index(str(place / f"{model}.index"), model=model) for model in ("mini", "colour", "pixels")]
    for index in made:
        index.add(folder)
    yield made
    for index in made:
        index.close()


def scores(index: Index, picture: Path) -> dict[str, float]:
    """The cosine of every picture, one by one."""
    vector = index.embed([[Term("image", picture)]])[0]
    return {record.uri: float(record.vector @ vector) for record in index.store.scan()}


def test_the_ranking_is_that_of_the_weighted_scores(indexes: list[Index], folder: Path) -> None:
    query = folder / "7.png"
    one, other = (scores(index, query) for index in indexes[:2])
    fused = {uri: 0.7 * one[uri] + 0.3 * other[uri] for uri in one}
    expected = sorted(fused, key=lambda uri: (-fused[uri], record_id(uri)))
    parts = [Part(index, weight) for index, weight in zip(indexes, (7, 3), strict=False)]
    hits = fusion.search(parts, SearchQuery((Term("image", query),), k=10))
    assert [hit.uri for hit in hits] == expected[:10]
    np.testing.assert_allclose([hit.score for hit in hits], [fused[uri] for uri in expected[:10]], atol=1e-5)
    assert hits.model == "0.7 mini + 0.3 colour"
    page = fusion.search(parts, SearchQuery((Term("image", query),), k=4, offset=3))
    assert [hit.uri for hit in page] == expected[3:7]


def test_a_filter_alone_lists_what_all_indexes_have(
    indexes: list[Index], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(tmp_path / "few.index")
    with Index(url, model="pixels") as few:
        few.add([folder / "3.png", folder / "5.png", folder / "7.png"])
    names = json.dumps({"name": {"$in": ["2.png", "3.png", "7.png", "9.png"]}})
    for first, second in ((indexes[0].url, url), (url, indexes[0].url)):
        assert main(["search", "--index", first, "--index", second, "--where", names, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {hit["payload"]["name"] for hit in found["hits"]} == {"3.png", "7.png"}
        assert found["total"] == 2
    assert main(["search", "--index", url, "--index", indexes[0].url, "--where", "name=2.png"]) == 1
    assert "no picture passes" in capsys.readouterr().out


def test_weights_lead_from_the_one_ranking_to_the_other(indexes: list[Index], folder: Path) -> None:
    terms = [Term("image", folder / "3.png")]
    alone = [[hit.uri for hit in index.search(terms=terms, k=5)] for index in indexes[:2]]
    assert alone[0] != alone[1]
    for weights, expected in (((1, 1e-6), alone[0]), ((1e-6, 1), alone[1])):
        parts = [Part(index, weight) for index, weight in zip(indexes, weights, strict=False)]
        assert [hit.uri for hit in fusion.search(parts, SearchQuery(tuple(terms), k=5))] == expected


def test_an_index_without_words_sees_the_pictures_of_the_query_alone(indexes: list[Index], folder: Path) -> None:
    mini, colour = indexes[:2]
    terms = [Term("text", "a red circle"), Term("image", folder / "3.png")]
    hits = fusion.search([Part(mini), Part(colour)], SearchQuery(tuple(terms), k=PICTURES))
    meaning = {hit.uri: hit.score for hit in mini.search(terms=terms, k=PICTURES)}
    look = {hit.uri: hit.score for hit in colour.search(image=folder / "3.png", k=PICTURES)}
    for hit in hits:
        assert hit.score == pytest.approx((meaning[hit.uri] + look[hit.uri]) / 2, abs=1e-4)


def test_words_alone_are_answered_by_the_index_that_knows_them(indexes: list[Index]) -> None:
    hits = fusion.search([Part(indexes[1], 5), Part(indexes[0])], SearchQuery((Term("text", "a red circle"),), k=5))
    alone = indexes[0].search("a red circle", k=5)
    assert [hit.uri for hit in hits] == [hit.uri for hit in alone]
    assert hits.model == "1 mini"
    with pytest.raises(TextNotSupported, match="has a text encoder: add --image"):
        fusion.search([Part(indexes[1]), Part(indexes[2])], SearchQuery((Term("text", "a red circle"),)))


def test_the_filter_and_the_payload_are_those_of_the_first_index(indexes: list[Index], folder: Path) -> None:
    parts = [Part(index) for index in indexes]
    names = [f"{number}.png" for number in (1, 5, 9)]
    hits = fusion.search(parts, SearchQuery((Term("image", folder / "3.png"),), where={"name": {"$in": names}}))
    assert sorted(str(hit.payload["name"]) for hit in hits) == names


def test_a_picture_that_one_index_lacks_is_not_found(folder: Path, tmp_path: Path) -> None:
    with Index(str(tmp_path / "a.index"), model="colour") as one, Index("memory:", model="pixels") as other:
        one.add(folder)
        other.add(folder)
        best = one.search(image=folder / "3.png", k=1)[0]
        other.remove([best.uri])
        hits = fusion.search([Part(one), Part(other)], SearchQuery((Term("image", folder / "3.png"),), k=PICTURES))
        assert len(hits) == PICTURES - 1
        assert best.uri not in [hit.uri for hit in hits]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_a_number_above_zero(weight: float, indexes: list[Index], folder: Path) -> None:
    with pytest.raises(UsageError, match="expected a number above 0"):
        fusion.search([Part(indexes[0], weight)], SearchQuery((Term("image", folder / "3.png"),)))


def test_it_widens_until_nothing_unseen_can_be_better(tmp_path: Path) -> None:
    """The best picture by both is far down in each list: 300 pictures that only one index likes stand above it."""
    chance = np.random.default_rng(0)
    count, liked = 1000, 300
    first, second = np.full(count, 0.0), np.full(count, 0.0)
    first[:liked], second[liked : 2 * liked] = 0.9, 0.9
    first[-1] = second[-1] = 0.8
    for values in (first, second):
        values[:-1] += chance.uniform(-0.01, 0.01, count - 1)
    query = scene(0, (64, 48))
    with Index("memory:", model="pixels") as one, Index("memory:", model="pixels") as other:
        for index, values in ((one, first), (other, second)):
            index.add(_saved(tmp_path))  # makes the store; the records that count follow
            index.remove([hit.uri for hit in index.store.scan()])
            index.store.upsert(_records(_at(index.embed([[Term("image", query)]])[0], values)))
        hits = fusion.search([Part(one), Part(other)], SearchQuery((Term("image", query),), k=3))
    assert hits[0].uri == f"test:/{count - 1}"
    assert hits[0].score == pytest.approx(0.8, abs=1e-5)


def _saved(folder: Path) -> Path:
    scene(0, (64, 48)).save(folder / "a.png")
    return folder


def _at(query: Vectors, cosines: Sequence[float] | np.typing.NDArray[np.float64]) -> Vectors:
    """Unit vectors with these cosines to a query."""
    side = np.zeros_like(query)
    side[np.argmin(np.abs(query))] = 1
    side -= query * (side @ query)
    side /= np.linalg.norm(side)
    values = np.asarray(cosines, np.float32)[:, None]
    return np.asarray(values * query + np.sqrt(1 - values**2) * side, np.float32)


def _records(vectors: Vectors) -> list[Record]:
    uris = [f"test:/{number}" for number in range(len(vectors))]
    return [Record(record_id(uri), uri, vector) for uri, vector in zip(uris, vectors, strict=True)]


class TestCommandLine:
    """`sightline search` with several --index."""

    def test_two_indexes_are_one_ranking(
        self, indexes: list[Index], folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        urls = [part for index in indexes[:2] for part in ("--index", index.url)]
        arguments = ["search", "--image", str(folder / "7.png"), *urls, "--weight", "0.7", "--weight", "0.3", "--paths"]
        assert main([*arguments, "-k", "6"]) == 0
        parts = [Part(indexes[0], 0.7), Part(indexes[1], 0.3)]
        expected = fusion.search(parts, SearchQuery((Term("image", folder / "7.png"),), k=6))
        assert capsys.readouterr().out.split() == [hit.uri.removeprefix("file://") for hit in expected]

    @pytest.mark.parametrize(
        ("more", "told"),
        [
            (["--weight", "1"], "1 weight for 2 indexes"),
            (["--model", "mini"], "--model is for one index"),
            (["--weight", "1", "--weight", "0"], "expected a number above 0"),
        ],
    )
    def test_wrong_use_is_refused(
        self, more: list[str], told: str, indexes: list[Index], folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        urls = [part for index in indexes[:2] for part in ("--index", index.url)]
        assert main(["search", "--image", str(folder / "7.png"), *urls, *more]) == 2
        assert told in capsys.readouterr().err


def test_indexes_of_different_pictures_are_told_apart_from_nothing_found(indexes: list[Index], tmp_path: Path) -> None:
    scene(99, (64, 48)).save(tmp_path / "other.png")
    with Index(str(tmp_path / "other.index"), model="mini") as other:
        other.add(tmp_path / "other.png")
        with pytest.raises(UsageError, match="have no picture in common, expected indexes of the same files"):
            fusion.search([Part(indexes[0]), Part(other)], SearchQuery((Term("text", "a red circle"),)))
