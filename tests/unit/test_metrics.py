"""The figures are the field's figures: worked by hand, and equal to trec_eval and scikit-learn on random runs."""

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, Success, nDCG
from numpy.typing import NDArray
from sklearn.metrics import top_k_accuracy_score

from sightline.evaluate import metrics
from sightline.evaluate.metrics import Rankings, Values, bootstrap, paired_difference


def by_hand() -> Rankings:
    """Query 0 finds its pictures at ranks 1 and 4 (grades 1 and 3), query 1 its one at rank 3; query 2 has none."""
    return Rankings(3, np.array([0, 0, 1]), np.array([1, 4, 3]), np.array([1.0, 3.0, 1.0]))


def test_the_figures_worked_by_hand() -> None:
    ranked = by_hand()
    np.testing.assert_allclose(metrics.recall(ranked, 3), [1 / 2, 1, 0])
    np.testing.assert_allclose(metrics.precision(ranked, 4), [2 / 4, 1 / 4, 0])
    np.testing.assert_allclose(metrics.hit_rate(ranked, 2), [1, 0, 0])
    np.testing.assert_allclose(metrics.reciprocal_rank(ranked), [1, 1 / 3, 0])
    np.testing.assert_allclose(metrics.average_precision(ranked), [(1 / 1 + 2 / 4) / 2, 1 / 3, 0])
    best = 3 / np.log2(2) + 1 / np.log2(3)
    np.testing.assert_allclose(metrics.ndcg(ranked, 5), [(1 / np.log2(2) + 3 / np.log2(5)) / best, 1 / np.log2(4), 0])


def random_run(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    queries, gallery = (rng.standard_normal((n, 16)).astype(np.float32) for n in (30, 80))
    relevant = rng.random((30, 80)) < 0.07
    relevant[:, 0] |= ~relevant.any(axis=1)
    pairs = np.argwhere(relevant)
    return queries, gallery, pairs, rng.integers(1, 4, len(pairs)).astype(np.float64)


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_equal_trec_eval(seed: int) -> None:
    queries, gallery, pairs, grades = random_run(seed)
    ranked = metrics.rankings(queries, gallery, pairs, grades)
    qrels = [ir_measures.Qrel(str(q), str(i), int(g)) for (q, i), g in zip(pairs, grades, strict=True)]
    scores = queries @ gallery.T
    run = [ir_measures.ScoredDoc(str(q), str(i), float(s)) for q, row in enumerate(scores) for i, s in enumerate(row)]
    ours: dict[ir_measures.Measure, Values] = {
        R @ 10: metrics.recall(ranked, 10),
        P @ 10: metrics.precision(ranked, 10),
        Success @ 5: metrics.hit_rate(ranked, 5),
        RR: metrics.reciprocal_rank(ranked),
        AP: metrics.average_precision(ranked),
        nDCG @ 10: metrics.ndcg(ranked, 10),
    }
    theirs = list(ir_measures.iter_calc(list(ours), qrels, run))
    assert len(theirs) == len(ours) * len(queries)
    for value in theirs:
        assert ours[value.measure][int(value.query_id)] == pytest.approx(value.value, abs=1e-9), value


def test_accuracy_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((200, 9)).astype(np.float32), rng.integers(0, 9, 200)
    for k in (1, 3, 5):
        theirs = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(9))
        assert metrics.top_accuracy(scores, labels, k).mean() == pytest.approx(theirs)


def test_ties_go_to_the_smaller_position() -> None:
    gallery = np.ones((3, 2), np.float32)
    ranked = metrics.rankings(gallery[:1], gallery, np.array([[0, 2], [0, 0]]), np.ones(2))
    assert ranked.rank.tolist() == [1, 3]


def test_an_interval_holds_the_true_mean_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        estimate = bootstrap((rng.random(100) < 0.3).astype(np.float64), seed=int(rng.integers(1 << 30)))
        held += estimate.low <= 0.3 <= estimate.high
    assert 0.9 <= held / 200 <= 0.99


def test_queries_of_one_picture_are_drawn_together() -> None:
    once = np.random.default_rng(0).random(60)
    five_times = np.repeat(once, 5)
    alone, grouped = bootstrap(five_times), bootstrap(five_times, np.repeat(np.arange(60), 5))
    assert grouped.high - grouped.low > 1.8 * (alone.high - alone.low)


def test_a_difference_is_clear_only_when_it_is() -> None:
    rng = np.random.default_rng(0)
    worse = rng.random(500)
    assert paired_difference(worse + 0.05, worse).is_clear
    assert not paired_difference(rng.permutation(worse), worse).is_clear
