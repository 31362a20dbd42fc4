"""Which models open an index: those that give its pictures the vectors that it holds, whatever they make of words."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.models import make_folder
from tests.pictures import scene

from sightline.encoders.base import check_identity, load_encoder, picture_fingerprint
from sightline.encoders.onnx import OnnxEncoder
from sightline.errors import IndexMismatch
from sightline.evaluate.run import image_vectors, text_vectors
from sightline.index import Index
from sightline.stores.base import open_store

PICTURES = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, a model, and one with the same image tower and another text tower, as the query adapter makes it."""
    (tmp_path / "photos").mkdir()
    for number in range(PICTURES):
        scene(number, (64, 48)).save(tmp_path / "photos" / f"{number}.png")
    make_folder(tmp_path / "base")
    make_folder(tmp_path / "adapted", textual="textual-only-whole", config={"logit_scale": 12.0})
    return tmp_path


@pytest.fixture
def url(folder: Path) -> str:
    url = str(folder / "photos.index")
    with Index(url, model=str(folder / "base")) as index:
        assert index.add(folder / "photos").encoded == PICTURES
    return url


def test_an_adapted_text_tower_searches_an_index_as_it_is(folder: Path, url: str) -> None:
    """The hits are those of the new text tower among the old vectors."""
    adapted = OnnxEncoder(folder / "adapted")
    with Index(url, model=str(folder / "adapted")) as index:
        hits = index.search("a dog", k=PICTURES)
        vectors = {record.id: record.vector for record in index.store.scan()}
    query = adapted.encode_texts(["a dog"])[0]
    assert [hit.score for hit in hits] == pytest.approx([float(query @ vectors[hit.id]) for hit in hits], abs=1e-5)
    with Index(url) as index:
        before = index.search("a dog", k=PICTURES)
        assert index.encoder.name == "base"
    assert [hit.score for hit in before] != pytest.approx([hit.score for hit in hits], abs=1e-3)


def test_an_adapted_model_adds_pictures_to_an_index_without_encoding_those_that_are_in_it(
    folder: Path, url: str
) -> None:
    scene(77, (64, 48)).save(folder / "photos" / "new.png")
    with Index(url, model=str(folder / "adapted")) as index:
        summary = index.add(folder / "photos")
        assert (summary.encoded, summary.unchanged) == (1, PICTURES)
    assert Index(url).info()["model"] == "base"


def test_another_image_tower_is_refused_under_any_name(folder: Path, url: str) -> None:
    make_folder(folder / "other", visual="visual-half")
    with pytest.raises(IndexMismatch, match=r"was built with 'base', not 'other': open it with --model base"):
        _ = Index(url, model=str(folder / "other")).encoder
    with pytest.raises(IndexMismatch, match="was built with other weights of 'base'"):
        _ = Index(url, model=_named_base(folder)).encoder


def test_other_pixels_for_the_same_image_tower_are_refused(folder: Path, url: str) -> None:
    make_folder(folder / "squashed", pixels={"resize_mode": "squash"})
    with pytest.raises(IndexMismatch, match="not 'squashed'"):
        _ = Index(url, model=str(folder / "squashed")).encoder


def test_an_index_from_before_the_picture_fingerprint_opens_with_its_model_and_an_adapted_one(
    folder: Path, url: str
) -> None:
    _forget_the_picture_fingerprint(url)
    for model in (None, str(folder / "base"), str(folder / "adapted")):
        with Index(url, model=model) as index:
            assert len(index.search("a dog", k=PICTURES)) == PICTURES
    make_folder(folder / "other", visual="visual-half")
    with pytest.raises(IndexMismatch, match="not 'other'"):
        _ = Index(url, model=str(folder / "other")).encoder


def test_such_an_index_whose_model_is_gone_takes_no_other(folder: Path, url: str) -> None:
    _forget_the_picture_fingerprint(url)
    shutil.rmtree(folder / "base")
    with pytest.raises(IndexMismatch, match="was built with 'base', not 'adapted'"):
        _ = Index(url, model=str(folder / "adapted")).encoder


def test_the_bundled_model_opens_an_index_from_before(folder: Path) -> None:
    url = str(folder / "mini.index")
    with Index(url, model="mini") as index:
        index.add(folder / "photos")
    _forget_the_picture_fingerprint(url)
    with Index(url) as index:
        assert len(index.search("a dog")) == PICTURES


@pytest.mark.parametrize("forgets", [False, True])
def test_an_index_of_an_earlier_bundled_model_is_refused_and_says_what_to_do(folder: Path, forgets: bool) -> None:
    url = str(folder / "earlier.index")
    with Index(url, model="mini") as index:
        index.add(folder / "photos")
        identity = index.store.notes("index")["index"]
        earlier = {**identity, "fingerprint": "0123456789abcdef", "pictures": "an earlier one"}
        index.store.write_notes("index", {"index": earlier})
    if forgets:
        _forget_the_picture_fingerprint(url)
    for model in (None, "mini", "auto"):
        with pytest.raises(IndexMismatch, match="sightline index FOLDER --index NEW --model mini"):
            Index(url, model=model).search("a dog")


def test_encoders_of_others_are_told_apart_by_name_and_fingerprint(folder: Path) -> None:
    """They may all call their fingerprint 1."""
    one, other = load_encoder("pixels"), load_encoder("pixels")
    assert picture_fingerprint(one) == picture_fingerprint(other)
    other.name = "grid"
    with Index("memory:", model=one) as index:
        index.add(folder / "photos")
        identity = index.store.notes("index")["index"]
        with pytest.raises(IndexMismatch, match="not 'grid'"):
            check_identity(index.url, other, identity, None)


def test_an_evaluation_shares_picture_vectors_and_keeps_texts_apart(folder: Path) -> None:
    base, adapted = OnnxEncoder(folder / "base"), OnnxEncoder(folder / "adapted")
    paths = sorted((folder / "photos").iterdir())
    first = image_vectors(base, paths, folder / "cache")
    shared = folder / "cache" / f"pictures-{base.picture_fingerprint}.index"
    before = {path: path.stat().st_mtime_ns for path in shared.glob("vectors-*")}
    np.testing.assert_array_equal(image_vectors(adapted, paths, folder / "cache").vectors, first.vectors)
    assert before == {path: path.stat().st_mtime_ns for path in shared.glob("vectors-*")}
    ours, theirs = (text_vectors(encoder, ["a dog"], folder / "cache") for encoder in (base, adapted))
    assert np.abs(ours - theirs).max() > 1e-3
    np.testing.assert_array_equal(ours, text_vectors(base, ["a dog"], folder / "cache"))


def _forget_the_picture_fingerprint(url: str) -> None:
    store = open_store(url)
    identity = store.notes("index")["index"]
    assert identity.pop("pictures")
    store.write_notes("index", {"index": identity})
    store.close()


def _named_base(folder: Path) -> OnnxEncoder:
    return OnnxEncoder(folder / "other", name="base")
