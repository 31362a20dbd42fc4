"""What a running application holds: its settings, caches and threads, and its indexes, each opened once."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from cachetools import LRUCache
from fastapi import Request

from sightline.analysis.facets import Facet, facets
from sightline.errors import SightlineError, StoreNotFound, TextNotSupported, WhereError
from sightline.filters.dates import is_local_time
from sightline.images.read import read
from sightline.index import Index, SearchCache
from sightline.ingest import Options, Summary
from sightline.pictures import Region, cropped
from sightline.query import SearchQuery, Term, parse
from sightline.results import Hits, plain
from sightline.server.answers import Problem, overloaded
from sightline.server.files import Roots, Thumbnails, version
from sightline.server.incoming import QUERY_PREFIX, Fetcher, QueryPictures
from sightline.server.metrics import Metrics
from sightline.server.pools import Batcher, Full, Pool, while_there
from sightline.server.schemas import Query, QueryTerm
from sightline.server.settings import ServerSettings
from sightline.stores.base import Store
from sightline.stores.url import StoreUrl
from sightline.types import Filter, Hit, Record, Where

_KEPT_TEXTS = 2_048  # vectors: a page that scrolls asks for the same text again and again
_KEPT_STATS = 65_536  # pictures, 15 MB: who scrolls or types on meets the same ones again
_FACETS_S = 60.0  # the least age at which facets are counted again
_FACETS_OF = 200_000  # pictures: each comes with its vector, over the network from a database
_FACETS_SHARE = 50  # counting them may take a fiftieth of the time at most
_THUMBNAIL = 320  # pixels
_LAST_SEARCHES_S = 30.0  # how long those under way may go on in an index that was replaced
_MOST_PARTS = 1000  # values and conditions of a filter

_logger = logging.getLogger(__name__)

Key = TypeVar("Key")
Value = TypeVar("Value")


class AppState:
    """ServerSettings, indexes, caches and threads of one application."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.indexes: dict[str, ServedIndex] = {}  # by the last part of path or URL, with a number where two are alike
        for url in settings.indexes:
            name = url.name if url.name not in self.indexes else f"{url.name}-{len(self.indexes) + 1}"
            self.indexes[name] = ServedIndex(name, url, settings, self.metrics, is_first=not self.indexes)
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
        if (size := _size(given)) > _MOST_PARTS:
            raise WhereError(f"the filter has {size:,} parts, expected at most {_MOST_PARTS:,}: search more coarsely")
        if (known := served.index.fields.read_known(given)) is not None:
            return known
        await self.counting.run(served.store)  # opened once, whoever comes first
        return await self.counting.run(served.index.filter, given)

    async def question(
        self, request: Request, query: Query, served: ServedIndex, uploaded: bytes | None = None
    ) -> tuple[tuple[Term, ...], Where | None]:
        """The terms of a query, its pictures fetched and decoded, and its filter with those that its text holds."""
        where = await self.where(query.where, served)
        whole: Sequence[Term] = parse([query.text], with_files=False) if query.text is not None else ()
        if any(term.kind == "id" or ":" in str(term.value) for term in whole):
            whole, where = await self.counting.run(served.index.understand, whole, where)
        last = [QueryTerm(image=query.image, region=query.region)] if query.image is not None else []
        last += [QueryTerm(image_url=query.image_url, region=query.region)] if query.image_url is not None else []
        parts = [*query.terms, *last]
        urls = [part.image_url for part in parts if part.image_url is not None]
        if urls and self._fetcher is None:
            raise Problem(
                403, "this server fetches no URLs: send the picture's bytes, or start it with --allow-url-queries"
            )
        fetched = dict[str, bytes]()
        if urls and self._fetcher:
            found = await while_there(request, self._fetcher.fetch(urls, request.state.client))
            fetched = dict(zip(urls, found, strict=True))
        terms = [*whole, *[await self._term(part, served, fetched) for part in parts]]
        if uploaded is not None:
            terms.append(await self._picture(uploaded, 1.0, served, query.region))
        return tuple(terms), where

    async def _term(self, part: QueryTerm, served: ServedIndex, fetched: Mapping[str, bytes]) -> Term:
        if part.text is not None:
            return Term("text", part.text, part.weight)
        if part.image is not None:
            data = part.image
        elif part.image_url is not None:
            data = fetched[part.image_url]
        elif (identity := part.image_id or "").startswith(QUERY_PREFIX):
            data = await self.decoding.run(self.query_pictures.read, identity)
        else:
            return Term("id", identity, part.weight, region=part.region)
        return await self._picture(data, part.weight, served, part.region)

    async def _picture(self, data: bytes, weight: float, served: ServedIndex, region: Region | None) -> Term:
        if not served.is_ready:
            await served.writing.run(served.open)
        limit, size = self.settings.max_megapixels, served.index.encoder.image_size
        if region is not None:
            image = await self.decoding.run(cropped, data, region, image_size=size, limit_megapixels=limit)
            return Term("image", image, weight)
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


