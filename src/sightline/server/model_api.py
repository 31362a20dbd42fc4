"""The part of the API that lends the model: probabilities of labels, vectors of texts and pictures."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from sightline.analysis.classify import classify as probabilities_of
from sightline.errors import UsageError
from sightline.query import Term
from sightline.server.schemas import (
    ClassifyAnswer,
    ClassifyRequest,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    Query,
    QueryTerm,
)
from sightline.server.served_index import ServedIndex
from sightline.server.state import answer, get_state
from sightline.types import Vectors

router = APIRouter(tags=["model"])


@router.post("/api/classify", responses={200: {"model": ClassifyAnswer}})
async def classify(request: Request, body: ClassifyRequest) -> Response:
    """Which of some labels fits a picture, with probabilities."""
    state = get_state(request)
    served = state.index(body.index)
    if (body.image is None) == (body.image_id is None):
        raise UsageError("give either image or image_id, to name one picture")
    terms = await state.terms(Query(terms=[QueryTerm(image=body.image, image_id=body.image_id)]), served)
    probabilities = await state.counting.run(_classified, served, terms, body.labels, body.template)
    ranked = sorted(zip(body.labels, probabilities, strict=True), key=lambda pair: -pair[1])
    labels = [{"label": label, "probability": round(probability, 6)} for label, probability in ranked]
    return answer(request, {"labels": labels, "model": served.index.encoder.name})


@router.post("/api/embeddings", responses={200: {"model": EmbeddingsAnswer}})
async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
    """Texts and pictures as unit vectors of the index's model."""
    state = get_state(request)
    served = state.index(body.index)
    texts = [Query(text=text) for text in body.texts]
    pictures = [Query(image=image) for image in body.images]
    terms = [await state.terms(query, served) for query in [*texts, *pictures]]
    vectors = await state.counting.run(_embedded, served, terms)
    rows = vectors.astype(float).round(7).tolist()
    encoder = served.index.encoder
    counted = {"texts": rows[: len(texts)], "images": rows[len(texts) :]}
    return answer(request, {"model": encoder.name, "dim": encoder.dim, **counted})


def _classified(served: ServedIndex, terms: tuple[Term, ...], labels: list[str], template: str) -> list[float]:
    vectors, encoder = served.open().embed([terms]), served.index.encoder
    found: list[float] = probabilities_of(vectors, labels, encoder, templates=[template])[0].tolist()
    return found


def _embedded(served: ServedIndex, queries: list[tuple[Term, ...]]) -> Vectors:
    """One vector for each query: (n, dim)."""
    return served.open().embed(queries)
