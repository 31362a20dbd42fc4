"""Parse a query of words and pictures, added and subtracted with weights, and encode it as one vector."""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from sightline.errors import ImageError, SightlineError, UsageError
from sightline.sources.files import SUFFIXES
from sightline.types import Pixels, Vector, Where

if TYPE_CHECKING:
    from PIL.Image import Image

    from sightline.encoders.base import Encoder

Picture: TypeAlias = "str | Path | bytes | Image"
"""A path, the bytes of a picture file, or a decoded picture."""

_WEIGHT = re.compile(r"(?P<weight>\d+(?:\.\d+)?):(?P<rest>\D.*)", re.DOTALL)  # 16:9 and 12:30 are words
_QUOTED = r'"[^"]*"'
_SIGN = (
    r"(?:^|(?<=\s))(?P<sign>[+-])(?=\s|$)|(?<=\s)(?P<minus>-)(?=[^\W\d]|\")"  # dog - snow, dog -snow; not t-shirt, -20
)
_PART = re.compile(rf"(?P<quoted>{_QUOTED})|{_SIGN}")
_SMALLEST_NORM = 1e-6
_EMPTY = 'the query is empty, expected words or a picture: try "a red car" or ./photo.jpg'


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a query. `value` is words, a picture, or the id of an indexed picture."""

    kind: Literal["text", "image", "id"]
    value: Picture
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Terms to search for, and which part of the results is wanted.

    `k` hits from `offset` on, of the pictures that match `where` and score at least `min_score` (a cosine), without the
    one whose id is `without`. With `fold` near-duplicates of an earlier hit are left out: those whose cosine to it is
    `fold_score` or more, by default the index's own threshold. `with_total` also counts how many pictures there are.
    """

    terms: tuple[Term, ...]
    k: int = 10
    offset: int = 0
    where: Where | None = None
    min_score: float | None = None
    without: str = ""
    fold: bool = False
    fold_score: float | None = None
    with_total: bool = False

    def __post_init__(self) -> None:
        if self.k < 1 or self.offset < 0:
            raise UsageError(f"k is {self.k} and offset is {self.offset}: k must be at least 1, offset at least 0")


def parse(arguments: Sequence[str], *, with_files: bool = True) -> list[Term]:
    """Read `["2:golden retriever", "+", "./pool.jpg", "-", "fruit"]` as terms.

    A lone + or - adds or subtracts what follows, also within one argument, as a minus before a word does (`dog -snow`);
    double quotes protect what stands in them. `2:` in front is a weight; neighbouring words are one text. What names a
    picture file is a picture unless `with_files` is false, `id:` names an indexed one, all else is words.
    """
    terms: list[Term] = []
    sign, words = 1.0, list[str]()
    parts = list[tuple[str, bool]]()  # with whether it is a sign
    for argument in arguments:
        if with_files and _names_a_picture(argument):
            parts.append((argument, False))
            continue
        start = 0
        for found in _PART.finditer(argument):
            if not found["quoted"]:
                parts += [(argument[start : found.start()], False), (found["sign"] or found["minus"], True)]
                start = found.end()
        parts.append((argument[start:], False))
    for part, is_sign in [*parts, ("+", True)]:
        if not is_sign:
            words += [part.strip()] if part.strip() else []
            continue
        if words:
            text, weight = " ".join(words), sign
            if match := _WEIGHT.fullmatch(text):
                text, weight = match["rest"], sign * float(match["weight"])
            if text.startswith("id:"):
                terms.append(Term("id", text.removeprefix("id:"), weight))
            elif with_files and _names_a_picture(text):
                terms.append(Term("image", text, weight))
            else:
                is_quoted = re.fullmatch(_QUOTED, text) is not None
                terms.append(Term("text", text[1:-1] if is_quoted else text, weight))
        sign, words = (1.0 if part == "+" else -1.0), []
    if not terms:
        raise UsageError(_EMPTY)
    return terms


