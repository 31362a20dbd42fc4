"""An index as the server holds it: opened once, searched in batches, written by one thread."""

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from cachetools import LRUCache

from sightline.analysis.facets import Facet, facets
from sightline.errors import SightlineError, StoreNotFound, TextNotSupported
from sightline.index import Index, SearchCache
from sightline.ingest import Options, Summary
from sightline.query import SearchQuery
from sightline.results import Hits
from sightline.server.files import Roots
from sightline.server.metrics import Metrics
from sightline.server.pools import Batcher, Full, Pool
from sightline.server.problems import Problem, overloaded
from sightline.server.settings import Settings
from sightline.server.thumbnails import Thumbnails
from sightline.stores.base import Store
from sightline.stores.url import StoreUrl
from sightline.types import Record

_KEPT_TEXTS = 2_048  # vectors: a page that scrolls asks for the same text again and again
_KEPT_STATS = 65_536  # pictures, 15 MB: who scrolls or types on meets the same ones again
_FACETS_S = 60.0  # the least age at which facets are counted again
_FACETS_OF = 200_000  # pictures: each comes with its vector, over the network from a database
_FACETS_SHARE = 50  # counting them may take a fiftieth of the time at most


Key = TypeVar("Key")
Value = TypeVar("Value")


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

    def __init__(self, name: str, url: StoreUrl, settings: Settings, metrics: Metrics) -> None:
        self.name, self.settings, self.metrics = name, settings, metrics
        remembered = SearchCache(texts=SharedLRU(_KEPT_TEXTS), stats=SharedLRU(_KEPT_STATS))
        self.index = Index(url, model=settings.model, hub=settings.hub, cache=remembered)
        self.uploads = settings.uploads or default_uploads(url)
        cache = (settings.cache or settings.hub.cache) / "pages"
        self.thumbnails = Thumbnails(cache / hashlib.sha256(url.reveal().encode()).hexdigest()[:12])
        self.roots = Roots([*settings.roots, *([self.uploads] if self.uploads else [])], self._indexed_roots)
        self.writing = Pool("write", threads=1, max_waiting=16)
        self.retry: dict[str, Any] | None = None
        self._opening = threading.Lock()
        self._store: Store | None = None
        self._is_open = False
        self._takes_words = True
        self._batcher: Batcher[SearchQuery, Hits] | None = None
        self._facets: tuple[float, float, list[Facet]] | None = None
        self._counting = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether the store and the model are open."""
        return self._is_open

    @property
    def depth(self) -> int:
        """How many queries wait."""
        return self._batcher.depth if self._batcher else 0

    @property
    def is_full(self) -> bool:
        """Whether the next query would be refused."""
        return bool(self._batcher and self._batcher.is_full)

    @property
    def takes_words(self) -> bool:
        """Whether the model has a text encoder; taken for granted as long as it is not loaded."""
        return self._takes_words

    def store(self) -> Store:
        """The store; `StoreNotFound` until somebody has built the index."""
        if self._store is None:
            with self._opening:
                self._store = self.index.store
        return self._store

    def open(self) -> Index:
        """The index, its store and model opened at the first call."""
        if not self._is_open:
            with self._opening:
                self._store = self.index.store
                try:  # load the model's text side now, which the first query would wait for
                    self.index.encoder.encode_texts(["warm"])
                except TextNotSupported:
                    self._takes_words = False
                self._is_open = True
        return self.index

    async def search(self, query: SearchQuery) -> Hits:
        """What one query finds, put together with others that wait."""
        if not self._is_open:
            await self.writing.run(self.open)
        if self._batcher is None:
            self._batcher = Batcher(self._search_many, max_accepted=self.settings.max_queries, threads=2)
        try:
            return await self._batcher.submit(query)
        except Full as error:
            self.metrics.count_refused("queue")
            raise overloaded(f"{self.settings.max_queries} queries are asked already: try again in a moment") from error

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
            self.metrics.observe("encode", took.encode / 1e3)
            self.metrics.observe("search", took.search / 1e3)
        return answers

    def _indexed_roots(self) -> Iterator[str]:
        try:
            yield from self.store().notes("root")
        except StoreNotFound:
            return

    def _counted(self) -> list[Facet]:
        """The facets of all pictures, or of as many as a person would wait for, their counts scaled up.

        A store gives its records by id, and ids are hashes: the first ones are a fair sample.
        """
        count = self.store().count()
        found = facets(record.payload for record in islice(self.store().scan(), _FACETS_OF))
        scale = max(1.0, count / _FACETS_OF)
        return found if scale == 1 else [_scaled(facet, scale) for facet in found]

    def _count_facets(self) -> None:
        if not self._counting.acquire(blocking=False):
            return
        try:
            began = time.monotonic()
            found = self._counted()
            self._facets = (time.monotonic(), time.monotonic() - began, found)
        except SightlineError:
            self._facets = None
        finally:
            self._counting.release()


def _scaled(facet: Facet, scale: float) -> Facet:
    values = tuple((value, round(count * scale)) for value, count in facet.values)
    return replace(facet, count=round(facet.count * scale), values=values)


def default_uploads(url: StoreUrl) -> Path | None:
    """Beside an index in a folder; None for others, which need --uploads."""
    return Path(f"{url.path.absolute()}.uploads") if url.scheme == "file" else None


def served_indexes(settings: Settings, metrics: Metrics) -> dict[str, ServedIndex]:
    """The indexes by name: the last part of the path or URL, with a number where two have the same."""
    found: dict[str, ServedIndex] = {}
    for url in settings.indexes:
        stem = url.name
        name = stem if stem not in found else f"{stem}-{len(found) + 1}"
        found[name] = ServedIndex(name, url, settings, metrics)
    return found
