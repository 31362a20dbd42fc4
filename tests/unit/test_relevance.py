"""Hits that chance explains are told from those that it does not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from tests.pictures import scene

from sightline.calibration.relevance import (
    MOST_JUDGED,
    RelevanceCalibration,
    RelevanceJudge,
    calibrate,
    fit,
    is_current,
    judged_together,
    load,
    thresholds,
)
from sightline.cli.main import main
from sightline.index import Index
from sightline.results import Hits, Took, page
from sightline.stores.memory import MemoryStore
from sightline.types import Hit, Record, Vectors, record_id

DIM = 32


@dataclass(frozen=True)
class Words:
    """Reads `word 7` as the seventh of some random vectors around one mean, as a text tower's lie."""

    fingerprint: str = "first"
    name: str = "words"
    dim: int = DIM

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return unit(np.stack([cloud(int(text.split()[-1])) for text in texts]))


def cloud(seed: int) -> Vectors:
    mean = np.full(DIM, 0.1)
    return np.asarray(mean + np.random.default_rng(seed).standard_normal(DIM) * 0.15, np.float32)


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def words(count: int) -> list[str]:
    """More than were asked for: a line of a few pictures is drawn from a few phrases, and is a little low."""
    return [f"word {number}" for number in range(2_000)]


def stats_of(line: RelevanceCalibration, records: Sequence[Record]) -> dict[str, tuple[float, float]]:
    if not records:
        return {}
    means, deviations = line.stats(np.stack([record.vector for record in records]))
    return {one.id: (float(mean), float(std)) for one, mean, std in zip(records, means, deviations, strict=True)}


def store_of(vectors: Vectors) -> MemoryStore:
    store = MemoryStore(DIM)
    store.upsert([Record(record_id(f"p:{n}"), f"p:{n}", vector) for n, vector in enumerate(vectors)])
    return store


def pictures(count: int) -> Vectors:
    return unit(np.random.default_rng(1).standard_normal((count, DIM)).astype(np.float32))


def likely(store: MemoryStore, text: Vectors) -> list[str]:
    (hits,) = store.search(text[None], 10)
    line = load(store, Words())  # type: ignore[arg-type]
    assert line is not None
    needed = thresholds(line, hits, stats_of(line, store.fetch([hit.id for hit in hits])))
    return [hit.uri for hit, least in zip(hits, needed, strict=True) if hit.score >= least]


def test_a_text_that_means_nothing_finds_something_in_one_of_twenty_cases() -> None:
    store = store_of(pictures(300))
    assert calibrate(store, Words(), words)  # type: ignore[arg-type]
    found = [bool(likely(store, unit(cloud(10_000 + seed)))) for seed in range(600)]
    assert 0.02 < np.mean(found) < 0.09


def test_pictures_of_what_the_text_means_are_likely_all_of_them() -> None:
    meant = unit(pictures(1) + 0.4 * pictures(9)[1:])
    store = store_of(np.concatenate([meant, pictures(300)[8:]]))
    calibrate(store, Words(), words)  # type: ignore[arg-type]
    found = likely(store, pictures(1)[0])
    assert {f"p:{n}" for n in range(8)} <= set(found)
    assert len(found) <= 9


def test_a_picture_that_is_near_to_every_text_is_no_answer() -> None:
    hub = unit(np.ones((1, DIM), np.float32))
    store = store_of(np.concatenate([hub, pictures(300)]))
    calibrate(store, Words(), words)  # type: ignore[arg-type]
    firsts = [store.search(unit(cloud(20_000 + seed))[None], 1)[0][0].uri for seed in range(100)]
    assert firsts.count("p:0") > 50
    assert sum("p:0" in likely(store, unit(cloud(20_000 + seed))) for seed in range(100)) < 10


def test_the_height_for_more_pictures_than_were_looked_at_is_near_the_measured_one() -> None:
    texts = Words().encode_texts(words(400))
    few, many = fit(store_of(pictures(500)), texts), fit(store_of(pictures(4_000)), texts)
    ranks = np.array([1, 5, 20])
    assert np.abs(replace(few, pictures=4_000).height(ranks) - many.height(ranks)).max() < 0.35
    assert (many.height(ranks) > few.height(ranks)).all()


def test_the_line_is_drawn_again_for_a_doubled_index_and_for_other_words() -> None:
    store = store_of(pictures(10))
    calibrate(store, Words(), words)  # type: ignore[arg-type]
    store.upsert([Record(record_id(f"q:{n}"), f"q:{n}", vector) for n, vector in enumerate(pictures(10))])
    assert is_current(store, Words())  # type: ignore[arg-type]
    assert not is_current(store, Words("second"))  # type: ignore[arg-type]
    assert load(store, Words("second")) is None  # type: ignore[arg-type]
    store.upsert([Record(record_id("q:more"), "q:more", pictures(1)[0])])
    assert not is_current(store, Words())  # type: ignore[arg-type]


def test_hits_that_were_all_removed_meanwhile_are_nobodys_answer() -> None:
    store = store_of(pictures(10))
    calibrate(store, Words(), words)  # type: ignore[arg-type]
    (hits,) = store.search(pictures(1), 3)
    store.delete([hit.id for hit in hits])
    line = load(store, Words())  # type: ignore[arg-type]
    assert line is not None
    assert thresholds(line, hits, stats_of(line, store.fetch([hit.id for hit in hits]))) == (1.0,) * 3


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(12):
        scene(seed).save(folder / f"{seed}.png")
    index = Index(str(folder.parent / f"{folder.name}.index"), model="mini")
    index.add(folder)
    return index