def embed_many(
    queries: Sequence[Sequence[Term]],
    encoder: Encoder,
    vector_of: Callable[[str], Vector],
    known_texts: MutableMapping[str, Vector] | None = None,
) -> list[Vector | SightlineError]:
    """For each query its vector (dim,), or why it has none: all texts go to the model at once, and so do all pictures.

    Texts in `known_texts` are not encoded again, new ones are added to it.
    """
    texts = _text_vectors([term for terms in queries for term in terms], encoder, known_texts)
    images = [term.value for terms in queries for term in terms if term.kind == "image"]
    pictures = _picture_vectors(images, encoder) if images else {}
    vectors: list[Vector | SightlineError] = []
    for terms in queries:
        try:
            total: Vector = np.zeros(encoder.dim, np.float32)
            for term in terms:
                if term.kind == "id":
                    found: Vector | SightlineError = vector_of(str(term.value))
                else:
                    found = pictures[id(term.value)] if term.kind == "image" else texts[str(term.value).strip()]
                if isinstance(found, SightlineError):
                    raise found
                total += np.float32(term.weight) * found
            norm = float(np.linalg.norm(total))
            if not terms:
                raise UsageError(_EMPTY)
            if norm < _SMALLEST_NORM:
                raise UsageError(f"the terms cancel out ({describe(terms)}): change a weight")
            vectors.append(np.asarray(total / np.float32(norm), np.float32))
        except SightlineError as error:  # of one query: the others have their vectors
            vectors.append(error)
    return vectors


def describe(terms: Sequence[Term]) -> str:
    """The query as a person would type it: `2:golden retriever + ./pool.jpg - fruit`."""
    words = list[str]()
    for position, term in enumerate(terms):
        words += ["-"] if term.weight < 0 else ["+"] if position else []
        weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}:"
        prefix = "id:" if term.kind == "id" else ""
        words.append(f"{weight}{prefix}{term.value if isinstance(term.value, str | Path) else 'a picture'}")
    return " ".join(words)


def _text_vectors(
    terms: Sequence[Term], encoder: Encoder, known_texts: MutableMapping[str, Vector] | None
) -> dict[str, Vector | SightlineError]:
    """The vector of each text, or why it has none."""
    found: dict[str, Vector | SightlineError] = {}
    fresh = list[str]()
    for text in dict.fromkeys(str(term.value).strip() for term in terms if term.kind == "text"):
        if not text:
            found[text] = UsageError(_EMPTY)
        elif known_texts is not None and (vector := known_texts.get(text)) is not None:
            found[text] = vector
        else:
            fresh.append(text)
    try:
        encoded = dict(zip(fresh, encoder.encode_texts(fresh), strict=True)) if fresh else {}
    except SightlineError as error:
        if len(fresh) == 1:
            return found | {fresh[0]: error}
        for text in fresh:  # alone, so that each has its own error
            found |= _text_vectors([Term("text", text)], encoder, known_texts)
        return found
    if known_texts is not None:
        known_texts.update(encoded)
    return found | encoded


def _picture_vectors(pictures: Sequence[Picture], encoder: Encoder) -> dict[int, Vector | SightlineError]:
    """The vector of each picture, or why it has none, by the identity of the term's value."""
    found: dict[int, Vector | SightlineError] = {}
    pixels = dict[int, Pixels]()
    for picture in pictures:
        try:
            image = _open(picture, encoder.image_size) if isinstance(picture, str | Path | bytes) else picture
            pixels[id(picture)] = encoder.preprocess(image.convert("RGB"))
        except SightlineError as error:
            found[id(picture)] = error
    if pixels:
        stacked = np.stack(list(pixels.values()))  # n of (3, h, w) -> (n, 3, h, w)
        found |= zip(pixels, encoder.encode_images(stacked), strict=True)
    return found


def _names_a_picture(text: str) -> bool:
    """Whether a person means a file by this: it is written as a path, or has a picture's suffix and no blanks."""
    if "\0" in text or "\n" in text or len(text) > 4096:
        return False
    path = Path(text).expanduser()
    if path.suffix.lower() in SUFFIXES:
        return not any(char.isspace() for char in text) or "/" in text or path.exists()
    return text.startswith(("./", "../", "/", "~")) and path.exists()


def _open(picture: str | Path | bytes, image_size: int) -> Image:
    from sightline.images.read import read  # 25 ms that a search by words does not need

    if isinstance(picture, bytes):
        return read(picture, image_size=image_size)
    path = Path(picture).expanduser()
    try:
        return read(path.read_bytes(), image_size=image_size)
    except FileNotFoundError as error:
        raise UsageError(f"there is no picture at {path}, expected a picture file: check the path") from error
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}): expected a picture file that you may read") from error
    except ImageError as error:
        raise UsageError(f"cannot use {path} as a query: {error}") from error
