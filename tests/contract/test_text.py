"""What is written is found alike in every store that has full text, and as plain Python would find it."""

import math
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.contract.test_store import DIM, Plug, discard, every_plug
from tests.records import WORDS, lattice_vector, plain_record, random_payload, random_where

from sightline.filters.where import matches
from sightline.stores.base import Store
from sightline.stores.written import COMMON, TextStore, phrases_of
from sightline.types import Record, record_id

ASKED = [
    *WORDS,
    "sno",
    "sonw",
    "naive",
    "cafee",
    "strasse",
    "img",
    "9",
    '"red dog"',
    '"dog IMG"',
    "雪",
    "nothing",
    "the",
]


@every_plug
@pytest.mark.parametrize("seed", range(3))
def test_words_are_found_as_plain_python_finds_them(plug: Plug, seed: int, tmp_path: Path) -> None:
    store, source, kept = plug.open(tmp_path), random.Random(seed), dict[str, Record]()
    if not isinstance(store, TextStore):
        discard(store, plug, tmp_path)
        pytest.skip(f"{plug.name} has no full text, and says so: test_query_texts.py")
    ids = [record_id(str(number)) for number in range(80)]
    for _ in range(25):
        for name in source.sample(ids, source.randint(0, 12)):
            kept[name] = Record(name, f"file:///{name}", lattice_vector(DIM, source), random_payload(source))
            store.upsert([kept[name]])
        for name in source.sample(ids, 2):
            store.delete([name])
            kept.pop(name, None)
        text = " ".join(source.choices(ASKED, k=source.randint(1, 5)))
        where = random_where(source) if source.random() < 0.4 else None
        limit, common = source.choice([1, 5, 20, 200]), source.choice([None, 5, 20])
        found = store.search_text(phrases_of([(text, False)]), limit, where, common=common)
        expected, scores = plain_search(text, list(kept.values()), where, limit, common)
        assert [record.id for record in found.records] == expected, (text, where, limit, common)
        for record in kept.values():
            assert found.matcher.score(record.payload) == pytest.approx(scores[record.id]), (text, record.payload)
    discard(store, plug, tmp_path)


def plain_search(
    text: str, records: Sequence[Record], where: Mapping[str, Any] | None, limit: int, common: int | None
) -> tuple[list[str], dict[str, float]]:
    """The ids that are found, and the score of every record: the definition, written down once more."""
    parts = [(part, at % 2 == 1) for at, part in enumerate(re.split(r'"([^"]*)"', text))]
    phrases = list(dict.fromkeys(one for part, is_quoted in parts for one in split(part, is_quoted)))
    phrases = [one for one in phrases if one != (("the",), False)] or phrases
    fields = {record.id: [words(text) for text in texts(record)] for record in records}
    held = {name: {word for some in every for word in some} for name, every in fields.items()}
    known = {word for some in held.values() for word in some}
    levels, scores = dict.fromkeys(fields, 0.0), dict.fromkeys(fields, 0.0)
    weighed = []
    for phrase, is_exact in phrases:
        variants = {} if len(phrase) > 1 else stand_ins(phrase[0], known, is_exact=is_exact)
        counts = [sum(word in some for some in held.values()) for word in (variants or phrase)]
        count = sum(counts) if variants else min(counts) if len(phrase) > 1 else 0
        weighed.append((phrase, variants, count, math.log(1 + (len(fields) - count + 0.5) / (count + 0.5))))
    for name, some in held.items():
        for phrase, variants, count, weight in weighed:
            share = weight / sum(weight for *_, weight in weighed)
            if len(phrase) > 1:
                is_there = some.issuperset(phrase)
                worth = any(
                    tuple(each[at : at + len(phrase)]) == phrase for each in fields[name] for at in range(len(each))
                )
                scores[name] += share * worth
            else:
                is_there = bool(some & variants.keys())
                scores[name] += share * max((variants[word] for word in some & variants.keys()), default=0)
            levels[name] += share * (is_there and (common is None or count <= common))
    passing = [record.id for record in records if where is None or matches(record.payload, where)]
    ranked = sorted((-round(levels[name], 9), name) for name in passing if levels[name])
    if common is not None and len(ranked) > limit:
        ranked = [one for one in ranked[:limit] if one[0] != ranked[limit][0]]
    return [name for _, name in ranked[:limit]], scores


def texts(record: Record) -> list[str]:
    found = []
    for field, value in record.payload.items():
        lines = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        if lines and field not in ("sha256", "stamp", "format"):
            found.append("\n".join(line.removesuffix(".jpg") if field == "name" else line for line in lines))
    return found


def words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return re.findall(r"[雪山]|[^\W_雪山]+", "".join(char for char in plain if not unicodedata.combining(char)))


def split(part: str, is_quoted: bool) -> list[tuple[tuple[str, ...], bool]]:
    every = words(part)
    if is_quoted:
        return [(tuple(every), True)] if every else []
    runs = list[list[str]]()
    for word in every:
        if word in "雪山" and runs and runs[-1][-1] in "雪山":
            runs[-1].append(word)
        else:
            runs.append([word])
    return [(tuple(run), len(run) > 1) for run in runs]


def stand_ins(word: str, known: set[str], *, is_exact: bool) -> dict[str, float]:
    longer = [other for other in known if other.startswith(word) and not is_exact and len(word) >= 3]
    found = dict.fromkeys(longer, 0.7) | ({word: 1.0} if word in known else {})
    if found or is_exact or len(word) < 5 or not word.isalpha():
        return found
    letters = {char for other in known for char in other} | {""}
    near = {word[:at] + char + word[at + 1 :] for at in range(1, len(word)) for char in letters}
    near |= {word[:at] + char + word[at:] for at in range(1, len(word) + 1) for char in letters}
    near |= {word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(1, len(word) - 1)}
    return dict.fromkeys(near & known - {word}, 0.7)


@every_plug
def test_common_words_rank_but_do_not_find(plug: Plug, tmp_path: Path) -> None:
    store: Store = plug.open(tmp_path)
    if isinstance(store, TextStore):
        store.upsert([plain_record(number, DIM, caption=f"dog {number}") for number in range(30)])
        phrases = phrases_of([("dog 7", False)])
        assert len(store.search_text(phrases, 50).records) == 30
        assert [one.payload["caption"] for one in store.search_text(phrases, 50, common=10).records] == ["dog 7"]
        assert store.search_text(phrases_of([("dog", False)]), 50, common=10).records == []
        assert len(store.search_text(phrases_of([("dog", False)]), 50, common=COMMON).records) == 30
    discard(store, plug, tmp_path)
