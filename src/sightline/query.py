"""Parse a query of words and pictures, added and subtracted with weights, and encode it as one vector."""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from sightline.errors import SightlineError, UsageError
from sightline.pictures import Picture, Region, check_region, cropped, is_picture, is_url, pixels_of
from sightline.sources.files import SUFFIXES, is_data_url
from sightline.stores.written import Phrase, phrases_of
from sightline.types import Pixels, Vector, Where

if TYPE_CHECKING:
    from sightline.encoders.base import Encoder

Query: TypeAlias = "str | Picture | Vector | Sequence[float] | Term | Sequence[Term]"
"""Words, a picture, a vector (dim,), a term, or several terms to be added up."""

EVIDENCE = ("both", "meaning", "text")
"""What a search may go by."""

ORDERS = ("relevance", "newest", "oldest", "name", "size")
"""How hits may be sorted."""

_WEIGHT = re.compile(r"(?P<weight>\d+(?:\.\d+)?):(?P<rest>\D.*)", re.DOTALL)  # 16:9 and 12:30 are words
_QUOTED = r'"[^"]*"'
_SIGN = (
    r"(?:^|(?<=\s))(?P<sign>[+-])(?=\s|$)"  # dog - snow
    rf"|(?<=\s)-(?P<minus>[^\W\d][^\s\"]*|{_QUOTED})"  # dog -snow; not t-shirt, -20
    r"|(?<=\s)(?P<weighed>(?=\d+(?:\.\d+)?:[^\W\d]))"  # dog 2:red; not 16:9
)
_PART = re.compile(rf"(?P<quoted>{_QUOTED})|{_SIGN}")
_WORD = re.compile(r"(?!.*[-\da-f]{32})[^/\\.:]+")  # neither a path nor an id
_SMALLEST_NORM = 1e-6
_EMPTY = 'the query is empty, expected words or a picture: try "a red car" or ./photo.jpg'


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a query. `value` is words, a picture, the id of an indexed picture, or a vector (dim,)."""

    kind: Literal["text", "image", "id", "vector"]
    value: Picture
    weight: float = 1.0
    is_exact: bool = field(default=False, compare=False)
    """Whether the words stood in quotes: among what is written, only these in this order are looked for."""
    region: Region | None = None
    """The part of a picture that is meant: x, y, width and height as shares of it; None for all of it."""

    def __post_init__(self) -> None:
        if self.kind not in ("text", "image", "id", "vector"):
            raise UsageError(f"the kind of a term is {self.kind!r}, expected text, image, id or vector")
        if not isinstance(self.weight, int | float | np.number) or not np.isfinite(self.weight):
            raise UsageError(f"the weight of a term is {self.weight!r}, expected a finite number")
        if self.kind in ("text", "id") and not isinstance(self.value, str):
            raise UsageError(f"the value of a term of kind {self.kind} is {_type(self.value)}, expected text")
        if self.region is not None:
            check_region(self.region)
            if self.kind != "image":
                raise UsageError(f"a region of a term of kind {self.kind}, expected a picture: give its file or bytes")


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Terms to search for, and which part of the results is wanted.

    `k` hits from `offset` on, of the pictures that match `where` and score at least `min_score` (a cosine), without the
    one whose id is `without`. With `fold` near-duplicates of an earlier hit are left out: those whose cosine to it is
    `fold_score` or more, by default the index's own threshold. `with_total` also counts how many pictures there are.
    `by` is one of `EVIDENCE`: whether pictures are found by what they show, by what is written of them, or by both.
    With another `sort`, one of `ORDERS`, the likely hits alone are given, in that order.
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
    by: str = "both"
    sort: str = "relevance"
    phrases: tuple[Phrase, ...] = field(init=False, default=())
    """The words that are looked for among what is written: those of texts that are not subtracted."""

    def __post_init__(self) -> None:
        if wrong := next((term for term in self.terms if not isinstance(term, Term)), None):
            raise UsageError(f"a term is {_type(wrong)}, expected sightline.Term(kind, value, weight)")
        if not all(isinstance(number, int | np.integer) for number in (self.k, self.offset)):
            raise UsageError(f"k is {self.k!r} and offset is {self.offset!r}, expected whole numbers")
        if self.sort not in ORDERS:
            raise UsageError(f"sort is {self.sort!r}, expected one of {', '.join(ORDERS)}")
        if self.by not in EVIDENCE:
            raise UsageError(f"by is {self.by!r}, expected one of {', '.join(EVIDENCE)}")
        if not isinstance(self.min_score, int | float | np.number | None):
            raise UsageError(f"min_score is {self.min_score!r}, expected a number from -1 to 1, or None")
        if self.k < 1 or self.offset < 0:
            raise UsageError(f"k is {self.k} and offset is {self.offset}: k must be at least 1, offset at least 0")
        if self.by != "meaning":
            texts = [(str(term.value), term.is_exact) for term in self.terms if term.kind == "text" and term.weight > 0]
            object.__setattr__(self, "phrases", phrases_of(texts))


def terms_of(query: Query) -> list[Term]:
    """A query of any kind as terms; text is read as on the command line, by `parse`. `UsageError` for anything else."""
    if isinstance(query, str):
        return parse([query])
    if isinstance(query, Term):
        return [query]
    if is_picture(query):
        return [Term("image", cast("Picture", query))]
    if isinstance(query, np.ndarray):
        return [Term("vector", query)]
    if isinstance(query, Sequence) and query and all(isinstance(part, Term) for part in query):
        return list(cast("Sequence[Term]", query))
    if isinstance(query, Sequence) and query and all(isinstance(part, float | int | np.number) for part in query):
        return [Term("vector", np.array(query, np.float32))]
    raise UsageError(
        f"the query is {_type(query)}, expected words, a picture (a path, a URL, bytes, an open file, a Pillow image "
        "or an array), a vector, or terms; for several queries search once for each"
    )


def parse(arguments: Sequence[str], *, with_files: bool = True) -> list[Term]:
    """Read `["2:golden retriever", "+", "./pool.jpg", "-", "fruit"]` as terms.

    A lone + or - adds or subtracts what follows, also within one argument; a minus before a word, or before words in
    quotes, subtracts these alone (`dog -snow storm`). Double quotes protect what stands in them. `2:` in front is a
    weight for what follows; neighbouring words are one text. What names a
    picture file is a picture unless `with_files` is false, `id:` names an indexed one, all else is words.
    """
    terms: list[Term] = []
    sign, words, subtracted = 1.0, list[str](), list[Term]()
    parts = list[tuple[str, bool]]()  # with whether it is a sign
    for argument in arguments:
        if with_files and _names_a_picture(argument):
            parts.append((argument, False))
            continue
        start = 0
        for found in _PART.finditer(argument):
            if not found["quoted"]:
                sign_of = found["sign"] or (found["minus"] and f"-{found['minus']}") or "+"
                parts += [(argument[start : found.start()], False), (sign_of, True)]
                start = found.end()
        parts.append((argument[start:], False))
    for part, is_sign in [*parts, ("+", True)]:
        if not is_sign:
            words += [part.strip()] if part.strip() else []
            continue
        if part not in ("+", "-"):
            text = part[1:]
            is_quoted = text.startswith('"')
            subtracted.append(Term("text", text.strip('"') if is_quoted else text, -1.0, is_quoted))
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
                terms.append(Term("text", text[1:-1] if is_quoted else text, weight, is_quoted))
        terms += subtracted
        sign, words, subtracted = (1.0 if part == "+" else -1.0), [], []
    if not terms:
        raise UsageError(_EMPTY)
    return terms


def understand(
    terms: Sequence[Term], is_indexed: Callable[[str], bool], filters_of: Callable[[str], tuple[str, list[Where]]]
) -> tuple[tuple[Term, ...], list[Where]]:
    """Terms as they were typed, without the filters in their texts, and these; those of a subtracted text exclude.

    `id:` before a word that names no picture here is a word: id:card.
    """
    read, filters = list[Term](), list[Where]()
    for term in terms:
        text = str(term.value)
        if term.kind == "id" and _WORD.fullmatch(text) and not is_indexed(text):
            read.append(Term("text", f"id:{text}", term.weight))
        elif term.kind == "text" and not term.is_exact and ":" in text:
            rest, found = filters_of(text)
            filters += found if term.weight > 0 else [{"$not": one} for one in found]
            read += [replace(term, value=rest)] if rest or not found else []
        else:
            read.append(term)
    return tuple(read), filters


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
    images = [term for terms in queries for term in terms if term.kind == "image"]
    pictures = _picture_vectors(images, encoder) if images else {}
    vectors: list[Vector | SightlineError] = []
    for terms in queries:
        try:
            total: Vector = np.zeros(encoder.dim, np.float32)
            for term in terms:
                if term.kind == "id":
                    found: Vector | SightlineError = vector_of(str(term.value))
                elif term.kind == "vector":
                    found = _unit(term.value, encoder)
                elif term.kind == "image":
                    found = pictures[id(term.value), term.region]
                else:
                    found = texts[str(term.value).strip()]
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
        shown = "a vector" if term.kind == "vector" else "a picture"
        if isinstance(term.value, str | Path) and not (term.kind == "image" and is_data_url(str(term.value))):
            shown = f"id:{term.value}" if term.kind == "id" else str(term.value)
        words.append(weight + shown)
    return " ".join(words)


def _type(value: object) -> str:
    return f"of type {type(value).__name__}"


def _unit(value: object, encoder: Encoder) -> Vector:
    """A vector of a query at norm 1."""
    try:
        vector = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a vector {_type(value)}, expected {encoder.dim} numbers") from error
    norm = float(np.linalg.norm(vector))
    if vector.shape != (encoder.dim,) or not np.isfinite(norm) or norm < _SMALLEST_NORM:
        raise UsageError(
            f"a vector of shape {vector.shape} and norm {norm:g}, expected {encoder.dim} finite numbers "
            f"that are not all 0: the model is {encoder.name}"
        )
    return np.asarray(vector / np.float32(norm), np.float32)


def doubts(terms: Sequence[Term], encoder: Encoder) -> str:
    """What to know of the words of a query before its hits are believed: that the model may not read their language."""
    reads = getattr(encoder, "reads", None)
    foreign = [str(term.value) for term in terms if reads and term.kind == "text" and reads(str(term.value)) != "yes"]
    if not foreign:
        return ""
    return (
        f"{foreign[0][:60]!r} is perhaps not understood: model {encoder.name!r} reads English; say it in English, or "
        "index with a model of more languages (sightline models)"
    )


def _text_vectors(
    terms: Sequence[Term], encoder: Encoder, known_texts: MutableMapping[str, Vector] | None
) -> dict[str, Vector | SightlineError]:
    """The vector of each text, or why it has none."""
    found: dict[str, Vector | SightlineError] = {}
    fresh, reads = list[str](), getattr(encoder, "reads", None)
    for text in dict.fromkeys(str(term.value).strip() for term in terms if term.kind == "text"):
        if not text:
            found[text] = UsageError(_EMPTY)
        elif known_texts is not None and (vector := known_texts.get(text)) is not None:
            found[text] = vector
        elif reads and reads(text) == "no":
            found[text] = UsageError(
                f"{text[:60]!r} is not text that model {encoder.name!r} can read: use words of its language (mini: "
                "English), a picture, or a model of more languages (sightline models)"
            )
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


def _picture_vectors(
    terms: Sequence[Term], encoder: Encoder
) -> dict[tuple[int, Region | None], Vector | SightlineError]:
    """The vector of each picture, or why it has none, by the identity of the term's value and its region."""
    found: dict[tuple[int, Region | None], Vector | SightlineError] = {}
    pixels = dict[tuple[int, Region | None], Pixels]()
    for term in terms:
        key, size = (id(term.value), term.region), encoder.image_size
        try:
            if term.region:
                image = cropped(term.value, term.region, image_size=size)
            else:
                image = pixels_of(term.value, image_size=size)
            pixels[key] = encoder.preprocess(image)
        except SightlineError as error:
            found[key] = error
    if pixels:
        stacked = np.stack(list(pixels.values()))  # n of (3, h, w) -> (n, 3, h, w)
        found |= zip(pixels, encoder.encode_images(stacked), strict=True)
    return found


def _names_a_picture(text: str) -> bool:
    """Whether a person means a file by this: it is written as a path, or has a picture's suffix and no blanks."""
    if is_url(text):
        return True
    if "\0" in text or "\n" in text or len(text) > 4096:
        return False
    path = Path(text).expanduser()
    if path.suffix.lower() in SUFFIXES:
        return not any(char.isspace() for char in text) or "/" in text or path.exists()
    return text.startswith(("./", "../", "/", "~")) and path.exists()
