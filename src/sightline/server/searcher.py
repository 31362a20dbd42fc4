"""Queries of many users turned into hits by one run of the model and one scan."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL.Image import Image

from sightline import query
from sightline.calibration.line import MOST_JUDGED
from sightline.encoders.base import Encoder
from sightline.errors import SightlineError
from sightline.query import Term
from sightline.results import Took
from sightline.server.judging import Judge
from sightline.server.problems import Problem
from sightline.stores.base import Store
from sightline.types import Hit, Pixels, Vector, Vectors, Where

_REMEMBERED = 2048  # texts: a page that scrolls asks for the same one again and again


@dataclass(frozen=True, slots=True)
class Asked:
    """One query. Pictures among the terms are decoded already; `wants_line` asks which of the hits are likely."""

    terms: tuple[Term, ...]
    k: int = 10
    offset: int = 0
    where: Where | None = None
    min_score: float | None = None
    wants_line: bool = False

    @property
    def can_be_judged(self) -> bool:
        """Whether it can be said which hits are likely: of words that are added up, and not too deep."""
        is_words = all(term.kind == "text" and term.weight > 0 for term in self.terms)
        return self.wants_line and is_words and self.offset + self.k <= MOST_JUDGED


@dataclass(frozen=True, slots=True)
class Found:
    """What one query found, and how long its batch took.

    `total` is how many pictures pass the filter: None where it was not counted, because these hits are all there are.
    `chances` are the scores that each hit has to reach to be likely: None where that is not known.
    """

    hits: tuple[Hit, ...]
    took_ms: Took
    total: int | None = None
    chances: tuple[float, ...] | None = None


_NO_TIME = Took(encode=0.0, search=0.0)
_NOTHING = Found((), _NO_TIME)


class Searcher:
    """Answers batches of queries on one store with one model."""

    def __init__(self, encoder: Encoder, store: Store, vector_of: Callable[[str], Vector]) -> None:
        self._encoder, self._store, self._vector_of = encoder, store, vector_of
        self._judge = Judge(store, encoder)
        self._texts: OrderedDict[str, Vector] = OrderedDict()
        self._remembering = threading.Lock()  # two batches are worked on at once

    def search(self, jobs: Sequence[Asked]) -> list[Found | Exception]:
        """For each query what it found, or why it cannot be answered."""
        began = time.perf_counter()
        vectors = self.embed(jobs)
        encoded = time.perf_counter()
        answers: list[Found | Exception] = [vector if isinstance(vector, Exception) else _NOTHING for vector in vectors]
        for members in _alike(jobs, vectors).values():
            stacked = np.array([vectors[member] for member in members], np.float32)  # n of (dim,) -> (n, dim)
            try:
                for member, found in zip(
                    members, self._find([jobs[member] for member in members], stacked), strict=True
                ):
                    answers[member] = found
            except SightlineError as error:
                for member in members:
                    answers[member] = error
        took = Took(encode=(encoded - began) * 1e3, search=(time.perf_counter() - encoded) * 1e3)
        return [replace(answer, took_ms=took) if isinstance(answer, Found) else answer for answer in answers]

    def _find(self, jobs: Sequence[Asked], vectors: Vectors) -> list[Found]:
        """What queries find that differ in their vectors (n, dim) and least scores only.

        Whether a hit is likely depends on its rank, so that a later page of hits is judged with those before it.
        """
        k, offset, where = jobs[0].k, jobs[0].offset, jobs[0].where
        judged = [job.can_be_judged and self._judge.has_line for job in jobs]
        before = offset if any(judged) else 0
        found = self._store.search(vectors, before + k, where, offset - before)
        total = self._store.count(where) if offset or any(len(hits) == k for hits in found) else None
        found_above = [_above(hits, job.min_score) for hits, job in zip(found, jobs, strict=True)]
        wanted = [hits if is_judged else () for hits, is_judged in zip(found_above, judged, strict=True)]
        chances = self._judge.chances(wanted)
        return [
            Found(hits[before:], _NO_TIME, total, heights and (heights[before:] or None))
            for hits, heights in zip(found_above, chances, strict=True)
        ]

    def embed(self, jobs: Sequence[Asked]) -> list[Vector | Exception]:
        """For each query its vector (dim,), or why it has none; all texts and all pictures go to the model at once."""
        pictures = self._pictures([term.value for job in jobs for term in job.terms if term.kind == "image"])
        known = _Known(self._encoder, self._texts_of(jobs))
        vectors: list[Vector | Exception] = []
        for job in jobs:
            found = {f"picture {id(term.value)}": pictures.get(id(term.value)) for term in job.terms}
            terms = [
                replace(term, kind="id", value=f"picture {id(term.value)}") if term.kind == "image" else term
                for term in job.terms
            ]
            try:
                vectors.append(query.embed(terms, known, lambda key, found=found: self._look_up(key, found)))  # type: ignore[misc]
            except (SightlineError, Problem) as error:  # of one query: its neighbours in the batch have theirs
                vectors.append(error)
        return vectors

    def _look_up(self, key: str, pictures: Mapping[str, Vector | None]) -> Vector:
        vector = pictures.get(key)
        return self._vector_of(key) if vector is None else vector

    def _pictures(self, values: Sequence[object]) -> dict[int, Vector]:
        images = {id(value): value for value in values if isinstance(value, Image)}
        if not images:
            return {}
        pixels = np.stack([self._encoder.preprocess(image) for image in images.values()])  # -> (n, 3, h, w)
        return dict(zip(images, self._encoder.encode_images(pixels), strict=True))

    def _texts_of(self, jobs: Sequence[Asked]) -> dict[str, Vector]:
        wanted = dict.fromkeys(str(term.value).strip() for job in jobs for term in job.terms if term.kind == "text")
        with self._remembering:
            known = {text: vector for text in wanted if (vector := self._texts.get(text)) is not None}
        fresh = [text for text in wanted if text and text not in known]
        try:
            vectors = self._encoder.encode_texts(fresh) if fresh else ()
        except SightlineError:  # each query meets it again, and gets it as its own answer
            vectors = ()
        known |= zip(fresh, vectors, strict=False)
        with self._remembering:
            for text, vector in known.items():
                self._texts[text] = vector
                self._texts.move_to_end(text)
            while len(self._texts) > _REMEMBERED:
                self._texts.popitem(last=False)
        return known


class _Known:
    """The encoder with the texts of a batch encoded already."""

    def __init__(self, encoder: Encoder, texts: Mapping[str, Vector]) -> None:
        self._encoder, self._texts = encoder, texts
        self.name, self.fingerprint, self.dim = encoder.name, encoder.fingerprint, encoder.dim
        self.image_size, self.batch_size = encoder.image_size, encoder.batch_size

    def preprocess(self, image: Image) -> Pixels:
        return self._encoder.preprocess(image)

    def encode_images(self, pixels: Pixels) -> Vectors:
        return self._encoder.encode_images(pixels)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        if all(text in self._texts for text in texts):
            return np.stack([self._texts[text] for text in texts])
        return self._encoder.encode_texts(texts)


def _alike(jobs: Sequence[Asked], vectors: Sequence[Vector | Exception]) -> dict[tuple[int, int, str], list[int]]:
    """Positions of queries that one call of the store can answer."""
    groups: dict[tuple[int, int, str], list[int]] = {}
    for position, (job, vector) in enumerate(zip(jobs, vectors, strict=True)):
        if not isinstance(vector, Exception):
            where = json.dumps(job.where, sort_keys=True, default=str) if job.where else ""
            groups.setdefault((job.k, job.offset, where), []).append(position)
    return groups


def _above(hits: Sequence[Hit], min_score: float | None) -> tuple[Hit, ...]:
    return tuple(hit for hit in hits if min_score is None or hit.score >= min_score)
