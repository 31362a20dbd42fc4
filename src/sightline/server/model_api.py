"""The part of the API that lends the model: probabilities of labels, vectors of texts and pictures."""

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from sightline.analysis.classify import classify as probabilities_of
from sightline.errors import UsageError
from sightline.query import Term
from sightline.server.access import answer, desk
from sightline.server.gallery import Gallery
from sightline.server.schemas import (
    ClassifyAnswer,
    ClassifyRequest,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    Query,
    QueryTerm,
)
from sightline.server.searcher import Asked
from sightline.types import Vectors

router = APIRouter(tags=["model"])


@router.post("/api/classify", responses={200: {"model": ClassifyAnswer}})
async def classify(request: Request, body: ClassifyRequest) -> Response:
    """Which of some labels fits a picture, with probabilities."""
    here = desk(request)
    gallery = here.gallery(body.index)
    if (body.image is None) == (body.image_id is None):
        raise UsageError("both of image and image_id are given, or none, expected one of them: name one picture")
    terms = await here.terms(Query(terms=[QueryTerm(image=body.image, image_id=body.image_id)]), gallery)
    chances = await here.counting.run(_classified, gallery, terms, body.labels, body.template)
    ranked = sorted(zip(body.labels, chances, strict=True), key=lambda pair: -pair[1])
    labels = [{"label": label, "probability": round(chance, 6)} for label, chance in ranked]
    return answer(request, {"labels": labels, "model": gallery.index.encoder.name})


@router.post("/api/embeddings", responses={200: {"model": EmbeddingsAnswer}})
async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
    """Texts and pictures as unit vectors of the index's model."""
    here = desk(request)
    gallery = here.gallery(body.index)
    texts = [Query(text=text) for text in body.texts]
    pictures = [Query(image=image) for image in body.images]
    terms = [await here.terms(query, gallery) for query in [*texts, *pictures]]
    vectors = await here.counting.run(_embedded, gallery, terms)
    rows = vectors.astype(float).round(7).tolist()
    encoder = gallery.index.encoder
    counted = {"texts": rows[: len(texts)], "images": rows[len(texts) :]}
    return answer(request, {"model": encoder.name, "dim": encoder.dim, **counted})


def _classified(gallery: Gallery, terms: tuple[Term, ...], labels: list[str], template: str) -> list[float]:
    vectors = _embedded(gallery, [terms])
    found: list[float] = probabilities_of(vectors, labels, gallery.index.encoder, templates=[template])[0].tolist()
    return found


def _embedded(gallery: Gallery, terms: list[tuple[Term, ...]]) -> Vectors:
    """One vector for each query: (n, dim)."""
    vectors = gallery.searcher().embed([Asked(some) for some in terms])
    for vector in vectors:
        if isinstance(vector, Exception):
            raise vector
    return np.array(vectors, np.float32).reshape(len(vectors), gallery.index.encoder.dim)
