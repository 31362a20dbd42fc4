"""A server that judges hits remembers pictures, and says what the library says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pictures import scene

from sightline.calibration.line import chance_scores, drawn, stands_of
from sightline.index import Index
from sightline.server.judging import Judge
from sightline.types import Hit


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    (tmp_path / "photos").mkdir()
    for seed in range(12):
        scene(seed).save(tmp_path / "photos" / f"{seed}.png")
    with Index(str(tmp_path / "photos.index"), model="mini") as index:
        index.add(tmp_path / "photos")
        yield index


def chances(index: Index, hits: tuple[Hit, ...]) -> tuple[float, ...]:
    line = drawn(index.store, index.encoder)
    assert line is not None
    return chance_scores(line, hits, stands_of(line, index.store.fetch([hit.id for hit in hits])))


def found(index: Index, text: str) -> tuple[Hit, ...]:
    return index.search(text, k=12).hits


def test_a_batch_is_judged_as_each_query_alone(index: Index) -> None:
    judge = Judge(index.store, index.encoder)
    some, others = found(index, "balloons"), found(index, "a giraffe")[:5]
    expected = [chances(index, hits) for hits in (some, others)]
    first, none, last = judge.chances([some, (), others])
    assert none is None
    assert first == pytest.approx(expected[0])
    assert last == pytest.approx(expected[1])
    assert judge.chances([()]) == [None]


def test_a_changed_picture_is_read_again_and_an_unchanged_one_is_not(index: Index, tmp_path: Path) -> None:
    judge = Judge(index.store, index.encoder)
    before = judge.chances([found(index, "balloons")])
    scene(99).save(tmp_path / "photos" / "0.png")
    index.add(tmp_path / "photos")
    hits = found(index, "balloons")
    (before_change,), (after,) = before, judge.chances([hits])
    assert after == pytest.approx(chances(index, hits))
    assert after != pytest.approx(before_change)
    index.remove([hit.id for hit in hits])
    assert judge.chances([hits]) == [after]  # they are not in the store any more


def test_a_line_of_another_text_tower_is_none(index: Index) -> None:
    judge = Judge(index.store, index.encoder)
    assert judge.has_line
    note = index.store.notes("line")["line"]
    index.store.write_notes("line", {"line": note | {"fingerprint": "of other words"}})
    assert not Judge(index.store, index.encoder).has_line
    index.store.write_notes("line", {"line": None})
    assert not Judge(index.store, index.encoder).has_line