def _size(where: Filter) -> int:
    """How many values and conditions a filter has."""
    size, parts = 0, list[Any]([where])
    while parts:
        part = parts.pop()
        size += 1
        parts += part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ()
    return size


def _new_index(url: StoreUrl, settings: ServerSettings) -> Index:
    remembered = SearchCache(texts=SharedLRU(_KEPT_TEXTS), stats=SharedLRU(_KEPT_STATS))
    return Index(url, model=settings.model, hub=settings.hub, cache=remembered)


class SharedLRU(LRUCache[Key, Value]):
    """The values used last, for many threads."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._lock = threading.RLock()

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, or the default."""
        with self._lock:
            return super().get(key, default)

    def __setitem__(self, key: Key, value: Value) -> None:
        with self._lock:
            super().__setitem__(key, value)


class ServedIndex:
    """An index with everything that answering from it needs."""

    def __init__(self, name: str, url: StoreUrl, settings: ServerSettings, metrics: Metrics, *, is_first: bool) -> None:
        self.name, self._settings, self._metrics = name, settings, metrics
        self._named = "" if is_first else f"index={quote(name, safe='')}"  # what a link says of it
        self._url, self._index = url, _new_index(url, settings)
        beside = Path(f"{url.path.absolute()}.uploads") if url.scheme == "file" else None
        self.uploads = settings.uploads or beside
        """The folder of the uploads; None for an index that is no folder, which needs --uploads."""
        self.roots = Roots([*settings.roots, *([self.uploads] if self.uploads else [])], self._notes)
        kept = (settings.cache or settings.hub.cache) / "pages" / hashlib.sha256(url.reveal().encode()).hexdigest()[:12]
        self.thumbnails = Thumbnails(kept, self.roots, settings.hub.cache / "pictures")
        self.writing = Pool("write", threads=1, max_waiting=16)
        self.retry: dict[str, Any] | None = None
        self._opening = threading.RLock()
        self._store: Store | None = None
        self.is_ready = False
        """Whether the store and the model are open."""
        self.takes_words = True
        """Whether the model has a text encoder; taken for granted as long as it is not loaded."""
        self._batcher: Batcher[SearchQuery, Hits] | None = None
        self._facets: tuple[float, float, list[Facet]] | None = None
        self._counting = threading.Lock()

    @property
    def depth(self) -> int:
        """How many queries wait."""
        return self._batcher.depth if self._batcher else 0

    @property
    def is_full(self) -> bool:
        """Whether the next query would be refused."""
        return bool(self._batcher and self._batcher.is_full)

    @property
    def index(self) -> Index:
        """The index that lies at the URL now: another one if it was deleted, or replaced by a new build or a backup."""
        if not self._is_current():
            with self._opening:
                if not self._is_current():
                    _logger.warning("%s was removed or replaced: it is opened again", self._index.url)
                    closing = threading.Timer(_LAST_SEARCHES_S, self._index.close)
                    closing.daemon = True
                    closing.start()
                    self._index, self._store, self.is_ready = _new_index(self._url, self._settings), None, False
                    self.forget_facets()
        return self._index

    def _is_current(self) -> bool:
        look = getattr(self._store, "is_current", None)  # an index in a folder
        return look is None or bool(look())

    def store(self) -> Store:
        """The store; `StoreNotFound` until somebody has built the index."""
        index = self.index
        if self._store is None:
            with self._opening:
                self._store = index.store
        return self._store

    def open(self) -> Index:
        """The index, its store and model opened at the first call."""
        index = self.index
        if not self.is_ready:
            with self._opening:
                self._store = index.store
                try:  # load the model's text side now, which the first query would wait for
                    index.encoder.encode_texts(["warm"])
                    self.takes_words = True
                except TextNotSupported:
                    self.takes_words = False
                self.is_ready = True
        return index

    def is_open(self) -> bool:
        """Whether the store and the model are open, now or at last; false while they are being opened."""
        _ = self.index
        if not self.is_ready and self._opening.acquire(blocking=False):
            try:
                self.open()
            except SightlineError as error:
                _logger.info("an index is not open yet: %s", error)
            finally:
                self._opening.release()
        return self.is_ready

    async def search(self, query: SearchQuery) -> Hits:
        """What one query finds, put together with others that wait."""
        if not self.is_ready:
            await self.writing.run(self.open)
        if self._batcher is None:
            self._batcher = Batcher(self._search_many, max_accepted=self._settings.max_queries, threads=2)
        try:
            return await self._batcher.submit(query)
        except Full as error:
            self._metrics.refused.labels("queue").inc()
            raise overloaded(
                f"{self._settings.max_queries} queries are asked already: try again in a moment"
            ) from error

    def shown(self, found: Hit | Record) -> dict[str, Any]:
        """A hit or a record as JSON, with its links."""
        base, gone = f"{self._settings.prefix}/api/images/{quote(found.id, safe='')}", self.roots.is_gone(found.uri)
        file = f"{base}/file?{self._named}" if self._named else f"{base}/file"
        thumbnail = f"{base}/thumbnail?size={_THUMBNAIL}&v={version(found)}" + (self._named and f"&{self._named}")
        links = {"file": None if gone else file, "thumbnail": thumbnail}
        payload = {n: value for n, value in found.payload.items() if n != "stamp" and not is_local_time(n, value)}
        return {"id": found.id, "uri": found.uri, "payload": plain(payload), "links": links, "gone": gone}

    def record(self, identity: str) -> Record:
        """The record of an id, and of nothing else; a `Problem` with status 404 if there is none."""
        found = self.store().fetch([identity])
        if not found:
            raise Problem(404, f"there is no picture with the id {identity[:60]!r}: search again, it may be gone")
        return found[0]

    def facets(self) -> tuple[list[Facet], bool]:
        """What can be filtered by, at most a minute or so old, and whether it was counted already."""
        known = self._facets
        if known is None or time.monotonic() - known[0] > max(_FACETS_S, _FACETS_SHARE * known[1]):
            threading.Thread(target=self._count_facets, daemon=True, name="sightline-facets").start()
        return (known[2], True) if known else ([], False)

    def forget_facets(self) -> None:
        """Count them anew: something was written."""
        self._facets = None

    def run_retry(self) -> None:
        """Read the failed pictures again, with progress in `retry`."""

        def show(summary: Summary) -> None:
            self.retry = {"is_running": True, **asdict(summary)}

        self.retry = {"is_running": True}
        try:
            show(self.index.retry(Options(on_progress=show)))
        except SightlineError as error:
            self.retry["problem"] = str(error)
        finally:
            self.retry = {**self.retry, "is_running": False}

    async def close(self) -> None:
        """Finish what was accepted, then give everything back."""
        if self._batcher:
            await self._batcher.close()
        self.writing.close()
        self.index.close()

    def _search_many(self, queries: Sequence[SearchQuery]) -> list[Hits | Exception]:
        answers: list[Hits | Exception] = [*self.open().try_search_many(queries)]
        for took in {id(hits.took_ms): hits.took_ms for hits in answers if isinstance(hits, Hits)}.values():
            self._metrics.stages.labels("encode").observe(took.encode / 1e3)
            self._metrics.stages.labels("search").observe(took.search / 1e3)
        return answers

    def _notes(self, kind: str) -> Iterator[str]:
        try:
            yield from self.store().notes(kind)
        except StoreNotFound:
            return

    def _count_facets(self) -> None:
        """The facets of all pictures, or of as many as a person would wait for, their counts scaled up.

        A store gives its records by id, and ids are hashes: the first ones are a fair sample.
        """
        if not self._counting.acquire(blocking=False):
            return
        try:
            began = time.monotonic()
            found = facets(record.payload for record in islice(self.store().scan(), _FACETS_OF))
            if (scale := self.store().count() / _FACETS_OF) > 1:
                found = [_scaled(facet, scale) for facet in found]
            self._facets = (time.monotonic(), time.monotonic() - began, found)
        except SightlineError:
            self._facets = None
        finally:
            self._counting.release()


def _scaled(facet: Facet, scale: float) -> Facet:
    values = tuple((value, round(count * scale)) for value, count in facet.values)
    return replace(facet, count=round(facet.count * scale), values=values)
