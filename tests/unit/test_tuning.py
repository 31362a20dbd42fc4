"""An approximate store is measured against the exact answer, and its width chosen by it."""

from collections.abc import Sequence

import numpy as np
import pytest
from tests.clip_like import ClipLike

from sightline.calibration.tuning import Tuning, exact_scores, needs_tuning, recall, tune
from sightline.stores.memory import MemoryStore
from sightline.types import Hit, Record, Vectors, Where, record_id

DIM = 32


class Lists(MemoryStore):
    """A store that looks, as IVF does, only into the `width` lists whose centres are nearest to the query."""

    widths: Sequence[int] = (1, 2, 4, 8, 16, 32)
    width = 1

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        return self.search_at(vectors, k, self.width)

    def search_at(self, vectors: Vectors, k: int, width: int) -> list[list[Hit]]:
        records = list(self.scan())
        matrix = np.stack([record.vector for record in records])
        centres = matrix[:32]
        lists = np.argmax(matrix @ centres.T, axis=1)  # (n, dim) @ (dim, 32) -> (n,)
        found = []
        for vector in vectors:
            probed = np.argsort(-(centres @ vector))[:width]
            inside = np.flatnonzero(np.isin(lists, probed))
            best = sorted(inside.tolist(), key=lambda row: (-float(matrix[row] @ vector), records[row].id))[:k]
            found.append([Hit(records[row].id, records[row].uri, float(matrix[row] @ vector)) for row in best])
        return found

    def set_width(self, width: int) -> None:
        self.width = width


@pytest.fixture(scope="module")
def data() -> tuple[Vectors, Vectors, Vectors]:
    """2,000 pictures, 60 text queries and 60 picture queries."""
    made = ClipLike(2000, DIM)
    return next(made.chunks()), made.text_queries(60), made.image_queries(60)


def filled(store: MemoryStore, vectors: Vectors) -> None:
    names = [record_id(str(number)) for number in range(len(vectors))]
    store.upsert([Record(name, name, vector) for name, vector in zip(names, vectors, strict=True)])


def test_the_smallest_width_that_finds_the_true_neighbours_is_set(data: tuple[Vectors, Vectors, Vectors]) -> None:
    pictures, texts, images = data
    store = Lists(DIM)
    filled(store, pictures)
    tuning = tune(store, {"text": texts, "image": images})
    assert store.width == tuning.width > tuning.default_width == 1
    assert min(tuning.recalls.values()) >= 0.98 > min(tuning.default.values())
    smaller = store.widths[store.widths.index(tuning.width) - 1]
    truth = {"text": exact_scores(store, texts, 10), "image": exact_scores(store, images, 10)}
    assert recall(store.search(texts, 10), truth["text"]) >= 0.98
    queries = {"text": texts, "image": images}
    assert min(recall(store.search_at(queries[kind], 10, smaller), truth[kind]) for kind in queries) < 0.98
    assert Tuning(**store.notes("recall")["recall"]) == tuning


def test_a_store_that_has_doubled_is_measured_again(data: tuple[Vectors, Vectors, Vectors]) -> None:
    pictures, texts, _ = data
    store = Lists(DIM)
    assert not needs_tuning(store)
    filled(store, pictures[:900])
    assert needs_tuning(store)
    tune(store, {"text": texts})
    assert not needs_tuning(store)
    filled(store, pictures)
    assert needs_tuning(store)
    assert not needs_tuning(MemoryStore(DIM))


def test_where_no_width_is_enough_the_widest_is_set_and_said(data: tuple[Vectors, Vectors, Vectors]) -> None:
    pictures, texts, _ = data
    store = Lists(DIM)
    store.widths = (1, 2)
    filled(store, pictures)
    tuning = tune(store, {"text": texts})
    assert (store.width, tuning.reached) == (2, False)


def test_exact_scores_are_those_of_a_plain_product(data: tuple[Vectors, Vectors, Vectors]) -> None:
    pictures, texts, _ = data
    store = MemoryStore(DIM)
    filled(store, pictures)
    expected = -np.sort(-(texts @ pictures.T), axis=1)[:, :10]
    assert np.allclose(exact_scores(store, texts, 10), expected, atol=1e-6)
    filled(store, pictures[:4])
    few = MemoryStore(DIM)
    filled(few, pictures[:4])
    assert exact_scores(few, texts, 10).shape == (len(texts), 4)
    assert recall(few.search(texts, 10), exact_scores(few, texts, 10)) == 1.0
