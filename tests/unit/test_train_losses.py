"""Each loss against numbers worked out by hand."""

import math

import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")

from recipes.mini import teacher  # noqa: E402

from sightline.train import loop as losses  # noqa: E402

pytestmark = pytest.mark.torch


def test_contrastive_equals_a_hand_worked_example() -> None:
    scores = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    rows = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-2))]
    columns = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-3))]
    expected = (sum(rows) / 2 + sum(columns) / 2) / 2
    assert losses.contrastive(scores, torch.eye(2)).item() == pytest.approx(expected)


def test_contrastive_asks_nothing_more_of_pictures_that_share_a_text() -> None:
    scores = torch.zeros(2, 2)
    both = torch.ones(2, 2)
    scores.requires_grad_()
    losses.contrastive(scores, both).backward()
    assert scores.grad.abs().max().item() == pytest.approx(0.0, abs=1e-7)


def test_sigmoid_equals_a_hand_worked_example() -> None:
    scores = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    terms = [math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), math.log(2), math.log1p(math.exp(-3))]
    assert losses.sigmoid(scores, torch.eye(2)).item() == pytest.approx(sum(terms) / 2)


def test_softened_moves_the_share_to_like_texts_and_keeps_each_row_a_distribution() -> None:
    similarity = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    soft = teacher.softened(torch.eye(3), similarity, share=0.5, temperature=0.1)
    assert soft.sum(dim=1).tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert soft[0, 1] > 0.1 > soft[0, 2]


def test_imitation_is_zero_for_the_same_opinion_only() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    assert teacher.imitation(scores, scores.softmax(dim=1)).item() == pytest.approx(0.0, abs=1e-6)
    assert teacher.imitation(scores, torch.tensor([[1.0, 0.0, 0.0]])).item() == pytest.approx(2.4076, abs=1e-3)


def test_drift_is_one_minus_cosine() -> None:
    vectors, anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert losses.drift(vectors, anchors).item() == pytest.approx(0.5)
