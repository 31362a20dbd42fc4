"""The part of the API that finds pictures, and lends the model that does it."""

import time
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from starlette.responses import Response

from sightline.analysis.classify import classify as probabilities_of
from sightline.errors import UsageError
from sightline.query import SearchQuery, Term
from sightline.results import Hits, line_of, plain
from sightline.server.answers import answer, problems_of
from sightline.server.bodies import read_form, read_json
from sightline.server.pools import while_there
from sightline.server.schemas import (
    DEEPEST,
    MOST_BROWSED,
    MOST_HITS,
    By,
    ClassifyAnswer,
    ClassifyRequest,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    FacetsAnswer,
    IndexName,
    PicturesAnswer,
    Query,
    QueryTerm,
    ScoresAnswer,
    SearchAnswer,
    SearchRequest,
    Sort,
)
from sightline.server.state import ServedIndex, get_state
from sightline.types import Record, Vectors

router, model_router = APIRouter(tags=["search"]), APIRouter(tags=["model"])
_PROFILED = 10_000  # hits whose scores are counted
_STEPS = 256  # points of the curve of scores

Text = Annotated[str | None, Parameter(max_length=2000)]
Count = Annotated[int, Parameter(ge=1, le=MOST_HITS)]
Offset = Annotated[int, Parameter(ge=0, le=DEEPEST)]
Browsed = Annotated[int, Parameter(ge=0, le=MOST_BROWSED)]
Score = Annotated[float | None, Parameter(ge=-1, le=1, allow_inf_nan=False)]


def _body(model: str, *, or_form: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}}
    if or_form:
        parts = {"query": {"type": "string"}, "image": {"type": "string", "format": "binary"}}
        form = {"type": "object", "properties": parts, "description": "query is the JSON body as text"}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/api/search",
    responses={200: {"model": SearchAnswer}, **problems_of(415)},
    openapi_extra=_body("SearchRequest", or_form=True),
)
async def search(request: Request) -> Response:
    """The pictures nearest to words, pictures, or a weighted sum of both; as JSON, or with a picture as multipart."""
    query, uploaded = await read_form(request, SearchRequest)
    return await _search(request, query, uploaded)


@router.get("/api/search", responses={200: {"model": SearchAnswer}})
async def search_for(
    request: Request,
    q: Text = None,
    k: Count = 50,
    offset: Offset = 0,
    where: Text = None,
    min_score: Score = None,
    group_duplicates: bool = False,
    by: By = "both",
    sort: Sort = "relevance",
    index: IndexName = None,
) -> Response:
    """The same for words alone, for a quick look and for links; `where` is a filter: `width>=800`, or JSON."""
    given = {
        "text": q,
        "k": k,
        "offset": offset,
        "min_score": min_score,
        "by": by,
        "sort": sort,
        "group_duplicates": group_duplicates,
    }
    query = SearchRequest.model_validate({**given, "index": index, "where": where})
    return await _search(request, query, None)


@router.get("/api/images/{identity}/similar", responses={200: {"model": SearchAnswer}})
async def similar(
    request: Request, identity: str, k: Count = 50, offset: Offset = 0, index: IndexName = None
) -> Response:
    """The pictures nearest to an indexed one, without that one itself."""
    body = {"terms": [{"image_id": identity}], "k": k, "offset": offset, "index": index}
    return await _search(request, SearchRequest.model_validate(body), None, without=identity)


@router.get("/api/images", responses={200: {"model": PicturesAnswer}})
async def pictures(
    request: Request, k: Count = 50, offset: Browsed = 0, where: Text = None, index: IndexName = None
) -> Response:
    """Pictures that pass a filter, without a query: in the order of their ids, which is no meaningful one."""
    state = get_state(request)
    served = state.index(index)
    wanted = await state.where(where, served)
    records, total = await state.counting.run(_some, served, wanted, offset, k)
    following = offset + k if offset + k < min(total, MOST_BROWSED) else None
    hits = [served.shown(record) for record in records]
    return answer(request, {"hits": hits, "total_estimate": total, "next_offset": following})


@router.post(
    "/api/scores",
    responses={200: {"model": ScoresAnswer}, **problems_of(415)},
    openapi_extra=_body("Query", or_form=True),
)
async def scores(request: Request) -> Response:
    """How many pictures reach which score, among the 10,000 best: what a threshold would leave."""
    query, uploaded = await read_form(request, Query)
    state = get_state(request)
    served = state.index(query.index)
    terms, where = await state.question(request, query, served, uploaded)
    await served.search(SearchQuery(terms, 1, 0, where))  # in line with all others; the vector is known afterwards
    found, total = await state.counting.run(_profile, served, SearchQuery(terms, _PROFILED, 0, where))
    last = len(found) - 1
    ranks = sorted({round(last * step / (_STEPS - 1)) for step in range(_STEPS)}) if found else []
    body = {"scores": [round(found[rank].score, 4) for rank in ranks], "counts": [rank + 1 for rank in ranks]}
    return answer(request, {**body, "deepest": len(found), "total": total})


