"""What people type becomes the vector they mean."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.encoders.base import Encoder, load_encoder
from sightline.errors import SightlineError, TextNotSupported, UsageError
from sightline.query import Term, describe, embed_many, parse
from sightline.types import Vector


def colour(path: Path, name: str) -> str:
    Image.new("RGB", (40, 30), name).save(path)
    return str(path)


def never(_: str) -> Vector:
    raise AssertionError("no id in this query")


def embed(terms: Sequence[Term], encoder: Encoder, vector_of: Callable[[str], Vector]) -> Vector:
    (vector,) = embed_many([terms], encoder, vector_of)
    if isinstance(vector, SightlineError):
        raise vector
    return vector


def test_words_are_one_text() -> None:
    assert parse(["a", "red", "car"]) == [Term("text", "a red car")]


def test_rclip_arithmetic_is_understood(tmp_path: Path) -> None:
    pool = colour(tmp_path / "pool.jpg", "blue")
    terms = parse(["2:golden retriever", "+", pool, "-", "0.5:fruit"])
    assert terms == [Term("text", "golden retriever", 2.0), Term("image", pool, 1.0), Term("text", "fruit", -0.5)]
    assert describe(terms) == f"2:golden retriever + {pool} - 0.5:fruit"


def test_an_id_names_an_indexed_picture() -> None:
    assert parse(["id:abc"]) == [Term("id", "abc")]


def test_a_missing_picture_is_not_taken_for_words() -> None:
    with pytest.raises(UsageError, match=r"no picture at nowhere\.jpg"):
        embed(parse(["nowhere.jpg"]), load_encoder("pixels"), never)


@pytest.mark.parametrize("arguments", [[], [""], ["  "], ["+"], ["+", "-"]])
def test_an_empty_query_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="query is empty"):
        embed(parse(arguments), load_encoder("mini"), never)


def test_terms_that_cancel_are_refused(tmp_path: Path) -> None:
    red = colour(tmp_path / "red.png", "red")
    with pytest.raises(UsageError, match="cancel out"):
        embed(parse([red, "-", red]), load_encoder("pixels"), never)


def test_words_for_an_image_only_encoder_are_refused() -> None:
    with pytest.raises(TextNotSupported, match="pixels"):
        embed(parse(["dog"]), load_encoder("pixels"), never)


def test_the_vector_is_the_weighted_sum_of_unit_vectors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    encoder = load_encoder("pixels")
    images = [Image.fromarray(rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)) for _ in range(2)]
    one, two = (embed([Term("image", image)], encoder, never) for image in images)
    mixed = embed([Term("image", images[0], 2.0), Term("image", images[1], -1.0)], encoder, never)
    expected = 2 * one - two
    np.testing.assert_allclose(mixed, expected / np.linalg.norm(expected), atol=1e-6)


def test_a_picture_may_be_a_path_bytes_or_an_image(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 48, 3), dtype=np.uint8)).save(path)
    encoder = load_encoder("pixels")
    by_path, by_bytes, by_image = (
        embed([Term("image", value)], encoder, never) for value in (path, path.read_bytes(), Image.open(path))
    )
    np.testing.assert_allclose(by_path, by_bytes, atol=1e-6)
    np.testing.assert_allclose(by_path, by_image, atol=1e-6)


def test_a_text_file_as_picture_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture")
    with pytest.raises(UsageError, match=r"notes\.jpg"):
        embed(parse([str(path)]), load_encoder("pixels"), never)


PLAIN = ["16:9 wallpaper", "12:30 on a clock", "a photo called sunset.png", "t-shirt", "at -20"]


@pytest.mark.parametrize("words", PLAIN)
def test_plain_words_stay_words(words: str) -> None:
    assert parse([words]) == [Term("text", words)]


@pytest.mark.parametrize("arguments", [["dog -snow"], ["dog - snow"], ["dog", "-", "snow"]])
def test_a_minus_within_an_argument_subtracts(arguments: list[str]) -> None:
    terms = parse(arguments)
    assert terms == [Term("text", "dog"), Term("text", "snow", -1.0)]
    assert describe(terms) == "dog - snow"


def test_quotes_protect_a_minus() -> None:
    assert parse(['"dog -snow"']) == [Term("text", "dog -snow")]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ('"dog - snow"', [Term("text", "dog - snow")]),
        ('cat - "dog - snow"', [Term("text", "cat"), Term("text", "dog - snow", -1.0)]),
        ('cat -"black dog"', [Term("text", "cat"), Term("text", "black dog", -1.0)]),
        ('2:"16:9 - wide" + dog', [Term("text", "16:9 - wide", 2.0), Term("text", "dog")]),
        ('the "best" cat', [Term("text", 'the "best" cat')]),
        ("./photo.jpg", [Term("text", "./photo.jpg")]),
    ],
)
def test_quotes_protect_signs_wherever_they_stand(text: str, terms: list[Term]) -> None:
    assert parse([text], with_files=False) == terms
