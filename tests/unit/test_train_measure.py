"""Recall, mixtures of weights and batches, each on something small enough to work out by hand."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")

from tests import tiny  # noqa: E402

from sightline.train.data import keywords  # noqa: E402
from sightline.train.loop import TrainingSet, draw  # noqa: E402
from sightline.train.measure import Point, best, mixture, recall_of  # noqa: E402
from sightline.train.mini import documents_of  # noqa: E402
from sightline.train.model import padded  # noqa: E402
from sightline.train.pictures import KeptPictures  # noqa: E402

pytestmark = pytest.mark.torch


def test_recall_equals_a_hand_worked_example() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])  # texts 0 and 1 of picture 0, text 2 of picture 1
    found = recall_of(scores, torch.tensor([0, 0, 1]))
    assert found["text_to_image@1"] == pytest.approx(1 / 3)
    assert found["text_to_image@5"] == 1.0
    assert found["image_to_text@1"] == pytest.approx(1 / 2)  # picture 0 by its first text; picture 1 loses to text 1


def test_a_model_that_gives_every_pair_the_same_score_does_no_better_than_chance() -> None:
    found = recall_of(torch.zeros(100, 100), torch.arange(100))
    assert found["text_to_image@10"] == 0.0
    assert found["image_to_text@10"] == 0.0


def test_a_mixture_lies_between_start_and_tuned() -> None:
    mixed = mixture({"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}, 0.25)
    assert mixed["w"].tolist() == [1.0, 2.0]


def test_the_best_mixture_gains_most_without_losing_more_than_allowed() -> None:
    points = [Point(0.0, 0.50, 0.60), Point(0.5, 0.70, 0.58), Point(1.0, 0.80, 0.40)]
    assert best(points, largest_loss=0.03) == points[1]
    assert best(points, largest_loss=0.30) == points[2]
    assert best(points, largest_loss=0.01) is None
    assert best([points[0], Point(1.0, 0.50, 0.60)], largest_loss=0.03) is None


def test_a_long_text_is_cut_and_keeps_its_closing_token() -> None:
    documents = documents_of(tiny.shape(), tiny.tokenizer().to_str())
    rows = documents.tokens.ids(["a red photo of a green photo of a blue photo", "a"])
    assert [len(row) for row in rows] == [8, 3]
    assert rows[0][-1] == rows[1][-1] == tiny.WORDS.index("[SEP]")
    assert padded(rows, 0).shape == (2, 8)


def test_texts_that_are_too_long_are_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    documents = documents_of(tiny.shape(), tiny.tokenizer().to_str())
    documents.tokens.ids(["a red photo of a green photo", "a", "a red photo of a blue photo"])
    assert [record.getMessage() for record in caplog.records] == [
        "'a red photo of a green photo'... is too long: the model reads 8 tokens of it, and so are 1 more texts"
    ]


@pytest.fixture
def source() -> TrainingSet:
    maps = np.arange(10, dtype=np.float16)[:, None, None, None] * np.ones((1, 96, 4, 4), np.float16)
    ids = [[[n], [n + 100]] for n in range(10)]
    groups = [["same" if n < 2 else f"text {n}", f"other {n}"] for n in range(10)]
    return TrainingSet(KeptPictures([maps], 0), ids, groups, per_step=5)


def test_a_batch_pairs_each_picture_with_one_of_its_own_texts(source: TrainingSet) -> None:
    batch = draw([source, source], 3, seed=1)
    pictures = torch.cat([maps[:, 0, 0, 0] for maps in batch.pictures]).int().tolist()
    assert [row[0] % 100 for row in batch.ids] == pictures
    assert len(pictures) == 10
    assert batch.positives.diagonal().tolist() == [1.0] * 10


def test_a_pass_shows_every_picture_once_and_a_step_is_always_the_same(source: TrainingSet) -> None:
    def shown(step: int) -> list[int]:
        batch = draw([source], step, seed=1)
        return [int(maps[0, 0, 0]) for maps in batch.pictures[0]]

    assert sorted(shown(0) + shown(1)) == list(range(10))
    assert sorted(shown(2) + shown(3)) == list(range(10))
    assert shown(2) == shown(2)
    assert shown(0) + shown(1) != shown(2) + shown(3)


def test_pictures_that_share_a_text_are_right_for_each_other(source: TrainingSet) -> None:
    for step in range(40):
        batch = draw([source], step, seed=1)
        for one, row in enumerate(batch.ids):
            for other, column in enumerate(batch.ids):
                is_same = one == other or {row[0], column[0]} == {0, 1}
                assert batch.positives[one, other] == float(is_same)


def test_a_step_can_show_several_texts_of_a_picture(source: TrainingSet) -> None:
    batch = draw([source], 0, seed=1, texts_per_picture=2)
    assert batch.positives.shape == (10, 5)
    assert (batch.positives.sum(dim=1) >= 1).all()
    assert sorted(row[0] for row in batch.ids) == sorted(
        number + offset for number in {row[0] % 100 for row in batch.ids} for offset in (0, 100)
    )


def test_keywords_are_what_two_captions_of_a_picture_agree_on() -> None:
    captions = [
        ["A brown dog runs in the snow", "the brown dog in snow", "an animal outdoors"],
        ["a dog sleeps", "one dog", "snow"],
        ["two cats", "a cat"],
    ]
    found = keywords(captions, least_pictures=1)
    assert found.own[0] == ("brown", "brown dog", "dog", "snow")
    assert found.own[1] == ("dog",)
    assert found.own[2] == ()
    assert found.any[1] == {"dog", "snow"}
    assert keywords(captions, least_pictures=2).own == [("dog",), ("dog",), ()]


def test_a_keyword_is_right_for_every_picture_whose_captions_have_it(source: TrainingSet) -> None:
    words = keywords([["a dog", "the dog"], ["one dog", "a dog"], *([["a cat"]] * 8)], least_pictures=1)
    with_words = replace(source, keywords=words, keyword_ids={"dog": [[777]]}, keyword_share=1.0)
    rows = {}
    for step in range(2):
        batch = draw([with_words], step, seed=1)
        pictures = batch.pictures[0][:, 0, 0, 0].int().tolist()
        for row, ids in enumerate(batch.ids):
            is_dog = pictures[row] in (0, 1)
            assert (ids == [777]) == is_dog
            assert (batch.texts[row][2] < 0) == is_dog
            if is_dog:
                rows[pictures[row]] = {pictures[n] for n in range(5) if batch.positives[row, n]}
    assert rows[0] <= {0, 1}
    assert 0 in rows[0]
    assert 1 in rows[1]
