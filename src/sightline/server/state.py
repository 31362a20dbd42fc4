"""What the API's functions share: the application's state, answers as JSON, hits with their links."""

import base64
import binascii
import gzip
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fastapi import Request
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json
from starlette.responses import Response

from sightline.errors import WhereError
from sightline.filters.dates import is_local_time
from sightline.images.read import read
from sightline.query import Term
from sightline.results import plain
from sightline.server.fetching import Fetcher
from sightline.server.metrics import Metrics
from sightline.server.pools import Pool
from sightline.server.problems import Problem
from sightline.server.query_pictures import PREFIX, QueryPictures
from sightline.server.schemas import Query, QueryTerm
from sightline.server.served_index import ServedIndex, served_indexes
from sightline.server.settings import Settings
from sightline.server.thumbnails import version
from sightline.types import Filter, Hit, Record, Where

THUMBNAIL = 320
_ZIPPED_BYTES = 4096  # smaller answers fit a few packets anyway
_MOST_PARTS = 1000  # values and conditions of a filter
_DATA_URL = re.compile(r"data:[\w/+.-]*;base64,")


class AppState:
    """Settings, indexes, caches and threads of one application."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.indexes = served_indexes(settings, self.metrics)
        self.query_pictures = QueryPictures((settings.cache or settings.hub.cache) / "queries")
        self._fetcher = Fetcher(settings.urls) if settings.urls else None
        self.decoding = Pool("decode", threads=2, max_waiting=64)
        self.thumbing = Pool("thumbnail", threads=2, max_waiting=1024)
        self.counting = Pool("count", threads=1, max_waiting=8)
        self.reading = Pool("read", threads=4, max_waiting=1024)

    def index(self, name: str | None) -> ServedIndex:
        """The index of that name, the first one without a name; a `Problem` with status 404 if there is none."""
        if name is None:
            return next(iter(self.indexes.values()))
        if name not in self.indexes:
            raise Problem(404, f"there is no index {name[:60]!r}, expected one of {', '.join(self.indexes)}")
        return self.indexes[name]

    async def where(self, given: Filter | None, served: ServedIndex) -> Where | None:
        """The filter of a request as stores take it; `WhereError` for one that is wrong, as `Index.filter`."""
        if not given:
            return None
        _check_size(given)
        known = served.index.fields.read_known(given)
        if known is not None:
            return known
        await self.counting.run(served.store)  # opened once, whoever comes first
        return await self.counting.run(served.index.filter, given)

    async def terms(self, query: Query, served: ServedIndex, uploaded: bytes | None = None) -> tuple[Term, ...]:
        """The terms of a query, its pictures fetched and decoded."""
        parts = [QueryTerm(text=query.text)] if query.text is not None else []
        terms = [await self._term(part, served) for part in (*parts, *query.terms)]
        if query.image is not None:
            terms.append(await self._picture(unpacked(query.image), 1.0, served))
        if query.image_url is not None:
            terms.append(await self._picture(await self._fetched(query.image_url), 1.0, served))
        if uploaded is not None:
            terms.append(await self._picture(uploaded, 1.0, served))
        return tuple(terms)

    async def _term(self, part: QueryTerm, served: ServedIndex) -> Term:
        if part.text is not None:
            return Term("text", part.text, part.weight)
        if part.image is not None:
            return await self._picture(unpacked(part.image), part.weight, served)
        if part.image_url is not None:
            return await self._picture(await self._fetched(part.image_url), part.weight, served)
        identity = part.image_id or ""
        if identity.startswith(PREFIX):
            data = await self.decoding.run(self.query_pictures.read, identity)
            return await self._picture(data, part.weight, served)
        return Term("id", identity, part.weight)

    async def _fetched(self, url: str) -> bytes:
        if self._fetcher is None:
            raise Problem(
                403, "this server fetches no URLs: send the picture's bytes, or start it with --allow-url-queries"
            )
        return await self._fetcher.fetch(url)

    async def _picture(self, data: bytes, weight: float, served: ServedIndex) -> Term:
        if not served.is_ready:
            await served.writing.run(served.open)
        limit, size = self.settings.max_megapixels, served.index.encoder.image_size
        image = await self.decoding.run(read, data, image_size=size, limit_megapixels=limit)
        return Term("image", image, weight)

    async def close(self) -> None:
        """Finish what was accepted."""
        for served in self.indexes.values():
            await served.close()
        for pool in (self.decoding, self.thumbing, self.counting, self.reading):
            pool.close()


def get_state(request: Request) -> AppState:
    """The state of the application that a request came to."""
    state: AppState = request.app.state.sightline
    return state


def _check_size(where: Filter) -> None:
    """`WhereError` for a filter too large to be a person's."""
    size, parts = 0, list[Any]([where])
    while parts:
        part = parts.pop()
        size += 1
        parts += part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ()
    if size > _MOST_PARTS:
        raise WhereError(f"the filter has {size:,} parts, expected at most {_MOST_PARTS:,}: search more coarsely")


def answer(request: Request, content: BaseModel | Mapping[str, Any], status: int = 200) -> Response:
    """JSON, zipped where it is long and the client can take it."""
    data = content.model_dump_json().encode() if isinstance(content, BaseModel) else _json(content)
    headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    if len(data) > _ZIPPED_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        data, headers["Content-Encoding"] = gzip.compress(data, 1), "gzip"
    return Response(data, status, headers, "application/json")


def _json(content: Mapping[str, Any]) -> bytes:
    try:
        return to_json(content)  # four times as fast as the standard library's
    except PydanticSerializationError:  # half a surrogate pair, from a file name of another system
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def shown(found: Hit | Record, served: ServedIndex, *, named: bool) -> dict[str, Any]:
    """A hit or a record with its links; `named` puts the index into them."""
    base = f"/api/images/{quote(found.id, safe='')}"
    suffix = f"index={quote(served.name, safe='')}" if named else ""
    gone = served.roots.is_gone(found.uri)
    links = {
        "file": None if gone else f"{base}/file" + (f"?{suffix}" if suffix else ""),
        "thumbnail": f"{base}/thumbnail?size={THUMBNAIL}&v={version(found)}" + (f"&{suffix}" if suffix else ""),
    }
    payload = {n: value for n, value in found.payload.items() if n != "stamp" and not is_local_time(n, value)}
    return {"id": found.id, "uri": found.uri, "payload": plain(payload), "links": links, "gone": gone}


def unpacked(text: str) -> bytes:
    """The bytes that base64 stands for; a `Problem` if it is none."""
    try:
        return base64.b64decode(_DATA_URL.sub("", text, count=1), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(
            422, f"a picture is not valid base64 ({error}): send the bytes of a picture file in it"
        ) from error


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem documents that an operation may answer beside the common ones, for the OpenAPI document."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": "A problem", "content": content} for status in statuses}
