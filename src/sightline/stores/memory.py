"""The store in memory: exact, plain, and the measure of all other stores."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import numpy as np

from sightline.errors import StoreError, StoreNotFound
from sightline.filters.where import And, Node, matches, parse_where
from sightline.stores.base import Store, check_records, check_search
from sightline.stores.url import StoreUrl
from sightline.stores.written import Matcher, Phrase, Written, fields_of, known, whole_levels
from sightline.types import Hit, Note, Record, Vector, Vectors, Where


def open_url(url: StoreUrl, *, dim: int | None = None) -> "MemoryStore":
    """A new, empty store; every `memory:` is another one."""
    if dim is None:
        raise StoreNotFound(
            f"{str(url)!r} names no index that exists, expected dim for a new one: index something first"
        )
    return MemoryStore(dim)


class MemoryStore(Store):
    """Keeps records in memory and compares a query with each one in float32."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._lock = threading.RLock()
        self._records: dict[str, Record] | None = {}
        self._notes: dict[str, dict[str, Note]] = {}

    def upsert(self, records: Sequence[Record]) -> None:
        vectors = check_records(records, self.dim)
        copies = [
            Record(record.id, record.uri, vector, deepcopy(dict(record.payload)))
            for record, vector in zip(records, vectors, strict=True)
        ]
        with self._lock:
            self._open().update({record.id: record for record in copies})

    def delete(self, ids: Sequence[str]) -> int:
        with self._lock:
            records = self._open()
            return sum(records.pop(name, None) is not None for name in ids)

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        queries = check_search(vectors, k, offset, self.dim)
        records = self._matching(where)
        matrix = np.array([record.vector for record in records], np.float32).reshape(len(records), self.dim)
        return [_nearest(records, matrix, query)[offset : offset + k] for query in queries]

    def search_text(
        self, phrases: Sequence[Phrase], limit: int, where: Where | None = None, *, common: int | None = None
    ) -> Written:
        """The records with the most of what the phrases tell, as `TextStore` says."""
        every = {record.id: fields_of(record.payload) for record in self._matching(None)}
        counts = Counter(word for fields in every.values() for word in {word for words in fields for word in words})

        def between(first: str, end: str) -> Iterator[tuple[str, int]]:
            return ((word, counts[word]) for word in sorted(counts) if first <= word < end)

        matcher = Matcher(tuple(known(phrase, between) for phrase in phrases), len(every))
        finding = [common is None or phrase.count <= common for phrase in matcher.phrases]
        ranked = sorted(
            (-level, record.id, record)
            for record in self._matching(where)
            if (level := matcher.level(every[record.id], finding))
        )
        count = limit if common is None else whole_levels([level for level, *_ in ranked], limit)
        return Written(matcher, [_copy(record) for *_, record in ranked[:count]], len(ranked))

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        with self._lock:
            records = self._open()
            return [_copy(records[name]) for name in ids if name in records]

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        return map(_copy, self._matching(where))

    def count(self, where: Where | None = None) -> int:
        return len(self._matching(where))

    def notes(self, kind: str) -> dict[str, Note]:
        with self._lock:
            self._open()
            return deepcopy(dict(sorted(self._notes.get(kind, {}).items())))

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        with self._lock:
            self._open()
            kept = self._notes.setdefault(kind, {}) | deepcopy(dict(notes))
            self._notes[kind] = {name: note for name, note in kept.items() if note is not None}

    def close(self) -> None:
        with self._lock:
            self._records = None

    def drop(self) -> None:
        self.close()

    def _open(self) -> dict[str, Record]:
        if self._records is None:
            raise StoreError("the store in memory was closed: make another one")
        return self._records

    def _matching(self, where: Where | None) -> list[Record]:
        node: Node = parse_where(where or {})
        with self._lock:
            records = self._open()
            return [
                records[name] for name in sorted(records) if node == And(()) or matches(records[name].payload, node)
            ]


def _nearest(records: Sequence[Record], matrix: Vectors, query: Vector) -> list[Hit]:
    """All records, which come in order of id, as hits in order of score and then of id."""
    # Not by matrix product: BLAS rounds equal rows differently, by their place.
    scores = np.einsum("nd,d->n", matrix, query)  # (n, dim) and (dim,) -> (n,)
    order = np.argsort(-scores, kind="stable")
    best = [(records[index], float(scores[index])) for index in order.tolist()]
    return [Hit(r.id, r.uri, max(-1.0, min(1.0, score)), deepcopy(dict(r.payload))) for r, score in best]


def _copy(record: Record) -> Record:
    return Record(record.id, record.uri, record.vector.copy(), deepcopy(dict(record.payload)))
