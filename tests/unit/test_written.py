"""What is written in payloads is found, ranked, marked and joined with meaning."""

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.pictures import scene
from tests.records import plain_record

from sightline.errors import UsageError
from sightline.index import Index
from sightline.stores.local.store import LocalStore
from sightline.stores.memory import MemoryStore
from sightline.stores.written import Matcher, Phrase, fuse, known, phrases_of, texts_of
from sightline.types import Payload

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Numero Uno", [("numero",), ("uno",)]),
        ("a photo of the Café", [("photo",), ("cafe",)]),
        ("of the", [("of",), ("the",)]),
        ('a "Canon EOS" camera', [("canon", "eos"), ("camera",)]),
        ('"unbalanced quotes', [("unbalanced",), ("quotes",)]),
        ("雪山 snow", [("雪", "山"), ("snow",)]),
        ('AND OR NEAR(x) * ^ col:umn "', [("near",), ("x",), ("col",), ("umn",)]),
        ("+ - * ^ : \0", []),
        ("🎉", []),
    ],
)
def test_the_words_of_a_question(text: str, words: list[tuple[str, ...]]) -> None:
    assert [phrase.words for phrase in phrases_of([(text, False)])] == words


def test_ten_thousand_words_are_as_many_as_can_be_looked_for() -> None:
    assert len(phrases_of([(" ".join(f"w{number}" for number in range(10_000)), False)])) == 64


@pytest.mark.parametrize("typed", ["sunste", "sunest", "sunet", "sunnset", "sunsat"])
def test_one_typing_error_is_forgiven(typed: str) -> None:
    vocabulary = {"sunset": 1, "sunday": 1}
    found = known(Phrase((typed,), is_exact=False), lambda first, end: (
        (word, count) for word, count in sorted(vocabulary.items()) if first <= word < end
    ))  # fmt: skip
    assert list(found.variants) == ["sunset"]


def matcher_of(question: str, *payloads: Payload) -> Matcher:
    store = MemoryStore(4)
    store.upsert([plain_record(number, 4, **payload) for number, payload in enumerate(payloads)])
    return store.search_text(phrases_of([(question, False)]), 10).matcher


def test_words_are_marked_where_they_stand() -> None:
    payload: Payload = {
        "title": "Café \u2013 the CAFÉ by night",
        "tags": ["night", "red cafeteria"],
        "name": "IMG_night.jpg",
        "folders": ["file:///home/Night%20life"],
        "stamp": "night",
        "link": "https://night.org/night",
        "width": 3,
    }
    evidence = matcher_of("cafe night", payload).evidence(payload)
    shown = {field: [dict(texts_of(payload))[field][start:end] for start, end in at] for field, at in evidence.items()}
    assert shown == {
        "title": ["Café", "CAFÉ", "night"],
        "tags": ["night", "cafeteria"],
        "name": ["night"],
        "folder": ["Night"],
    }


def test_quoted_words_count_side_by_side_alone() -> None:
    beside: Payload = {"caption": "a red dog"}
    apart: Payload = {"caption": "a dog on red ground"}
    matcher = matcher_of('"red dog"', beside, apart)
    assert (matcher.score(beside), matcher.score(apart)) == (1, 0)
    assert matcher.evidence(beside) == {"caption": ((2, 5), (6, 9))}
    assert matcher.evidence(apart) == {}


def test_a_rare_written_match_comes_first_and_is_likely() -> None:
    store = MemoryStore(4)
    records = [plain_record(number, 4, caption="dog" if number % 2 else "cat") for number in range(40)]
    records[7] = replace(records[7], payload={"title": "Numero Uno", "caption": "dog"})
    store.upsert(records)
    query = records[0].vector
    near = [(hit, 0.5) for hit in store.search(query[None], 20)[0]]
    rare = fuse(near, store.search_text(phrases_of([("numero uno", False)]), 8), query)
    assert (rare[0][0].id, rare[0][1]) == (records[7].id, -1.0)
    assert rare[0][0].score == pytest.approx(float(records[7].vector @ query), abs=1e-6)
    common = fuse(near, store.search_text(phrases_of([("dog", False)]), 8, common=1000), query)
    assert {least for _, least in common} == {0.5}
    assert fuse(near, store.search_text(phrases_of([("nothing", False)]), 8), query) == near


def test_old_indexes_gain_full_text_at_the_first_search(tmp_path: Path) -> None:
    shutil.copytree(DATA / "index-format-1", tmp_path / "old.index")
    store = LocalStore(tmp_path / "old.index")
    plain = MemoryStore(store.dim)
    plain.upsert(list(store.scan()))
    for text in ("picture", "replaced", '"picture 5"', "ü"):
        expected = plain.search_text(phrases_of([(text, False)]), 100)
        found = store.search_text(phrases_of([(text, False)]), 100)
        assert [one.id for one in found.records] == [one.id for one in expected.records] != []
    store.close()


def test_old_indexes_are_read_a_few_thousand_records_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sightline.stores.local.fulltext._KEYS_AT_ONCE", 3)
    shutil.copytree(DATA / "index-format-1", tmp_path / "old.index")
    store = LocalStore(tmp_path / "old.index")
    store.upsert([plain_record(2, 20, caption="written meanwhile")])
    store.delete([plain_record(4, 20).id])
    assert len(store.search_text(phrases_of([("picture", False)]), 100).records) == 6
    assert len(store.search_text(phrases_of([("meanwhile", False)]), 100).records) == 1
    assert "reading what is written" in caplog.text
    store.close()


def test_repair_makes_full_text_anew(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "photos.index", dim=4)
    store.upsert([plain_record(number, 4, caption=f"word{number}") for number in range(3)])
    with sqlite3.connect(tmp_path / "photos.index" / "index.sqlite") as connection:
        connection.execute("UPDATE records SET uri = 'damaged' WHERE key = 1")
        connection.execute("DELETE FROM written")
    connection.close()
    store.repair()
    assert [len(store.search_text(phrases_of([(f"word{number}", False)]), 9).records) for number in range(3)] == [
        0,
        1,
        1,
    ]
    store.close()


class Mute:
    """A store without full text."""

    def __init__(self, store: MemoryStore) -> None:
        self.dim, self._store = store.dim, store

    def __getattr__(self, name: str) -> Any:
        if name == "search_text":
            raise AttributeError(name)
        return getattr(self._store, name)


def test_a_store_without_full_text_is_searched_by_meaning_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with Index("memory:", model="mini") as index:
        index.add([scene(number, (64, 48)) for number in range(3)])
        before = index.search("a red circle").hits
        monkeypatch.setattr(index, "_store", Mute(index.store))  # type: ignore[arg-type]
        assert index.search("a red circle").hits == before
        with pytest.raises(UsageError, match="without full text: search it by meaning"):
            index.search("a red circle", by="text")
