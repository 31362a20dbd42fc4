"""Facets, folding and classification on small examples worked by hand."""

from datetime import UTC, datetime

import numpy as np
import pytest

from sightline.analysis.classify import classify
from sightline.analysis.duplicates import fold
from sightline.analysis.facets import facets
from sightline.encoders.baselines import PixelsEncoder
from sightline.errors import TextNotSupported, UsageError
from sightline.types import Payload, Vectors


def test_facets_tell_kinds_ranges_and_frequent_values() -> None:
    first, last = datetime(2020, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
    payloads: list[Payload] = [
        {"camera": "A", "width": 10, "taken": last, "sha256": "x", "folders": ["a", "a/b"]},
        {"camera": "B", "width": 30, "taken": first, "sha256": "y", "folders": ["a"]},
        {"camera": "A", "is_raw": True},
    ]
    found = {facet.field: facet for facet in facets(payloads)}
    assert list(found) == ["camera", "folders", "is_raw", "taken", "width"]
    assert (found["camera"].kind, found["camera"].values) == ("text", (("A", 2), ("B", 1)))
    assert (found["width"].least, found["width"].most, found["width"].count) == (10, 30, 2)
    assert (found["taken"].least, found["taken"].most) == (first, last)
    assert found["folders"].values == (("a", 2), ("a/b", 1))
    assert found["is_raw"].kind == "truth"


def test_many_values_are_no_choice() -> None:
    (facet,) = facets({"title": f"number {number}"} for number in range(2000))
    assert (facet.count, facet.values) == (2000, ())


def test_near_duplicates_join_the_first_of_their_kind() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.999, 0.0447], [0.0447, 0.999], [0.7071, 0.7071]], np.float32)
    assert fold(vectors) == [[0, 2], [1, 3], [4]]
    assert fold(np.empty((0, 2), np.float32)) == []


class Labels(PixelsEncoder):
    """Texts as the unit vectors of their order."""

    def encode_texts(self, texts: object) -> Vectors:
        return np.eye(3, dtype=np.float32)


def test_probabilities_are_the_softmax_of_scaled_cosines() -> None:
    encoder = Labels()
    encoder.logit_scale = 2.0  # type: ignore[attr-defined]
    found = classify(np.array([[0.6, 0.8, 0.0]], np.float32), ["a", "b", "c"], encoder)
    powers = np.exp(2 * np.array([0.6, 0.8, 0.0]))
    assert found[0] == pytest.approx(powers / powers.sum(), abs=1e-6)


def test_classification_needs_words_and_labels() -> None:
    vectors = np.eye(1, 768, dtype=np.float32)
    with pytest.raises(TextNotSupported):
        classify(vectors, ["a", "b"], PixelsEncoder())
    with pytest.raises(UsageError, match="at least two"):
        classify(vectors, ["a", "a"], Labels())
    with pytest.raises(UsageError, match="where the label goes"):
        classify(vectors, ["a", "b"], Labels(), templates=["a photo"])
