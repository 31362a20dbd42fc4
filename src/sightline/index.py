"""The Index: pictures of one model in one store, to be filled, searched and looked into."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from html import escape
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from uuid import UUID

import numpy as np

from sightline.calibration.relevance import MOST_JUDGED, PictureStats, RelevanceJudge, judged_together
from sightline.encoders.base import check_identity, choose_model, load_encoder, picture_fingerprint
from sightline.errors import PictureNotFound, SightlineError, SourceError, StoreNotFound, UsageError
from sightline.pictures import Picture, Region, is_picture, items_of
from sightline.query import Query, SearchQuery, Term, describe, doubts, embed_many, terms_of, understand
from sightline.results import Evidence, Hits, Took, grid
from sightline.sources.files import absolute, file_uri, is_data_url
from sightline.stores.base import Droppable, Store, Tunable, open_store
from sightline.stores.url import StoreUrl
from sightline.stores.written import COMMON, MOST_FUSED, TextStore, Written, fuse
from sightline.types import (
    FAILURE,
    Failure,
    Filter,
    Item,
    Note,
    Payload,
    Record,
    Vector,
    Vectors,
    Where,
    chunks,
    now,
    record_id,
)

if TYPE_CHECKING:  # what only indexing needs is imported by it: a search starts 50 ms sooner
    from sightline.calibration.tuning import Tuning
    from sightline.encoders.base import Encoder
    from sightline.encoders.hub import Hub
    from sightline.filters.fields import Fields
    from sightline.ingest import Options, Summary
    from sightline.sources.base import Opening, Source

_IDENTITY = "index"  # the kind of note, and its key, that says which model built the index
_TUNING_QUERIES = 200  # of each kind: recall is then known to a percent
_MOST_WRITTEN = 64  # records that words bring to those that are near
_UNSORTED = "sorting needs to know which hits are likely, as it is for words alone: ask with words, or do not sort"
_SHOWN = 12  # pictures in a notebook's view of the whole index
_REMOVED_AT_ONCE = 512
_ROOT = "root"  # the kind of note that each indexed folder leaves

MOST_FOLDED = 1_000
"""Hits that are looked through for as many different ones as were asked for."""


@dataclass(frozen=True, slots=True)
class SearchCache:
    """What a long-lived process remembers between searches; the mappings must be safe in many threads."""

    texts: MutableMapping[str, Vector]
    stats: MutableMapping[tuple[int, str, str], PictureStats]


class _Window(NamedTuple):
    """Which hits the store is asked for; those of a query that is judged begin with the best one."""

    first: int
    width: int
    is_judged: bool


class Index:
    """Pictures of one model in one store.

    The store and the model are opened when they are first needed: looking at an index loads no model, and an index that
    does not exist yet is created by the first `add`.
    """

    def __init__(
        self,
        url: str | Path | StoreUrl,
        *,
        model: str | Encoder | None = None,
        hub: Hub | None = None,
        cache: SearchCache | None = None,
    ) -> None:
        if not isinstance(url, str | Path | StoreUrl):
            raise UsageError(f"the index is of type {type(url).__name__}, expected a path or a URL")
        if not (model is None or isinstance(model, str) or hasattr(model, "encode_images")):
            raise UsageError(f"the model is of type {type(model).__name__}, expected a name, a folder or an encoder")
        self._address = StoreUrl(url)
        self._model, self._hub, self._cache = model, hub, cache
        self._judge: RelevanceJudge | None = None
        self._encoder: Encoder | None = None
        self._store: Store | None = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if not self._is_built():
            return f"Index({self.url!r}, not built yet)"
        return f"Index({self.url!r}, {self.count()} pictures, model {self.info()['model']!r})"

    def _repr_html_(self) -> str:
        if not self._is_built():
            return f"<p>{escape(repr(self))}</p>"
        return grid(repr(self), list(islice(self.store.scan(), _SHOWN)))

    @property
    def url(self) -> str:
        """Where the index is, without a password."""
        return str(self._address)

    @property
    def store(self) -> Store:
        """Where the records are; `StoreNotFound` if the index does not exist yet."""
        if self._store is None:
            self._store = open_store(self._address)
        return self._store

    @cached_property
    def fields(self) -> Fields:
        """What filters need to know of the payloads."""
        from sightline.filters.fields import Fields

        return Fields(self._having)

    @property
    def encoder(self) -> Encoder:
        """The model of this index, loaded at first use; `IndexMismatch` if another one was asked for."""
        if self._encoder is None:
            identity = self.store.notes(_IDENTITY).get(_IDENTITY, {})
            encoder = self._load(str(identity.get("load", "auto")))
            check_identity(self._address, encoder, identity, self._hub)
            self._encoder = encoder
        return self._encoder

    def add(
        self,
        source: str | Path | Source | Picture | Iterable[Item | Picture],
        options: Options | None = None,
        *,
        by: Callable[..., Summary] | None = None,
    ) -> Summary:
        """Bring the index up to date with a folder, a table, a picture, a source or items; gives what was done.

        Safe to interrupt and to repeat: what is unchanged is skipped, what vanished from a folder leaves the index.
        `by` does the work in place of `ingest.ingest`: the `ingest` of a `distribute.Cluster`, say.
        """
        from sightline.ingest import Options, drop_moved, ingest, prune
        from sightline.sources.base import file_of, open_source

        items: Source | Iterable[Item]
        if isinstance(source, Path) or (isinstance(source, str) and not is_data_url(source)):
            items = open_source(source)
        elif isinstance(source, str) or is_picture(source):
            items = items_of([cast("Picture", source)])
        elif not isinstance(source, Iterable):
            raise UsageError(f"the source is of type {type(source).__name__}, expected a folder, pictures or items")
        else:
            given = cast("Iterable[Item | Picture]", source)
            is_source = hasattr(source, "root") or hasattr(source, "part_of")
            items = cast("Source", source) if is_source else items_of(given)
        store = self._open_or_create()
        seen: set[str] = set()
        summary = (by or ingest)(items, self.encoder, store, options=options or Options(), seen=seen)
        self.tune(only_if_grown=True)
        self.draw_line(only_if_grown=True)
        if (whole := getattr(items, "part_of", None)) and not store.notes(_ROOT).get(whole):
            store.write_notes(_ROOT, {whole: {"indexed": now(), "pictures": len(seen), "is_part": True}})
        summary = replace(summary, left_out=dict(getattr(items, "left_out", {})))
        root = getattr(items, "root", None)
        if root is None or seen == {record_id(root)}:  # loose items, or one picture: nothing else can have vanished
            return summary
        removed, kept = prune(store, root, seen)
        moved = 0
        for known in store.notes(_ROOT) if summary.reused else ():
            folder = file_of(known)
            if folder is not None and known != root and not folder.exists():
                moved += drop_moved(store, known, root)
                self._forget_root(known)
        note = {"indexed": now(), "pictures": len(seen), "left_out": summary.left_out}
        store.write_notes(_ROOT, {root: note})
        return replace(summary, removed=removed, kept=kept, moved=moved)

    def retry(
        self,
        options: Options | None = None,
        opening: Opening | None = None,
        *,
        by: Callable[..., Summary] | None = None,
    ) -> Summary:
        """Read the pictures of the failures table again; those that no longer exist leave it."""
        from sightline.filters.documents import load_payload
        from sightline.ingest import Options, ingest
        from sightline.sources.base import Opening, open_source

        opening = opening or Opening()
        items = list[Item]()
        gone = dict[str, Note | None]()
        for uri, note in self.store.notes(FAILURE).items():
            try:
                known = {"payload": load_payload(note["payload"]), "stamp": note["stamp"]} if "payload" in note else {}
                items += [replace(item, **known) for item in open_source(uri, opening)]
            except SourceError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    gone[uri] = None
        self.store.write_notes(FAILURE, gone)
        options = replace(options or Options(), retry=True)
        return (by or ingest)(items, self.encoder, self.store, options=options, seen=set())

    def tune(self, *, only_if_grown: bool = False) -> Tuning | None:
        """Set how widely an approximate engine searches, by measuring; gives what was measured, None if it is exact.

        With `only_if_grown` an index that has not doubled since the last time is left as it is.
        """
        from sightline.calibration.phrases import sample_queries
        from sightline.calibration.tuning import needs_tuning, tune

        if not isinstance(self.store, Tunable) or (only_if_grown and not needs_tuning(self.store)):
            return None
        return tune(self.store, sample_queries(self.store, self.encoder, _TUNING_QUERIES))

    def draw_line(self, *, only_if_grown: bool = False) -> bool:
        """Measure from which score a hit is better than chance; gives whether there is such a line now.

        `calibration.relevance` tells how. With `only_if_grown` it is left as it is, unless the index has doubled or the
        model reads words another way.
        """
        from sightline.calibration import relevance
        from sightline.calibration.phrases import phrases

        if only_if_grown and relevance.is_current(self.store, self.encoder):
            return True
        self._judge = None
        return relevance.calibrate(self.store, self.encoder, phrases)

    def search(
        self,
        text: Query | None = None,
        *,
        image: Picture | None = None,
        region: Region | None = None,
        terms: Sequence[Term] = (),
        k: int = 10,
        where: Filter | None = None,
        min_score: float | None = None,
        offset: int = 0,
        fold: bool = False,
        by: str = "both",
        sort: str = "relevance",
    ) -> Hits:
        """The pictures nearest to words, to a picture, to a vector, or to a weighted sum of terms, best first.

        Text is read as on the command line: `./photo.jpg` is a picture, `dog - snow` subtracts. A picture is whatever
        `Picture` takes: a path, a URL, bytes, a Pillow image, an array; `region` is the part of `image` that is meant.
        `k` hits from `offset` on, of the pictures that match `where` and score at least `min_score` (a cosine). With
        `fold` near-duplicates of an earlier hit are left out, and counted as one. `by` meaning, what is written
        (`text`: a score is then how much of the words is), or both.
        """
        given, wanted = tuple(terms_of(text) if text is not None else []), self.filter(where)
        if isinstance(text, str):
            given, wanted = self.understand(given, wanted)
        given += (Term("image", image, region=region),) if image is not None else ()
        query = SearchQuery((*terms, *given), k, offset, wanted, min_score, fold=fold, by=by, sort=sort)
        return self.search_many([query])[0].with_plain_payloads()

    def similar(
        self,
        picture: str | Path,
        *,
        k: int = 10,
        where: Filter | None = None,
        min_score: float | None = None,
        offset: int = 0,
        fold: bool = False,
    ) -> Hits:
        """The pictures nearest to an indexed one, named by id, URI or path, without that one itself."""
        name = self.record(picture).id
        query = SearchQuery((Term("id", name),), k, offset, self.filter(where), min_score, without=name, fold=fold)
        return self.search_many([query])[0].with_plain_payloads()

    def search_many(self, queries: Sequence[SearchQuery]) -> list[Hits]:
        """What each query finds: one run of the model for all, and one look into the store for those that are alike."""
        answers = list[Hits]()
        for answer in self.try_search_many(queries):
            if isinstance(answer, SightlineError):
                raise answer
            answers.append(answer)
        return answers

    def try_search_many(self, queries: Sequence[SearchQuery]) -> list[Hits | SightlineError]:
        """For each query what it finds, or why it cannot be answered: one that fails does not spoil the others."""
        sorts = [(query.sort, query.offset, query.k) for query in queries]  # the likely hits are sorted: all of them
        queries = [replace(one, k=MOST_JUDGED, offset=0) if one.sort != "relevance" else one for one in queries]
        began = time.perf_counter()
        texts = self._cache.texts if self._cache else None
        seen = [query.terms if query.by != "text" else () for query in queries]
        vectors = embed_many(seen, self.encoder, self._vector_of, texts)
        encoded = time.perf_counter()
        if self._judge is None:
            self._judge = RelevanceJudge(self.store, self.encoder, self._cache.stats if self._cache else None)
        answers, windows = dict[int, Hits | SightlineError](), dict[int, _Window]()
        for position, (query, vector) in enumerate(zip(queries, vectors, strict=True)):
            if isinstance(vector, SightlineError):  # words that the model cannot read may still be written somewhere
                try:
                    by_text = self._by_text(query)
                    answers[position] = by_text if by_text.hits or query.by == "text" else vector
                except SightlineError as error:
                    answers[position] = error if query.by == "text" else vector
                continue
            last = query.offset + query.k + bool(query.without)
            is_of_words = all(term.kind == "text" and term.weight > 0 for term in query.terms)
            if is_of_words and last <= MOST_JUDGED and self._judge.calibration is not None:
                windows[position] = _Window(0, judged_together(last), is_judged=True)
            elif query.fold or query.without or query.phrases:
                windows[position] = _Window(0, last, is_judged=False)
            else:
                windows[position] = _Window(query.offset, query.k, is_judged=False)
        while windows:
            alike = defaultdict[tuple[_Window, str], list[int]](list)  # one call of the store answers these
            for position, window in windows.items():
                where = queries[position].where
                alike[window, json.dumps(where, sort_keys=True, default=str) if where else ""].append(position)
            for (window, _), positions in alike.items():
                stacked = np.array([vectors[position] for position in positions], np.float32)  # (q, dim)
                try:
                    found = self._find([queries[position] for position in positions], stacked, window)
                    answers |= {at: answer for at, answer in zip(positions, found, strict=True) if answer is not None}
                except SightlineError as error:
                    answers |= dict.fromkeys(positions, error)
            windows = {
                at: window._replace(width=min(4 * window.width, MOST_FOLDED))
                for at, window in windows.items()
                if at not in answers
            }
        took = Took(encode=(encoded - began) * 1e3, search=(time.perf_counter() - encoded) * 1e3)
        noted = list[Hits | SightlineError]()
        for position, query in enumerate(queries):
            answer = answers[position]
            if isinstance(answer, Hits):
                answer = replace(answer, took_ms=took, note=doubts(query.terms, self.encoder))
                if query.sort != "relevance" and (answer.likely is not None or query.by == "text" or not answer.hits):
                    answer = answer.sorted_by(*sorts[position])
                elif query.sort != "relevance":
                    answer = UsageError(_UNSORTED)
            noted.append(answer)
        return noted

    def embed(self, queries: Sequence[Sequence[Term]]) -> Vectors:
        """The vector of each weighted sum of terms: (q, dim), rows of norm 1."""
        vectors = list[Vector]()
        texts = self._cache.texts if self._cache else None
        for vector in embed_many(queries, self.encoder, self._vector_of, texts):
            if isinstance(vector, SightlineError):
                raise vector
            vectors.append(vector)
        return np.array(vectors, np.float32).reshape(len(vectors), self.encoder.dim)

    def understand(self, terms: Sequence[Term], where: Where | None = None) -> tuple[tuple[Term, ...], Where | None]:
        """Terms as typed, without the filters in their texts (`dog taken:2023`); these joined with `where`."""
        read, filters = understand(terms, lambda name: bool(self.store.fetch([_id_of(name)])), self.fields.of_question)
        filters += [where] if where else []
        return read, {"$and": filters} if len(filters) > 1 else filters[0] if filters else None

    def record(self, picture: str | Path) -> Record:
        """The record of an indexed picture, named by id, URI or path; `PictureNotFound` if it is not in the index."""
        found = self.store.fetch([_id_of(picture)])
        if not found:
            raise PictureNotFound(f"{str(picture)!r} is not in {self.url}: it has no picture with the id, path or URI")
        return found[0]

    def remove(self, pictures: str | Path | Iterable[str | Path]) -> int:
        """Take pictures out of the index; gives how many were there. No file is touched.

        Each is named by id, URI or path; a folder, even one that is gone, stands for all pictures below it, and a
        pattern (`shop/*.jpg`, as in .gitignore) for those whose paths it matches.
        """
        if isinstance(pictures, str | Path) or not isinstance(pictures, Iterable):
            pictures = [pictures]
        return sum(self.remove_each(pictures).values())

    def remove_each(self, pictures: Iterable[str | Path]) -> dict[str, int]:
        """As `remove`; gives how many were there by each of the names."""
        removed = dict[str, int]()
        ids = {_id_of(picture): str(picture) for picture in pictures}
        for few in chunks(ids, _REMOVED_AT_ONCE):
            there = {record.id for record in self.store.fetch(few)}
            self.store.delete(sorted(there))
            removed |= {ids[identity]: int(identity in there) for identity in few}
        for other in [name for name, count in removed.items() if not count]:
            uri = other if "://" in other else file_uri(other)
            below = [record.id for record in self.store.scan({"folders": uri})]
            removed[other] = self.store.delete(below)
            self._forget_root(uri)
            if not below and any(char in other for char in "*?["):
                removed[other] = self.store.delete(self._matching(other))
        return removed

    def count(self, where: Filter | None = None) -> int:
        """How many pictures match `where`, which is as `filter` takes it."""
        return self.store.count(self.filter(where))

    def filter(self, where: Filter | None) -> Where | None:
        """A filter as a person writes it (`width>=800`, JSON, a mapping with dates as text) as stores take it.

        `WhereError` for what cannot be understood, a field that no picture has, and a value of the wrong kind.
        """
        return self.fields.read(where) if where else None

    def failures(self) -> list[Failure]:
        """The pictures that could not be indexed, by URI."""
        names = Failure.__slots__
        notes = sorted(self.store.notes(FAILURE).items())
        return [Failure(**{name: note[name] for name in names}) for _, note in notes]

    def info(self) -> dict[str, Any]:
        """What the index is, as plain values: model, dim, pictures, failures, size_bytes, roots by URI and more."""
        identity = self.store.notes(_IDENTITY).get(_IDENTITY, {})
        return {
            "url": self.url,
            "model": identity.get("encoder"),
            "fingerprint": identity.get("fingerprint"),
            "dim": self.store.dim,
            "created": identity.get("created"),
            "pictures": self.store.count(),
            "failures": len(self.store.notes(FAILURE)),
            "size_bytes": size_bytes() if (size_bytes := getattr(self.store, "size_bytes", None)) else None,
            "roots": self.store.notes(_ROOT),
            "tuning": self.store.notes("recall").get("recall"),
        }

    def drop(self) -> None:
        """Delete the index itself, with all that was noted; no picture is touched. There is nothing to undo it."""
        if not isinstance(self.store, Droppable):
            raise UsageError(f"{self.url} is in a store that cannot delete it: delete it there")
        self.store.drop()
        self._store = self._judge = None

    def close(self) -> None:
        """Give back the store's files and connections."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _is_built(self) -> bool:
        try:
            return bool(self.store)
        except StoreNotFound:
            return False

    def _open_or_create(self) -> Store:
        try:
            store = self.store
        except StoreNotFound:
            encoder = self._load("auto")
            store = self._store = open_store(self._address, dim=encoder.dim)
            self._encoder = encoder
        if not store.notes(_IDENTITY):
            encoder = self.encoder
            load = self._model if isinstance(self._model, str) else encoder.name
            identity = {
                "encoder": encoder.name,
                "fingerprint": encoder.fingerprint,
                "load": str(Path(load).resolve()) if Path(load).is_dir() else encoder.name,
                "pictures": picture_fingerprint(encoder),
                "created": now(),
            }
            store.write_notes(_IDENTITY, {_IDENTITY: identity})
        return store

    def _matching(self, pattern: str) -> list[str]:
        """The ids of the pictures on this machine whose paths match a pattern; a relative one starts from here."""
        from pathspec import GitIgnoreSpec

        from sightline.sources.base import file_of

        spec = GitIgnoreSpec.from_lines([str(absolute(Path(pattern).expanduser()))])
        uris = ((record.id, file_of(record.uri)) for record in self.store.scan())
        return [identity for identity, path in uris if path is not None and spec.match_file(str(path).lstrip("/"))]

    def _forget_root(self, root: str) -> None:
        """Forget that a folder was indexed, and its failures, once no picture of it is left."""
        if root not in self.store.notes(_ROOT) or self.store.count({"folders": root}):
            return
        failures = self.store.notes(FAILURE)
        self.store.write_notes(
            FAILURE, {uri: None for uri, note in failures.items() if root in note.get("folders", ())}
        )
        self.store.write_notes(_ROOT, {root: None})

    def _load(self, built_with: str) -> Encoder:
        model = self._model if self._model is not None else built_with
        if not isinstance(model, str):
            return model
        return load_encoder(choose_model(model, self._hub).name, hub=self._hub)

    def _find(self, queries: Sequence[SearchQuery], vectors: Vectors, window: _Window) -> list[Hits | None]:
        """What queries find that share filter and window: a vector of (q, dim) for each. None: it takes a wider one."""
        where, answers = queries[0].where, list[Hits | None]()
        count_all = cache(partial(self.store.count, where))
        every = self.store.search(vectors, window.width, where, window.first)
        judged = self._judge.thresholds(every) if self._judge and window.is_judged else [None] * len(every)
        for query, vector, found, thresholds in zip(queries, vectors, every, judged, strict=True):
            ranked = list(zip(found, thresholds or [1.0] * len(found), strict=True))
            likely = (hit for hit, threshold in ranked if thresholds is None or hit.score >= threshold)
            near: dict[str, Evidence] = {hit.id: {"meaning": ()} for hit in likely}
            written = self._written(query, _MOST_WRITTEN, common=COMMON)
            if written:
                ranked = fuse(ranked, written, vector)
            kept = [
                (hit, threshold)
                for hit, threshold in ranked
                if hit.id != query.without and (query.min_score is None or hit.score >= query.min_score)
            ]
            groups = [[one] for one in kept]
            if query.fold:
                from sightline.analysis.duplicates import fold_hits

                folded = fold_hits(self.store, [hit for hit, _ in kept], query.fold_score)
                groups = [[kept[position] for position in group] for group in folded]
            is_all = len(found) < window.width or (query.min_score is not None and found[-1].score < query.min_score)
            last = query.offset + query.k
            if query.fold and len(groups) < last and not is_all and window.width < MOST_FOLDED:
                answers.append(None)
                continue
            chosen = groups[query.offset - window.first : last - window.first]
            is_last_page = len(chosen) < query.k and (chosen or not query.offset)
            answers.append(
                Hits(
                    describe(query.terms),
                    self.encoder.name,
                    Took(0.0, 0.0),
                    tuple(group[0][0] for group in chosen),
                    tuple(group[0][1] for group in chosen) if thresholds and chosen else None,
                    duplicates=tuple(tuple(hit.id for hit, _ in group[1:]) for group in chosen) if query.fold else (),
                    total=(query.offset + len(chosen) if is_last_page else count_all()) if query.with_total else None,
                    evidence=tuple(
                        {**near.get(hit.id, {}), **(written.matcher.evidence(hit.payload) if written else {})}
                        for ((hit, _), *_) in chosen
                    ),
                )
            )
        return answers

    def _written(self, query: SearchQuery, limit: int, *, common: int | None = None) -> Written | None:
        """What the store finds for the words of a query; None if none is written, or the store has no full text."""
        if not query.phrases or not isinstance(self.store, TextStore):
            return None
        written = self.store.search_text(query.phrases, limit, query.where, common=common)
        return written if any(phrase.count for phrase in written.matcher.phrases) else None

    def _by_text(self, query: SearchQuery) -> Hits:
        """What a query finds among what is written alone; a score is how much of the query is."""
        began, last = time.perf_counter(), query.offset + query.k
        if not query.phrases:
            raise UsageError("a search by text needs words that are not subtracted: type what is written")
        if not isinstance(self.store, TextStore):
            raise UsageError(f"{self.url} is in a store without full text: search it by meaning")
        written = self._written(query, max(last, MOST_FUSED))
        hits = [hit for hit in written.ranked() if hit.score >= (query.min_score or 0)] if written else []
        return Hits(
            describe(query.terms),
            self.encoder.name,
            Took(0.0, (time.perf_counter() - began) * 1e3),
            tuple(hits[query.offset : last]),
            total=written.count if written else 0,
            evidence=tuple(written.matcher.evidence(hit.payload) for hit in hits[query.offset : last] if written),
        )

    def _having(self, field: str | None) -> Iterator[Payload]:
        """The payloads of the pictures with a field, or of all; in order of id, which is a fair sample."""
        return (record.payload for record in self.store.scan({field: {"$exists": True}} if field else None))

    def _vector_of(self, picture: str) -> Vector:
        return self.record(picture).vector


def _id_of(picture: str | Path) -> str:
    if not isinstance(picture, str | Path):
        raise UsageError(f"a picture is named by {type(picture).__name__}, expected its id, path or URI as text")
    picture = str(picture)
    try:
        return str(UUID(picture))
    except ValueError:
        return record_id(picture if "://" in picture else file_uri(picture))