def test_a_search_by_words_judges_its_hits_and_one_by_a_picture_does_not(index: Index) -> None:
    by_words = index.search("a giraffe in a kitchen", k=5).to_dict()
    assert by_words["likely"] == sum(hit["is_likely"] for hit in by_words["hits"])
    assert all(hit["is_likely"] == (hit["score"] >= hit["line"]) for hit in by_words["hits"])
    by_picture = index.search(image=scene(1), k=5).to_dict()
    assert by_picture["likely"] is None
    assert "line" not in by_picture["hits"][0]


def test_a_later_page_is_judged_with_those_before_it(index: Index) -> None:
    whole = index.search("balloons", k=9)
    pages = [index.search("balloons", k=3, offset=offset) for offset in (0, 3, 6)]
    assert [hit for page in pages for hit in page] == list(whole)
    assert pages[0].thresholds
    below = index.search("balloons", k=3, offset=3, min_score=whole[4].score)
    assert (list(below), below.thresholds) == (list(whole[3:5]), index.search("balloons", k=5).thresholds[3:])  # type: ignore[index]
    assert index.search("balloons", k=5, offset=990).thresholds is None
    assert index.search("balloons", k=5, offset=996).thresholds is None


def test_the_line_is_the_same_however_many_are_asked_for(index: Index) -> None:
    for text in ("balloons", "a red circle", "a giraffe in a kitchen"):
        whole = index.search(text, k=12)
        assert whole.thresholds is not None
        for k in (1, 3, 4, 8):
            assert index.search(text, k=k).thresholds == whole.thresholds[:k]


def test_the_line_of_many_hits_goes_on_where_that_of_few_ends() -> None:
    store = store_of(pictures(400))
    calibrate(store, Words(), words)  # type: ignore[arg-type]
    (hits,) = store.search(pictures(1), 400)
    line = load(store, Words())  # type: ignore[arg-type]
    assert line is not None
    stats = stats_of(line, list(store.scan()))
    few, many = (thresholds(line, hits[: judged_together(count)], stats) for count in (3, 100))
    assert (len(few), len(many)) == (64, 256)
    assert many[:64] == few
    assert judged_together(MOST_JUDGED) == MOST_JUDGED


def test_programs_are_told_beside_their_lines(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = "xylophone quartz bureaucracy"
    assert index.search(nothing, k=3).likely == ()
    for options in ([], ["--paths"]):
        assert main(["search", nothing, "--index", index.url, "-k", "3", *options]) == 0
        told = capsys.readouterr()
        assert len(told.out.splitlines()) == 3
        assert told.err == "sightline: no confident match: these are the closest results\n"
    main(["search", nothing, "--index", index.url, "--json"])
    assert capsys.readouterr().err == ""


def test_what_is_below_the_line_is_shown_below_it(tmp_path: Path) -> None:
    hits = tuple(Hit(str(n), f"file:///{n}.jpg", 0.5 - n / 10) for n in range(3))
    some = Hits("a dog", "mini", Took(1, 1), hits, (0.45, 0.45, 0.2))
    assert str(some).splitlines()[1:] == [
        " 0.500  /0.jpg",
        " 0.300  /2.jpg",
        "Low confidence:",
        " 0.400  /1.jpg",
    ]
    none = Hits("a dog", "mini", Took(1, 1), hits, (0.9, 0.9, 0.9))
    assert "No confident match. Closest results:" in str(none)
    assert "No confident match. Closest results" in page([none], title="dog")
    assert "robably" not in page([Hits("a dog", "mini", Took(1, 1), hits)], title="dog")


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Index]:
    (tmp_path / "photos").mkdir()
    for seed in range(12):
        scene(seed).save(tmp_path / "photos" / f"{seed}.png")
    with Index(str(tmp_path / "photos.index"), model="mini") as index:
        index.add(tmp_path / "photos")
        yield index


def each_alone(index: Index, hits: tuple[Hit, ...]) -> tuple[float, ...]:
    line = load(index.store, index.encoder)
    assert line is not None
    return thresholds(line, hits, stats_of(line, index.store.fetch([hit.id for hit in hits])))


def found(index: Index, text: str) -> tuple[Hit, ...]:
    return index.search(text, k=12).hits


def test_a_batch_is_judged_as_each_query_alone(filled: Index) -> None:
    judge = RelevanceJudge(filled.store, filled.encoder, {})
    some, others = found(filled, "balloons"), found(filled, "a giraffe")[:5]
    expected = [each_alone(filled, hits) for hits in (some, others)]
    first, none, last = judge.thresholds([some, (), others])
    assert none is None
    assert first == pytest.approx(expected[0])
    assert last == pytest.approx(expected[1])
    assert judge.thresholds([()]) == [None]


def test_a_changed_picture_is_read_again_and_an_unchanged_one_is_not(filled: Index, tmp_path: Path) -> None:
    judge = RelevanceJudge(filled.store, filled.encoder, {})
    before = judge.thresholds([found(filled, "balloons")])
    scene(99).save(tmp_path / "photos" / "0.png")
    filled.add(tmp_path / "photos")
    hits = found(filled, "balloons")
    (before_change,), (after,) = before, judge.thresholds([hits])
    assert after == pytest.approx(each_alone(filled, hits))
    assert after != pytest.approx(before_change)
    filled.remove([hit.id for hit in hits])
    assert judge.thresholds([hits]) == [after]  # they are not in the store any more


def test_a_line_of_another_text_tower_is_none(filled: Index) -> None:
    judge = RelevanceJudge(filled.store, filled.encoder, {})
    assert judge.calibration
    note = filled.store.notes("line")["line"]
    filled.store.write_notes("line", {"line": note | {"fingerprint": "of other words"}})
    assert not RelevanceJudge(filled.store, filled.encoder, {}).calibration
    filled.store.write_notes("line", {"line": None})
    assert not RelevanceJudge(filled.store, filled.encoder, {}).calibration
