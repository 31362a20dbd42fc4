"""The part of the API that finds pictures."""

import asyncio
import time
from itertools import islice
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from sightline.analysis.duplicates import fold
from sightline.query import describe
from sightline.results import line_of, plain
from sightline.server.access import answer, desk, problems_of, shown
from sightline.server.gallery import Gallery
from sightline.server.problems import Problem
from sightline.server.schemas import (
    DEEPEST,
    MOST_BROWSED,
    MOST_HITS,
    FacetsAnswer,
    PicturesAnswer,
    Query,
    ScoresAnswer,
    SearchAnswer,
    SearchRequest,
)
from sightline.server.searcher import Asked, Found
from sightline.types import Hit, Record

router = APIRouter(tags=["search"])
_PROFILED = 10_000  # hits whose scores are counted
_STEPS = 256  # points of the curve of scores

Text = Annotated[str | None, Parameter(max_length=2000)]
Count = Annotated[int, Parameter(ge=1, le=MOST_HITS)]
Offset = Annotated[int, Parameter(ge=0, le=DEEPEST)]
Browsed = Annotated[int, Parameter(ge=0, le=MOST_BROWSED)]
Score = Annotated[float | None, Parameter(ge=-1, le=1, allow_inf_nan=False)]
Name = Annotated[str | None, Parameter(max_length=100)]


def _body(model: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model}"}
    parts = {"query": {"type": "string"}, "image": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": parts, "description": "query is the JSON body as text"}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/api/search",
    responses={200: {"model": SearchAnswer}, **problems_of(415)},
    openapi_extra=_body("SearchRequest"),
)
async def search(request: Request) -> Response:
    """The pictures nearest to words, pictures, or a weighted sum of both; as JSON, or with a picture as multipart."""
    query, uploaded = await _read(request, SearchRequest)
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
    index: Name = None,
) -> Response:
    """The same for words alone, for a quick look and for links; `where` is a filter: `width>=800`, or JSON."""
    given = {"text": q, "k": k, "offset": offset, "min_score": min_score, "group_duplicates": group_duplicates}
    query = SearchRequest.model_validate({**given, "index": index, "where": where})
    return await _search(request, query, None)


@router.get("/api/images/{identity}/similar", responses={200: {"model": SearchAnswer}})
async def similar(request: Request, identity: str, k: Count = 50, offset: Offset = 0, index: Name = None) -> Response:
    """The pictures nearest to an indexed one, without that one itself."""
    body = {"terms": [{"image_id": identity}], "k": min(k + 1, MOST_HITS), "offset": offset, "index": index}
    return await _search(request, SearchRequest.model_validate(body), None, without=identity, k=k)


@router.get("/api/images", responses={200: {"model": PicturesAnswer}})
async def pictures(
    request: Request, k: Count = 50, offset: Browsed = 0, where: Text = None, index: Name = None
) -> Response:
    """Pictures that pass a filter, without a query: in the order of their ids, which is no meaningful one."""
    here = desk(request)
    gallery = here.gallery(index)
    wanted = await here.where(where, gallery)
    records, total = await here.counting.run(_some, gallery, wanted, offset, k)
    named = gallery.name != next(iter(here.galleries))
    following = offset + k if offset + k < min(total, MOST_BROWSED) else None
    shown_ones = [shown(record, gallery, named=named) for record in records]
    return answer(request, {"hits": shown_ones, "total_estimate": total, "next_offset": following})


@router.post(
    "/api/scores",
    responses={200: {"model": ScoresAnswer}, **problems_of(415)},
    openapi_extra=_body("Query"),
)
async def scores(request: Request) -> Response:
    """How many pictures reach which score, among the 10,000 best: what a threshold would leave."""
    query, uploaded = await _read(request, Query)
    here = desk(request)
    gallery = here.gallery(query.index)
    where = await here.where(query.where, gallery)
    terms = await here.terms(query, gallery, uploaded)
    await gallery.search(Asked(terms, 1, 0, where))  # in line with all others; the vector is known afterwards
    found, total = await here.counting.run(_profile, gallery, Asked(terms, _PROFILED, 0, where))
    last = len(found) - 1
    ranks = sorted({round(last * step / (_STEPS - 1)) for step in range(_STEPS)}) if found else []
    body = {"scores": [round(found[rank].score, 4) for rank in ranks], "counts": [rank + 1 for rank in ranks]}
    return answer(request, {**body, "deepest": len(found), "total": total})


@router.get("/api/facets", responses={200: {"model": FacetsAnswer}})
def list_facets(request: Request, index: Name = None) -> Response:
    """The fields that can be filtered by, with their ranges and their values where these are few."""
    found, is_complete = desk(request).gallery(index).facets()
    listed = [
        plain(
            {"field": facet.field, "kind": facet.kind, "count": facet.count, "least": facet.least, "most": facet.most}
        )
        | {"values": [plain({"value": value}) | {"count": count} for value, count in facet.values]}
        for facet in found
    ]
    return answer(request, {"facets": listed, "is_complete": is_complete})