@router.get("/api/facets", responses={200: {"model": FacetsAnswer}})
def list_facets(request: Request, index: IndexName = None) -> Response:
    """The fields that can be filtered by, with their ranges and their values where these are few."""
    found, is_complete = get_state(request).index(index).facets()
    listed = [
        plain(
            {"field": facet.field, "kind": facet.kind, "count": facet.count, "least": facet.least, "most": facet.most}
        )
        | {"values": [plain({"value": value}) | {"count": count} for value, count in facet.values]}
        for facet in found
    ]
    return answer(request, {"facets": listed, "is_complete": is_complete})


@model_router.post(
    "/api/classify",
    responses={200: {"model": ClassifyAnswer}, **problems_of(415)},
    openapi_extra=_body("ClassifyRequest"),
)
async def classify(request: Request) -> Response:
    """Which of some labels fits a picture, with probabilities."""
    body = await read_json(request, ClassifyRequest)
    state = get_state(request)
    served = state.index(body.index)
    if (body.image is None) == (body.image_id is None):
        raise UsageError("give either image or image_id, to name one picture")
    terms, _ = await state.question(request, Query(terms=[QueryTerm(image=body.image, image_id=body.image_id)]), served)
    probabilities = await state.counting.run(_classified, served, terms, body.labels, body.template)
    ranked = sorted(zip(body.labels, probabilities, strict=True), key=lambda pair: -pair[1])
    labels = [{"label": label, "probability": round(probability, 6)} for label, probability in ranked]
    return answer(request, {"labels": labels, "model": served.index.encoder.name})


@model_router.post(
    "/api/embeddings",
    responses={200: {"model": EmbeddingsAnswer}, **problems_of(415)},
    openapi_extra=_body("EmbeddingsRequest"),
)
async def embeddings(request: Request) -> Response:
    """Texts and pictures as unit vectors of the index's model."""
    body = await read_json(request, EmbeddingsRequest)
    state = get_state(request)
    served = state.index(body.index)
    texts = [Query(terms=[QueryTerm(text=text)]) for text in body.texts]
    pictures = [Query(image=image) for image in body.images]
    terms = [(await state.question(request, query, served))[0] for query in [*texts, *pictures]]
    vectors = await state.counting.run(_embedded, served, terms)
    rows = vectors.astype(float).round(7).tolist()
    encoder = served.index.encoder
    counted = {"texts": rows[: len(texts)], "images": rows[len(texts) :]}
    return answer(request, {"model": encoder.name, "dim": encoder.dim, **counted})


async def _search(request: Request, asked: SearchRequest, uploaded: bytes | None, *, without: str = "") -> Response:
    began = time.perf_counter()
    state = get_state(request)
    served = state.index(asked.index)
    terms, where = await state.question(request, asked, served, uploaded)
    query = SearchQuery(
        terms,
        asked.k,
        asked.offset,
        where,
        asked.min_score,
        without=without,
        fold=asked.group_duplicates,
        fold_score=asked.duplicate_score,
        with_total=True,
        by=asked.by,
        sort=asked.sort,
    )
    # One that has to wait leaves the queue when its asker does: somebody who types on.
    hits = await (while_there(request, served.search(query)) if served.depth else served.search(query))
    total, following = hits.total or 0, asked.offset + len(hits)
    lines = [line_of(hit, threshold) for hit, threshold in zip(hits, hits.thresholds or (), strict=False)]
    body = {
        "query": hits.query,
        "likely": None if hits.likely is None else len(hits.likely),
        "note": hits.note or None,
        "hits": [
            served.shown(hit)
            | {"score": round(hit.score, 4), **line, "duplicates": list(duplicates), "evidence": evidence}
            for hit, line, duplicates, evidence in zip(
                hits,
                lines or [{}] * len(hits),
                hits.duplicates or [()] * len(hits),
                hits.evidence or [{}] * len(hits),
                strict=True,
            )
        ],
        "total_estimate": total,
        "next_offset": following if hits.hits and following < total and following <= DEEPEST else None,
        "took_ms": {
            "encode": round(hits.took_ms.encode, 2),
            "search": round(hits.took_ms.search, 2),
            "total": round((time.perf_counter() - began) * 1e3, 2),
        },
        "model": hits.model,
        "index": served.name,
    }
    return answer(request, body)


def _some(served: ServedIndex, where: Any, offset: int, k: int) -> tuple[list[Record], int]:
    store = served.store()
    return list(islice(store.scan(where), offset, offset + k)), store.count(where)


def _profile(served: ServedIndex, query: SearchQuery) -> tuple[Hits, int]:
    (found,) = served.open().search_many([query])
    return found, served.store().count(query.where)


def _classified(served: ServedIndex, terms: tuple[Term, ...], labels: list[str], template: str) -> list[float]:
    vectors, encoder = served.open().embed([terms]), served.index.encoder
    found: list[float] = probabilities_of(vectors, labels, encoder, templates=[template])[0].tolist()
    return found


def _embedded(served: ServedIndex, queries: list[tuple[Term, ...]]) -> Vectors:
    """One vector for each query: (n, dim)."""
    return served.open().embed(queries)
