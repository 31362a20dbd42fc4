"""The store in Vespa: two schemas of one application, for the records and for the notes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sightline.errors import StoreError, UsageError
from sightline.filters.where import And, Node, matches, parse_where
from sightline.stores.checks import check_records, check_search
from sightline.stores.ties import settle
from sightline.stores.vespa.client import Client
from sightline.stores.vespa.deploy import ConfigServer
from sightline.stores.vespa.filters import EVERYTHING, NOTHING, both, condition, is_exact, one_of
from sightline.stores.vespa.longs import id_long, kind_long
from sightline.stores.vespa.package import LARGEST_ANSWER, NOTES, component_of
from sightline.stores.vespa.paging import count, pages
from sightline.stores.vespa.records import (
    document_name,
    document_note,
    document_record,
    hit_fields,
    note_document,
    record_document,
)
from sightline.types import Hit, Note, Record, Vectors, Where

WIDTHS = (0, 100, 200, 400, 800, 1600, 3200)
WIDTH = 400
"""Until it is tuned: other graph indexes lose 20 to 40 % of the neighbours of queries by words at their own widths."""

_WIDTH_NOTE = "width"  # the kind of note, and its key
_LOOKED_UP = 500  # ids in one query


class VespaStore:
    """Records in Vespa. The width is `hnsw.exploreAdditionalHits`: how many vectors more than wanted a search visits.

    Safe in many threads and for many processes. `open_url` opens it.
    """

    widths: Sequence[int] = WIDTHS

    def __init__(self, client: Client, server: ConfigServer, name: str, dim: int, *, is_exact: bool) -> None:
        self.dim, self._client, self._server = dim, client, server
        self._name, self._notes_name, self._is_exact = name, name + NOTES, is_exact
        self.width = int(self.notes(_WIDTH_NOTE).get(_WIDTH_NOTE, {}).get("width", WIDTH))

    def upsert(self, records: Sequence[Record]) -> None:
        """Write records, replacing those of the same id; returns when Vespa has acknowledged each."""
        vectors = check_records(records, self.dim)
        last = {record.id: (record, vector) for record, vector in zip(records, vectors, strict=True)}
        self._client.put(self._name, last.values(), lambda pair: record_document(*pair))

    def delete(self, ids: Sequence[str]) -> int:
        """Remove records; gives how many were there."""
        there = {record.id for record in self._find(list(dict.fromkeys(ids)), "short")}
        self._client.remove(self._name, [document_name(name) for name in there])
        return len(there)

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        """(q, dim) -> for each query the hits from `offset` to `offset + k`, best first.

        Vespa itself searches exactly where a filter lets few records pass (2 % of all).
        """
        queries = check_search(vectors, k, offset, self.dim)
        node = parse_where(where or {})
        return [self._settle({"input.query(q)": row}, k, offset, node, self.width) for row in queries.tolist()]

    def search_text(self, text: str, k: int, where: Where | None = None, offset: int = 0) -> list[Hit]:
        """The same for words, which Vespa itself turns into a vector; needs the option `text_model` at creation."""
        if not text or k < 1 or offset < 0:
            raise UsageError(f"text is {text!r}, k is {k}, offset is {offset}, expected words, k >= 1 and offset >= 0")
        query = {"input.query(q)": f"embed({component_of(self._name)}, @text)", "text": text}
        return self._settle(query, k, offset, parse_where(where or {}), self.width)

    def search_at(self, vectors: Vectors, k: int, width: int) -> list[list[Hit]]:
        """As `search` without a filter, at that width."""
        queries = check_search(vectors, k, 0, self.dim)
        return [self._settle({"input.query(q)": row}, k, 0, And(()), width) for row in queries.tolist()]

    def set_width(self, width: int) -> None:
        """Search at that width from now on, here and wherever else this store is opened."""
        self.write_notes(_WIDTH_NOTE, {_WIDTH_NOTE: {"width": width}})
        self.width = width

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """The records of those ids that exist, in the order asked."""
        found = {record.id: record for record in self._find(list(dict.fromkeys(ids)), "whole")}
        return [found[name] for name in ids if name in found]

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        """Every record that matches, in order of id, with constant memory; the store may be written meanwhile."""
        return self._scan(parse_where(where or {}), "whole")

    def count(self, where: Where | None = None) -> int:
        """How many records match."""
        node = parse_where(where or {})
        if is_exact(node):
            return count(self._client, self._name, condition(node))
        return sum(1 for _ in self._scan(node, "short"))

    def notes(self, kind: str) -> dict[str, Note]:
        """The notes of a kind by key."""
        found = pages(self._client, self._notes_name, one_of("kind", [kind_long(kind)]), "short")
        notes = [document_note(fields) for fields in found]
        return {key: note for key, its_kind, note in notes if its_kind == kind}

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        """Write notes, replacing those of the same key; None removes one."""
        kept = [(kind, key, note) for key, note in notes.items() if note is not None]
        self._client.put(self._notes_name, kept, lambda note: note_document(*note))
        self._client.remove(self._notes_name, [document_name(kind, key) for key in notes if notes[key] is None])

    def drop(self) -> None:
        """Remove records, notes and schemas from the server, and close the store."""
        self.close()
        self._server.remove(self._name)

    def close(self) -> None:
        """Close the connections; further calls raise `StoreError`."""
        self._client.close()

    def _find(self, ids: Sequence[str], summary: str) -> Iterator[Record]:
        for at in range(0, len(ids), _LOOKED_UP):
            few = ids[at : at + _LOOKED_UP]
            yql = f"select * from sources * where {one_of('lookup', list(map(id_long, few)))} limit {len(few)}"
            body = {"yql": yql, "presentation.summary": summary, "ranking.profile": "unranked"}
            for fields in hit_fields(self._client.query({**body, "model.restrict": self._name})):
                yield document_record(fields)

    def _scan(self, node: Node, summary: str) -> Iterator[Record]:
        exact = is_exact(node)
        for fields in pages(self._client, self._name, condition(node), summary):
            record = document_record(fields)
            if exact or matches(record.payload, node):
                yield record

    def _settle(self, query: Mapping[str, Any], k: int, offset: int, node: Node, width: int) -> list[Hit]:
        if k + offset >= LARGEST_ANSWER:
            raise UsageError(
                f"k + offset is {k + offset}, expected less than {LARGEST_ANSWER}, the most that one query of Vespa "
                "gives here: ask for fewer"
            )
        exact, passed = is_exact(node), condition(node)

        def find(limit: int) -> list[Hit]:
            """Too wide a filter: more are asked for until enough pass, or no more come."""
            asked = limit
            while True:
                hits = self._nearest(query, passed, asked, width)
                passing = hits if exact else [hit for hit in hits if matches(hit.payload, node)]
                if len(passing) >= limit or len(hits) < asked or asked == LARGEST_ANSWER:
                    return passing[:limit]
                asked = min(4 * asked, LARGEST_ANSWER)

        return settle(find, k, offset, most=LARGEST_ANSWER)

    def _nearest(self, query: Mapping[str, Any], passed: str, limit: int, width: int) -> list[Hit]:
        if passed == NOTHING:
            return []
        how = (
            f'{{targetHits: {limit}, "hnsw.exploreAdditionalHits": {width}, approximate: {_text(not self._is_exact)}}}'
        )
        nearest = f"({how}nearestNeighbor(vector, q))"
        body = {
            "yql": f"select * from sources * where {both([nearest, passed]) if passed != EVERYTHING else nearest} "
            f"limit {limit}",
            "presentation.summary": "short",
            "ranking.profile": "nearest",
            "model.restrict": self._name,
            **query,
        }
        return [_hit(one) for one in self._client.query(body).get("children", ())]


def _hit(found: Mapping[str, Any]) -> Hit:
    """Vespa's closeness is 1 / (1 + angle)."""
    record = document_record(found["fields"])
    closeness = float(found["relevance"])
    if not 0 < closeness <= 1:
        raise StoreError(f"Vespa ranked {record.id!r} with {closeness}, expected 0 to 1: deploy the schema again")
    return Hit(record.id, record.uri, math.cos(min(math.pi, 1 / closeness - 1)), record.payload)


def _text(flag: bool) -> str:
    return "true" if flag else "false"