async def _search(
    request: Request, query: SearchRequest, uploaded: bytes | None, *, without: str = "", k: int = 0
) -> Response:
    began = time.perf_counter()
    here = desk(request)
    gallery = here.gallery(query.index)
    where = await here.where(query.where, gallery)
    terms = await here.terms(query, gallery, uploaded)
    asked = Asked(terms, query.k, query.offset, where, query.min_score, wants_line=True)
    found = await _found(request, gallery, asked)
    hits = [(hit, list[str]()) for hit in found.hits if hit.id != without][: k or None]
    if query.group_duplicates and len(hits) > 1:
        hits = await here.counting.run(_folded, gallery, [hit for hit, _ in hits], query.duplicate_score)
    total, is_last = _total(query, found)
    named, lines = gallery.name != next(iter(here.galleries)), _lines(found)
    body = {
        "query": describe(terms),
        "likely": None if found.chances is None else sum(lines[hit.id]["is_likely"] for hit, _ in hits),
        "hits": [
            shown(hit, gallery, named=named)
            | {"score": round(hit.score, 4), **lines.get(hit.id, {}), "duplicates": folded}
            for hit, folded in hits
        ],
        "total_estimate": total,
        "next_offset": None if is_last else query.offset + (k or query.k),
        "took_ms": {
            "encode": round(found.took_ms.encode, 2),
            "search": round(found.took_ms.search, 2),
            "total": round((time.perf_counter() - began) * 1e3, 2),
        },
        "model": gallery.index.encoder.name,
        "index": gallery.name,
    }
    return answer(request, body)


def _lines(found: Found) -> dict[str, dict[str, Any]]:
    """For each hit that was judged from which score on it is likely, and whether it is."""
    judged = zip(found.hits, found.chances, strict=True) if found.chances is not None else ()
    return {hit.id: line_of(hit, chance) for hit, chance in judged}


async def _found(request: Request, gallery: Gallery, asked: Asked) -> Found:
    """What a query finds. One that has to wait leaves the queue when its asker does: somebody who types on."""
    if not gallery.depth:
        return await gallery.search(asked)
    searching, leaving = asyncio.create_task(gallery.search(asked)), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({searching, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if searching.done():
            return searching.result()
        searching.cancel()
        raise Problem(499, "the asker has gone")
    finally:
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _total(query: SearchRequest, found: Found) -> tuple[int, bool]:
    """How many pictures there are for the query, and whether these are the last ones."""
    seen = query.offset + len(found.hits)
    if found.total is None or (len(found.hits) < query.k and (found.hits or not query.offset)):
        return seen, True
    return found.total, seen >= found.total or not found.hits or seen > DEEPEST


def _folded(gallery: Gallery, hits: list[Hit], same: float) -> list[tuple[Hit, list[str]]]:
    """The hits without those that are near-duplicates of an earlier one, whose ids stand beside that one."""
    records = {record.id: record for record in gallery.store().fetch([hit.id for hit in hits])}
    hits = [hit for hit in hits if hit.id in records]
    if not hits:
        return []
    groups = fold(np.stack([records[hit.id].vector for hit in hits]), same=same)  # n of (dim,) -> (n, dim)
    return [(hits[group[0]], [hits[position].id for position in group[1:]]) for group in groups]


def _some(gallery: Gallery, where: Any, offset: int, k: int) -> tuple[list[Record], int]:
    store = gallery.store()
    return list(islice(store.scan(where), offset, offset + k)), store.count(where)


def _profile(gallery: Gallery, asked: Asked) -> tuple[tuple[Hit, ...], int]:
    (found,) = gallery.searcher().search([asked])
    if isinstance(found, Exception):
        raise found
    return found.hits, gallery.store().count(asked.where)


async def _read(request: Request, model: type[Any]) -> tuple[Any, bytes | None]:
    """The body as JSON, or as multipart with a picture beside it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return model.model_validate_json(await request.body()), None
    if kind != "multipart/form-data":
        raise Problem(415, f"the body is {kind or 'of no type'}, expected application/json or multipart/form-data")
    async with request.form(max_files=1, max_fields=2) as form:
        return model.model_validate_json(_text(form, "query") or "{}"), await _file(form, "image")


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    if not isinstance(value, str):
        raise Problem(422, f"the part {name!r} is a file, expected text: send it without a file name")
    return value


async def _file(form: FormData, name: str) -> bytes | None:
    value = form.get(name)
    if isinstance(value, str):
        raise Problem(422, f"the part {name!r} is text, expected a file: send it with a file name")
    return await value.read() if isinstance(value, UploadFile) else None
