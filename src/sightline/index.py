"""The Index: pictures of one model in one store, to be filled, searched and looked into."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sightline import query
from sightline.calibration.line import MOST_JUDGED, chance_scores, drawn, stands_of
from sightline.encoders.base import choose_model, load_encoder, picture_fingerprint
from sightline.errors import SourceError, StoreNotFound, UsageError
from sightline.identity import check
from sightline.query import Picture, Term
from sightline.results import Hits, Took, grid
from sightline.stores.base import Store, Tunable, open_store
from sightline.stores.url import StoreUrl
from sightline.types import FAILURE, Failure, Hit, Item, Note, Record, Vector, Where, record_id

if TYPE_CHECKING:  # what only indexing needs is imported by it: a search starts 50 ms sooner
    from sightline.calibration.tuning import Tuning
    from sightline.encoders.base import Encoder
    from sightline.encoders.hub import Hub
    from sightline.ingest import Options, Summary
    from sightline.sources.base import Opening, Source

_IDENTITY = "index"  # the kind of note, and its key, that says which model built the index
_TUNING_QUERIES = 200  # of each kind: recall is then known to a percent
_SHOWN = 12  # pictures in a notebook's view of the whole index
_ROOT = "root"  # the kind of note that each indexed folder leaves


class Index:
    """Pictures of one model in one store.

    The store and the model are opened when they are first needed: looking at an index loads no model, and an index that
    does not exist yet is created by the first `add`.
    """

    def __init__(
        self, url: str | Path | StoreUrl, *, model: str | Encoder | None = None, hub: Hub | None = None
    ) -> None:
        self._address = StoreUrl(url)
        self._model, self._hub = model, hub
        self._encoder: Encoder | None = None
        self._store: Store | None = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Index({self.url!r}, {self.count()} pictures, model {self.info()['model']!r})"

    def _repr_html_(self) -> str:
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

    @property
    def encoder(self) -> Encoder:
        """The model of this index, loaded at first use; `IndexMismatch` if another one was asked for."""
        if self._encoder is None:
            identity = self._identity()
            encoder = self._load(str(identity.get("load", "auto")))
            check(self.url, encoder, identity, self._hub)
            self._encoder = encoder
        return self._encoder

    def add(
        self,
        source: str | Path | Source | Iterable[Item],
        options: Options | None = None,
        *,
        by: Callable[..., Summary] | None = None,
    ) -> Summary:
        """Bring the index up to date with a folder, a table, a picture, a source or items; gives what was done.

        Safe to interrupt and to repeat: what is unchanged is skipped, what vanished from a folder leaves the index.
        `by` does the work in place of `ingest.ingest`: the `ingest` of a `distribute.Cluster`, say.
        """
        from sightline.ingest import Options, ingest, prune
        from sightline.sources.base import open_source

        if isinstance(source, str | Path):
            source = open_source(source)
        store = self._open_or_create()
        seen: set[str] = set()
        summary = (by or ingest)(source, self.encoder, store, options=options or Options(), seen=seen)
        self.tune(only_if_grown=True)
        self.draw_line(only_if_grown=True)
        if (whole := getattr(source, "part_of", None)) and not store.notes(_ROOT).get(whole):
            store.write_notes(_ROOT, {whole: {"indexed": _now(), "pictures": len(seen), "is_part": True}})
        summary = replace(summary, left_out=dict(getattr(source, "left_out", {})))
        root = getattr(source, "root", None)
        if root is None or seen == {record_id(root)}:  # loose items, or one picture: nothing else can have vanished
            return summary
        removed, kept = prune(store, root, seen)
        note = {"indexed": _now(), "pictures": len(seen), "left_out": summary.left_out}
        store.write_notes(_ROOT, {root: note})
        return replace(summary, removed=removed, kept=kept)

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
        """Measure from which score a hit is better than chance (see `line`); gives whether there is such a line now.

        With `only_if_grown` it is left as it is, unless the index has doubled or the model reads words another way.
        """
        from sightline.calibration import line
        from sightline.calibration.phrases import phrases

        if only_if_grown and line.is_current(self.store, self.encoder):
            return True
        return line.redraw(self.store, self.encoder, phrases)

    def search(
        self,
        text: str | None = None,
        *,
        image: Picture | None = None,
        terms: Sequence[Term] = (),
        k: int = 10,
        where: Where | None = None,
        min_score: float | None = None,
        offset: int = 0,
    ) -> Hits:
        """The pictures nearest to words, to a picture, or to a weighted sum of terms, best first.

        `k` hits from `offset` on, of the pictures that match `where` and score at least `min_score` (a cosine).
        """
        if k < 1 or offset < 0:
            raise UsageError(f"k is {k} and offset is {offset}, expected k of at least 1 and offset of at least 0")
        given = [Term("text", text)] if text is not None else []
        given += [Term("image", image)] if image is not None else []
        all_terms = [*terms, *given]
        began = time.perf_counter()
        vector = query.embed(all_terms, self.encoder, self._vector_of)
        encoded = time.perf_counter()
        is_judged = offset + k <= MOST_JUDGED and all(term.kind == "text" and term.weight > 0 for term in all_terms)
        before = offset if is_judged else 0  # whether a hit is likely depends on its rank
        found = self.store.search(vector[None], before + k, where, offset - before)[0]
        above = tuple(hit for hit in found if min_score is None or hit.score >= min_score)
        chances = self._chances(above) if is_judged and len(above) > before else None
        hits, chances = above[before:], chances and chances[before:]
        took = Took(encode=(encoded - began) * 1e3, search=(time.perf_counter() - encoded) * 1e3)
        return Hits(query.describe(all_terms), self.encoder.name, took, hits, chances)

    def similar(
        self,
        picture: str,
        *,
        k: int = 10,
        where: Where | None = None,
        min_score: float | None = None,
        offset: int = 0,
    ) -> Hits:
        """The pictures nearest to an indexed one, named by id, URI or path, without that one itself."""
        record = self.record(picture)
        found = self.search(terms=[Term("id", record.id)], k=offset + k + 1, where=where, min_score=min_score)
        others = [hit for hit in found if hit.id != record.id]
        return replace(found, hits=tuple(others[offset : offset + k]))

    def record(self, picture: str) -> Record:
        """The record of an indexed picture, named by id, URI or path; `UsageError` if it is not in the index."""
        found = self.store.fetch([_id_of(picture)])
        if not found:
            raise UsageError(f"{picture!r} is not in {self.url}, expected the id, path or URI of an indexed picture")
        return found[0]

    def remove(self, pictures: Iterable[str]) -> int:
        """Take pictures, named by id, URI or path, out of the index; gives how many were there. No file is touched."""
        return self.store.delete([_id_of(picture) for picture in pictures])

    def count(self, where: Where | None = None) -> int:
        """How many pictures match."""
        return self.store.count(where)

    def failures(self) -> list[Failure]:
        """The pictures that could not be indexed, by URI."""
        names = Failure.__slots__
        notes = sorted(self.store.notes(FAILURE).items())
        return [Failure(**{name: note[name] for name in names}) for _, note in notes]

    def info(self) -> dict[str, Any]:
        """What the index is, as plain values: model, dim, pictures, failures, size_bytes, roots by URI and more."""
        identity = self._identity()
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

    def close(self) -> None:
        """Give back the store's files and connections."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _open_or_create(self) -> Store:
        try:
            store = self.store
        except StoreNotFound:
            encoder = self._load("auto")
            store = self._store = open_store(self._address, dim=encoder.dim)
            self._encoder = encoder
        if not store.notes(_IDENTITY):
            store.write_notes(_IDENTITY, {_IDENTITY: self._new_identity()})
        return store

    def _new_identity(self) -> Note:
        encoder = self.encoder
        load = self._model if isinstance(self._model, str) else encoder.name
        load = str(Path(load).resolve()) if Path(load).is_dir() else encoder.name
        identity = {"encoder": encoder.name, "fingerprint": encoder.fingerprint, "load": load}
        return identity | {"pictures": picture_fingerprint(encoder), "created": _now()}

    def _identity(self) -> Note:
        return self.store.notes(_IDENTITY).get(_IDENTITY, {})

    def _load(self, built_with: str) -> Encoder:
        model = self._model if self._model is not None else built_with
        if not isinstance(model, str):
            return model
        return load_encoder(choose_model(model, self._hub).name, hub=self._hub)

    def _chances(self, hits: Sequence[Hit]) -> tuple[float, ...] | None:
        line = drawn(self.store, self.encoder)
        if line is None:
            return None
        return chance_scores(line, hits, stands_of(line, self.store.fetch([hit.id for hit in hits])))

    def _vector_of(self, picture: str) -> Vector:
        return self.record(picture).vector


def _id_of(picture: str) -> str:
    try:
        return str(UUID(picture))
    except ValueError:
        return record_id(picture if "://" in picture else Path(os.path.abspath(Path(picture).expanduser())).as_uri())  # noqa: PTH100


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
