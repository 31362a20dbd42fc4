"""Codes are for speed only: what is found is what comparing every vector finds."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.clip_like import ClipLike, unit
from tests.records import plain_record

from sightline.stores.local.search import near_best, quantiser
from sightline.stores.local.store import LocalStore
from sightline.types import Record, Vectors, record_id

K, QUERIES = 10, 100


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 16, 100, 512, 640, 768, 1152])
def test_rotation_keeps_lengths_and_angles(dim: int) -> None:
    turned = quantiser(dim).rotate(np.eye(dim, dtype=np.float32))
    assert np.allclose(turned @ turned.T, np.eye(dim), atol=1e-5)


@pytest.mark.parametrize("dim", [512, 640, 768])
def test_rotation_spreads_a_single_dimension(dim: int) -> None:
    turned = quantiser(dim).rotate(np.eye(dim, dtype=np.float32))
    assert np.abs(turned).max() * np.sqrt(dim) < 6  # what the scale can hold


def test_rotation_never_changes() -> None:
    """Stored codes depend on these numbers: they may only change together with the version of the rotation."""
    turned = quantiser(6).rotate(np.arange(1, 7, dtype=np.float32)[None])
    assert turned[0].tolist() == pytest.approx([0.0, 2.0, -1.5, -2.5, -2.5, 8.5], abs=1e-5)


@pytest.mark.parametrize("dim", [3, 64, 512, 768])
def test_codes_err_less_than_the_margin_says(dim: int) -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((3000, dim)))
    queries = unit(np.random.default_rng(2).standard_normal((50, dim)) + vectors[:50])
    coder = quantiser(dim)
    codes, residual = coder.encode(vectors)
    coded, scales, lost = coder.encode_queries(queries)
    scores = coded.astype(np.float64) @ codes.T.astype(np.float64) * np.array(scales)[:, None] * coder.scale  # (q, n)
    errors = np.abs(scores - queries.astype(np.float64) @ vectors.T)
    margins = np.array([coder.margin(residual, one, 1.0) for one in lost])
    assert (2 * errors.max(axis=1) < margins).all()
    assert margins.max() < 0.06


@pytest.mark.parametrize("outliers", [0, 3])
@pytest.mark.parametrize("dim", [512, 640])
def test_finds_what_comparing_every_vector_finds(outliers: int, dim: int, tmp_path: Path) -> None:
    data = ClipLike(20_000, dim, outliers=outliers)
    vectors = np.concatenate(list(data.chunks()))
    store = filled(tmp_path, vectors)
    for queries in (data.image_queries(QUERIES), data.text_queries(QUERIES)):
        best = np.argsort(-(queries @ vectors.T), axis=1)[:, :K]  # (q, dim) @ (dim, n) -> (q, n) -> (q, k)
        found = [{int(hit.uri) for hit in hits} for hits in store.search(queries, K)]
        recall = np.mean([len(names & set(row.tolist())) / K for names, row in zip(found, best, strict=True)])
        assert recall >= 0.999
    store.close()


def test_one_vector_many_times_is_found_in_order_of_id(tmp_path: Path) -> None:
    """Also where the ties fill more than one thread's share, and where each comes from another batch."""
    vectors = np.repeat(unit(np.random.default_rng(1).standard_normal((1, 100))), 30_000, axis=0)
    store = filled(tmp_path, vectors[:20_000])
    store.upsert([Record(record_id(str(n)), str(n), vectors[n]) for n in range(20_000, 30_000)])
    names = sorted(record_id(str(number)) for number in range(30_000))
    (hits,) = store.search(vectors[:1], 20, offset=15_000)
    assert [hit.id for hit in hits] == names[15_000:15_020]
    store.close()


def test_vectors_come_back_bit_for_bit(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((10, 48)))
    store = filled(tmp_path, vectors)
    assert np.array_equal([store.fetch([record_id(str(n))])[0].vector for n in range(10)], vectors)
    store.close()


def test_a_large_filter_and_a_small_one_find_the_same(tmp_path: Path) -> None:
    """The same rows, once copied and once scanned among others."""
    data = ClipLike(20_000, 64)
    store = filled(tmp_path, np.concatenate(list(data.chunks())))
    queries = data.text_queries(4)
    everything = store.search(queries, 20_000)
    for where, keep in (({"row": {"$lt": 300}}, 300), ({"row": {"$lt": 15_000}}, 15_000)):
        expected = [[hit for hit in hits if int(hit.uri) < keep][:30] for hits in everything]
        assert store.search(queries, 30, where) == expected
    store.close()


@pytest.mark.parametrize("count", [0, 1, 5, 10, 11, 5000, 100_001])
@pytest.mark.parametrize("k", [1, 10, 3000])
def test_near_best_are_those_within_the_margin(count: int, k: int) -> None:
    scores = np.random.default_rng(count).integers(-1000, 1000, count).astype(np.int32)
    kth = np.sort(scores)[::-1][min(k, count) - 1] if count else 0
    assert near_best(scores, k, 7).tolist() == np.flatnonzero(scores >= kth - 7).tolist()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None has no reference count since Python 3.12")
def test_searching_leaves_the_interpreter_whole(tmp_path: Path) -> None:
    """With an `out` argument, simsimd 6.5.16 gives back None without counting it: Python aborts at its end."""
    store = filled(tmp_path, unit(np.random.default_rng(1).standard_normal((100, 16))))
    before = sys.getrefcount(None)
    for _ in range(300):
        store.search(plain_record(1, 16).vector[None], 3)
    assert sys.getrefcount(None) > before - 100
    store.close()


def filled(folder: Path, vectors: Vectors) -> LocalStore:
    """A store of those vectors, each with its row as URI."""
    store = LocalStore(folder / "filled.index", vectors.shape[1])
    records = [Record(record_id(str(row)), str(row), vector, {"row": row}) for row, vector in enumerate(vectors)]
    store.upsert(records)
    return store
