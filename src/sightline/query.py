"""Parse a query of words and pictures, added and subtracted with weights, and encode it as one vector."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from sightline.errors import ImageError, UsageError
from sightline.sources.folder import SUFFIXES
from sightline.types import Vector

if TYPE_CHECKING:
    from PIL.Image import Image

    from sightline.encoders.base import Encoder

Picture: TypeAlias = "str | Path | bytes | Image"
"""A path, the bytes of a picture file, or a decoded picture."""

_WEIGHT = re.compile(r"(?P<weight>\d+(?:\.\d+)?):(?P<rest>.+)", re.DOTALL)
_SMALLEST_NORM = 1e-6
_EMPTY = 'the query is empty, expected words or a picture: try "a red car" or ./photo.jpg'


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a query. `value` is words, a picture, or the id of an indexed picture."""

    kind: Literal["text", "image", "id"]
    value: Picture
    weight: float = 1.0


def parse(arguments: Sequence[str]) -> list[Term]:
    """Read `["2:golden retriever", "+", "./pool.jpg", "-", "fruit"]` as terms.

    A lone + or - adds or subtracts what follows; `2:` in front is a weight; neighbouring words are one text. What
    names a picture file is a picture, `id:` names an indexed one, everything else is words.
    """
    terms: list[Term] = []
    sign, words = 1.0, list[str]()
    for argument in [*arguments, "+"]:
        if argument not in ("+", "-"):
            words.append(argument)
            continue
        if words:
            terms.append(_term(" ".join(words), sign))
        sign, words = (1.0 if argument == "+" else -1.0), []
    if not terms:
        raise UsageError(_EMPTY)
    return terms


def embed(terms: Iterable[Term], encoder: Encoder, vector_of: Callable[[str], Vector]) -> Vector:
    """The weighted sum of the terms' unit vectors, at norm 1: shape (dim,). `vector_of` looks an id up."""
    terms = list(terms)
    if not terms:
        raise UsageError(_EMPTY)
    total: Vector = np.zeros(encoder.dim, np.float32)
    texts = [term for term in terms if term.kind == "text"]
    if texts:
        total += _weights(texts) @ encoder.encode_texts([_words(term) for term in texts])  # (q,) @ (q, dim) -> (dim,)
    for term in terms:
        if term.kind == "image":
            total += np.float32(term.weight) * embed_image(term.value, encoder)
        elif term.kind == "id":
            total += np.float32(term.weight) * vector_of(str(term.value))
    return _unit(total, terms)


def describe(terms: Sequence[Term]) -> str:
    """The query as a person would type it: `2:golden retriever + ./pool.jpg - fruit`."""
    words = list[str]()
    for position, term in enumerate(terms):
        words += ["-"] if term.weight < 0 else ["+"] if position else []
        weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}:"
        prefix = "id:" if term.kind == "id" else ""
        words.append(f"{weight}{prefix}{term.value if isinstance(term.value, str | Path) else 'a picture'}")
    return " ".join(words)


def embed_image(picture: Picture, encoder: Encoder) -> Vector:
    """The vector of one picture: shape (dim,)."""
    image = _open(picture, encoder.image_size) if isinstance(picture, str | Path | bytes) else picture
    pixels = encoder.preprocess(image.convert("RGB"))
    vector: Vector = encoder.encode_images(pixels[None])[0]  # (3, h, w) -> (1, 3, h, w) -> (1, dim) -> (dim,)
    return vector


def _term(text: str, sign: float) -> Term:
    weight = sign
    if match := _WEIGHT.fullmatch(text.strip()):
        weight, text = sign * float(match["weight"]), match["rest"]
    if text.startswith("id:"):
        return Term("id", text.removeprefix("id:"), weight)
    return Term("image" if _names_a_picture(text) else "text", text, weight)


def _names_a_picture(text: str) -> bool:
    """Whether a person who types this means a file: it has a picture's suffix, or exists and is written as a path."""
    if "\0" in text or "\n" in text or len(text) > 4096:
        return False
    path = Path(text).expanduser()
    return path.suffix.lower() in SUFFIXES or (text.startswith(("./", "../", "/", "~")) and path.exists())


def _words(term: Term) -> str:
    text = str(term.value).strip()
    if not text:
        raise UsageError(_EMPTY)
    return text


def _weights(terms: Sequence[Term]) -> Vector:
    return np.array([term.weight for term in terms], np.float32)


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


def _unit(total: Vector, terms: Sequence[Term]) -> Vector:
    norm = float(np.linalg.norm(total))
    if norm < _SMALLEST_NORM:
        raise UsageError(f"the terms cancel out ({describe(terms)}), expected a sum with a direction: change a weight")
    return np.asarray(total / np.float32(norm), np.float32)
