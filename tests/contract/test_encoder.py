"""What every encoder does, whatever it is made of: one line below for each."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.models import GOLDEN_CLIP, GOLDEN_SIGLIP, make_folder
from tests.pictures import scene

from sightline.encoders.base import Encoder, load_encoder
from sightline.encoders.catalog import BUNDLED, bundled_folder
from sightline.encoders.onnx import OnnxEncoder
from sightline.errors import TextNotSupported
from sightline.types import Pixels, Vectors

EXACT = 0.99999
ROUNDING = 1e-5  # a library that splits a product over its own threads adds in another order


@dataclass(frozen=True)
class Case:
    make: Callable[[Path], Encoder]
    same: float = EXACT
    """The smallest cosine of a picture or text on its own to the same one in a batch."""
    knows_words: bool = True
    needs: str = ""
    """The package that it runs in, if that is an extra."""


def of_library(make: str, *arguments: str) -> Callable[[Path], Encoder]:
    """A model of another library, saved once for all tests: its name holds the path of its weights."""

    def load(folder: Path) -> Encoder:
        from tests import towers

        from sightline.encoders.torch.libraries import quietly

        shared = folder.parent / "towers"
        shared.mkdir(exist_ok=True)
        with quietly():
            name = getattr(towers, make)(shared, *arguments)
        return load_encoder(name if isinstance(name, str) else f"{PREFIXES[make]}:{name}")

    return load


PREFIXES = {"transformers_folder": "hf", "sentence_folder": "st"}
CASES = {
    "pixels": Case(lambda _: load_encoder("pixels"), knows_words=False),
    "colour": Case(lambda _: load_encoder("colour"), knows_words=False),
    "mini": Case(lambda _: load_encoder(BUNDLED), same=EXACT),
    "golden clip: any batch, causal, float32": Case(lambda _: OnnxEncoder(GOLDEN_CLIP)),
    "golden siglip: batch of one, fixed length, uint8": Case(lambda _: OnnxEncoder(GOLDEN_SIGLIP)),
    "float16 pictures": Case(lambda folder: OnnxEncoder(make_folder(folder / "m", visual="visual-half")), same=0.9999),
    "dynamic int8 pictures": Case(lambda folder: OnnxEncoder(make_folder(folder / "m", visual="visual-dynamic-int8"))),
    "texts with a mask": Case(lambda folder: OnnxEncoder(make_folder(folder / "m", textual="textual-with-mask"))),
    "pictures only": Case(lambda folder: OnnxEncoder(make_folder(folder / "m", textual=None)), knows_words=False),
    "timm": Case(of_library("timm_state"), knows_words=False, needs="timm"),
    "simclr": Case(of_library("simclr_checkpoint"), knows_words=False, needs="timm"),
    "open_clip": Case(of_library("open_clip_state"), needs="open_clip"),
    "sentence-transformers": Case(of_library("sentence_folder"), needs="sentence_transformers"),
    **{
        kind: Case(of_library("transformers_folder", kind), knows_words=kind != "dinov2", needs="transformers")
        for kind in ("clip", "siglip", "blip", "align", "dinov2")
    },
}
TEXTS = (
    "a dog in the snow",
    "",
    " ",
    "?!",
    "雪の中の犬",
    "🐕" * 50,
    "half \ud83d a smile",
    "zero\0byte and \x07 bell",
    "a long story of a dog " * 500,
    "x" * 20_000,
)
SIZES = ((320, 240), (1, 1), (1, 2000), (3000, 2), (2, 3), (17, 500))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    if (needs := CASES[str(request.param)].needs) and not (find_spec("torch") and find_spec(needs)):
        pytest.skip(f"needs torch and {needs}: pip install 'sightline[torch]'")
    if request.param == BUNDLED and not (bundled_folder(BUNDLED) / "config.json").is_file():
        pytest.skip("the bundled model has not been trained yet: python -m sightline.train makes it")
    return CASES[str(request.param)]


@pytest.fixture(scope="module")
def encoder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return case.make(tmp_path_factory.mktemp("model"))


@pytest.fixture
def words(case: Case) -> None:
    if not case.knows_words:
        pytest.skip("knows no words, which another test checks")


def pixels_of(encoder: Encoder, count: int) -> Pixels:
    return np.stack([encoder.preprocess(scene(seed)) for seed in range(count)])


def smallest_cosine(some: Vectors, others: Vectors) -> float:
    return float(np.einsum("nd,nd->n", some, others).min())  # (n, dim), (n, dim) -> (n,)


def check_vectors(vectors: Vectors, count: int, encoder: Encoder) -> None:
    assert vectors.shape == (count, encoder.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_it_says_what_it_is(encoder: Encoder) -> None:
    assert encoder.name
    assert encoder.fingerprint
    assert encoder.dim > 0
    assert encoder.image_size > 0
    assert encoder.batch_size > 0


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_picture_becomes_pixels_and_a_unit_vector(encoder: Encoder, size: tuple[int, int]) -> None:
    pixels = encoder.preprocess(scene(1, (max(size[0], 10), max(size[1], 10))).resize(size))
    assert pixels.dtype == np.uint8
    assert pixels.shape[0] == 3
    check_vectors(encoder.encode_images(pixels[None]), 1, encoder)


@pytest.mark.parametrize("colour", ["black", "white", "red"])
def test_a_picture_of_one_colour_has_a_vector(encoder: Encoder, colour: str) -> None:
    check_vectors(encoder.encode_images(encoder.preprocess(Image.new("RGB", (50, 50), colour))[None]), 1, encoder)


def test_different_pictures_have_different_vectors(encoder: Encoder) -> None:
    vectors = encoder.encode_images(pixels_of(encoder, 6))
    check_vectors(vectors, 6, encoder)
    assert (vectors @ vectors.T - np.eye(6)).max() < 0.9999


def test_a_batch_of_pictures_is_the_pictures_one_by_one(encoder: Encoder, case: Case) -> None:
    pixels = pixels_of(encoder, 5)
    singly = np.concatenate([encoder.encode_images(one[None]) for one in pixels])
    assert smallest_cosine(encoder.encode_images(pixels), singly) >= case.same


def test_no_picture_gives_no_vector(encoder: Encoder) -> None:
    assert encoder.encode_images(pixels_of(encoder, 1)[:0]).shape == (0, encoder.dim)


def test_the_same_picture_gives_the_same_vector(encoder: Encoder) -> None:
    first, second = (encoder.encode_images(pixels_of(encoder, 4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_second_encoder_gives_the_same(encoder: Encoder, case: Case, tmp_path: Path) -> None:
    second = case.make(tmp_path)
    assert (second.name, second.fingerprint, second.dim) == (encoder.name, encoder.fingerprint, encoder.dim)
    pixels = pixels_of(encoder, 3)
    assert smallest_cosine(second.encode_images(pixels), encoder.encode_images(pixels)) >= EXACT


def test_encoding_leaves_the_pixels_alone(encoder: Encoder) -> None:
    pixels = pixels_of(encoder, 3)
    before = pixels.copy()
    encoder.encode_images(pixels)
    np.testing.assert_array_equal(pixels, before)


def test_eight_threads_get_what_one_gets(encoder: Encoder, case: Case) -> None:
    images = [scene(seed) for seed in range(8)]
    alone = [encoder.encode_images(np.stack([encoder.preprocess(image)] * 2)) for image in images]
    texts = [f"number {number} of a few" for number in range(8)]
    spoken = [encoder.encode_texts([text]) for text in texts] if case.knows_words else []
    trouble = list[str]()

    def work(number: int) -> None:
        for _ in range(3):
            pixels = np.stack([encoder.preprocess(images[number])] * 2)
            if not np.allclose(encoder.encode_images(pixels), alone[number], atol=ROUNDING):
                trouble.append(f"picture {number}")
            if case.knows_words and not np.allclose(
                encoder.encode_texts([texts[number]]), spoken[number], atol=ROUNDING
            ):
                trouble.append(f"text {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []


@pytest.mark.usefixtures("words")
def test_any_text_has_a_unit_vector(encoder: Encoder) -> None:
    check_vectors(encoder.encode_texts(TEXTS), len(TEXTS), encoder)


@pytest.mark.usefixtures("words")
def test_a_batch_of_texts_is_the_texts_one_by_one(encoder: Encoder, case: Case) -> None:
    texts = [*TEXTS, *(f"picture {number} of a dog" for number in range(70))]
    singly = np.concatenate([encoder.encode_texts([text]) for text in texts])
    assert smallest_cosine(encoder.encode_texts(texts), singly) >= case.same


@pytest.mark.usefixtures("words")
def test_different_texts_have_different_vectors(encoder: Encoder) -> None:
    vectors = encoder.encode_texts(["a dog", "a red car", "the sea at night"])
    assert (vectors @ vectors.T - np.eye(3)).max() < 0.9999


@pytest.mark.usefixtures("words")
def test_no_text_gives_no_vector(encoder: Encoder) -> None:
    assert encoder.encode_texts([]).shape == (0, encoder.dim)


def test_an_encoder_without_words_says_so(encoder: Encoder, case: Case) -> None:
    if case.knows_words:
        pytest.skip("knows words")
    with pytest.raises(TextNotSupported, match="search by a picture"):
        encoder.encode_texts(["a dog"])


def test_it_works_again_after_giving_back_its_memory(case: Case, tmp_path: Path) -> None:
    encoder = case.make(tmp_path)
    unload = getattr(encoder, "unload", None)
    if unload is None:
        pytest.skip("keeps nothing in memory")
    pixels = pixels_of(encoder, 2)
    before = encoder.encode_images(pixels)
    unload()
    np.testing.assert_array_equal(encoder.encode_images(pixels), before)
