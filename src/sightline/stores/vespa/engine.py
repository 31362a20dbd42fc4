"""Vespa as the engine of a store, through pyvespa: two schemas of one application, for records and for notes."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpr
import numpy as np
from requests.exceptions import HTTPError
from vespa.application import Vespa, VespaSync
from vespa.exceptions import VespaError

from sightline.errors import StoreError, StoreForbidden, StoreFull, StoreUnreachable, UsageError
from sightline.filters.documents import dump_note, dump_payload, load_note, load_payload
from sightline.filters.where import Node, matches, parse_where
from sightline.stores import remote
from sightline.stores.base import check_dim
from sightline.stores.remote import Calls, TunableEngine, TunableStore, Workers
from sightline.stores.url import Address, Option, StoreUrl, parse_address
from sightline.stores.vespa import filters, package
from sightline.stores.vespa.filters import ALL, NONE, PLACES, condition, places
from sightline.stores.vespa.package import LARGEST_ANSWER, NOTES, ConfigServer
from sightline.types import Hit, Note, Record, Vector, Vectors, Where, chunks

Fields = Mapping[str, Any]

_OPTIONS: Mapping[str, Option] = {
    "config_port": 19071,
    "cert": "",
    "cert_key": "",
    "tls": False,
    "exact": False,
    "patience_s": remote.TIMEOUT_S,
    "start_s": 300,  # an application starts in about half a minute
    "text_model": "",
    "links": package.LINKS,
    "insert": package.EXPLORED,
}
_PAUSE_S = 0.2
_UNKNOWN_TYPE = 400  # the status for a document type that no schema defines
_MARKER = "sightline"  # the kind of note, and its key, that says what an index is
_FORMAT = 1
_WORKERS = 16  # writes in flight: /document/v1 takes one document a request; Vespa answers 429 when they are too many
_AT_ONCE = 1024  # documents handed to the workers together, which bounds the memory
_TRANSIENT = (408, 429, 502, 503, 504)  # too much at once, starting, restarting or too slow: worth another try
_TIMEOUT_S = 60
_SETTINGS: Mapping[str, Any] = {
    "timeout": f"{_TIMEOUT_S}s",  # Vespa's own half a second gives what it has by then
    "ranking.softtimeout.enable": False,  # all or an error, never a part
    "sorting.degrading": False,  # else sorting counts, and finds, a part only
    "dispatch.topKProbability": 1.0,  # several nodes: each is asked for as many as are wanted
    "presentation.format.tensors": "short",
}
_LOOKED_UP = 500  # ids in one query
_PAGE = 500  # with 512-d vectors about 3 MB
_PAGES_IN_WINDOW = 8
_LOWEST, _HIGHEST = -(2**63) + 1, 2**63 - 1
_ORDER = ", ".join([*(f"place{at} asc" for at in range(PLACES)), '{function: "raw"}rest asc'])
_LONGEST_NAME = 400  # of a document's id, which travels in the URL


class DegradedError(Exception):
    """An answer from a part of the nodes."""


def open_url(url: StoreUrl | str, *, dim: int | None = None) -> "TunableStore[VespaEngine]":
    """The store of `vespa://host:8080/name`, deployed if `dim` is given and nothing is there."""
    address = parse_address(url, _OPTIONS)
    package.check_name(address.name)
    if dim is not None:
        check_dim(dim)
    for option in ("cert", "cert_key"):
        if address.options[option] and not Path(address.options[option]).is_file():
            raise UsageError(
                f"{option}={address.options[option]} of {address.text} is not a file, expected a certificate or its "
                "key in PEM format: correct the path"
            )
    return TunableStore(VespaEngine(address, dim))


class VespaEngine(TunableEngine):
    """Records in Vespa. The width is `hnsw.exploreAdditionalHits`: how many vectors more than wanted a search visits.

    Vespa itself searches exactly where a filter lets few records pass (2 % of all). A record that it acknowledged is in
    the graph.
    """

    most_hits = LARGEST_ANSWER - 1
    widths: Sequence[int] = (0, 100, 200, 400, 800, 1600, 3200)
    # Until it is tuned: other graph indexes lose 20 to 40 % of the neighbours of queries by words at their own widths.
    untuned_width = 400

    def __init__(self, address: Address, dim: int | None) -> None:
        options, host = address.options, address.url_host or "localhost"
        self.address, self.name, self.notes_name = address, address.name, address.name + NOTES
        self.calls = Calls(address.text, options["patience_s"], is_transient=_is_transient, translate=self._translated)
        self._server = ConfigServer(f"http://{host}:{options['config_port']}", options["patience_s"])
        is_safe = options["tls"] or bool(options["cert"])
        app = Vespa(
            f"{'https' if is_safe else 'http'}://{host}",
            port=address.port or (443 if is_safe else 8080),
            cert=options["cert"] or None,
            key=options["cert_key"] or None,
            vespa_cloud_secret_token=address.key or None,
        )
        # No retries of its own: it knows no patience. Compression costs more than it saves but on long ways.
        compress = "auto" if is_safe else False
        session = VespaSync(app, pool_maxsize=_WORKERS, compress=compress, num_retries_429=0)
        self._session: Any = session.__enter__()  # type: ignore[no-untyped-call]
        self._workers = Workers(self.calls, _WORKERS, "vespa")
        with self.opening():
            marker = self._marker()
            if not marker:
                marker = self._made(remote.missing_index(address.text, dim), is_deployed=marker is not None)
            self.dim = remote.check_marker(address.text, {"format": _FORMAT} | dict(marker), dim, newest=_FORMAT)

    def write(self, records: Sequence[Record], vectors: Vectors) -> None:
        self._put(self.name, zip(records, vectors, strict=True), _record_document)

    def delete(self, ids: Sequence[str]) -> int:
        there = {record.id for record in self._find(ids, "short")}
        self._remove(self.name, [_document_name(name) for name in there])
        return len(there)

    def nearest(self, queries: Vectors, limit: int, node: Node, width: int | None) -> list[list[Hit]]:
        wide, passed = self.untuned_width if width is None else width, condition(node)
        return [self._nearest({"input.query(q)": row}, limit, passed, wide) for row in queries.tolist()]

    def search_text(self, text: str, k: int, where: Where | None = None, offset: int = 0) -> list[Hit]:
        """As a store's `search` for words that Vespa itself makes a vector of; needs `text_model` at creation."""
        if not text or k < 1 or offset < 0:
            raise UsageError(f"text is {text!r}, k is {k}, offset is {offset}, expected words, k >= 1 and offset >= 0")
        node = parse_where(where or {})
        remote.check_reach(offset + k, self.most_hits, self.address.text)
        query = {"input.query(q)": f"embed({package.component_of(self.name)}, @text)", "text": text}
        width = int(dict(self.notes("width")).get("width", {}).get("width", self.untuned_width))

        def nearest(limit: int) -> list[Hit]:
            return self._nearest(query, limit, condition(node), width)

        def matching(limit: int) -> list[Hit]:
            return [hit for hit in nearest(self.most_hits) if matches(hit.payload, node)][:limit]

        return remote.top_k(nearest, k, offset, node=node, max_limit=self.most_hits, compare_all=matching)

    def fetch(self, ids: Sequence[str]) -> Iterable[Record]:
        return self._find(ids, "whole")

    def scan(self, node: Node, *, with_vectors: bool) -> Iterator[Record]:
        return map(_document_record, self.pages(self.name, condition(node), "whole" if with_vectors else "short"))

    def count(self, node: Node) -> int | None:
        passed = condition(node)
        if passed == NONE or not filters.is_exact(node):
            return 0 if passed == NONE else None
        return int(self._select(self.name, f"{passed} limit 0", "short")["fields"]["totalCount"])

    def notes(self, kind: str) -> Iterator[tuple[str, Note]]:
        found = self.pages(self.notes_name, filters.one_of("kind", [filters.long_of("kind", "", kind)]), "short")
        notes = (json.loads(fields["record"]) for fields in found)
        return ((key, load_note(note)) for key, its_kind, note in notes if its_kind == kind)

    def write_notes(self, kind: str, notes: Mapping[str, Note], removed: Sequence[str]) -> None:
        def document(key: str, note: Note) -> tuple[str, Fields]:
            fields = {"record": json.dumps([key, kind, dump_note(note)]), "kind": filters.long_of("kind", "", kind)}
            return _document_name(kind, key), {**fields, **_looked_up(key)}

        self._put(self.notes_name, notes.items(), document)
        self._remove(self.notes_name, [_document_name(kind, key) for key in removed])

    def drop(self) -> None:
        self.close()
        self._server.remove(self.name)

    def close(self) -> None:
        if not self.calls.is_closed:
            self.calls.close()
            self._workers.close()
            self._session.__exit__(None, None, None)

    def pages(self, schema: str, condition: str, summary: str, *, page: int = _PAGE) -> Iterator[Fields]:
        """The fields of every document that meets a condition, in order of id; of `summary`, a summary class.

        Vespa has no cursor for queries; offsets cost more the further they go, and move with what is written meanwhile.
        So each page begins after the last document of the one before, and looks into a window of the ids in which a few
        pages lie: without it, each page would sort all that is left.
        """
        if condition == NONE:
            return
        low, width, last, limit = _LOWEST, _HIGHEST - _LOWEST, "", page
        while low <= _HIGHEST:
            high = min(low + width, _HIGHEST)
            window = f"range(place0, {low}L, {high}L)"
            parts, rest = places(last)  # longer ids may share all their places: asked for again, told apart here
            later = filters.after(parts, or_equal=bool(rest)) if last else ALL
            passed = filters.both([window, later, condition])
            root = self._select(schema, f"{passed} order by {_ORDER} limit {limit}", summary)
            found: list[Fields] = [hit["fields"] for hit in root.get("children", ())]
            fresh = [fields for fields in found if _document_id(fields) > last]
            yield from fresh
            total = int(root["fields"]["totalCount"])
            if len(found) < limit:  # the window is empty now
                low, width = high + 1, min(width * _PAGES_IN_WINDOW, _HIGHEST - _LOWEST)
            elif fresh:
                last = _document_id(fresh[-1])
                low, limit = places(last)[0][0], page
                if total > 2 * _PAGES_IN_WINDOW * page:
                    width = max(1, (high - low) * _PAGES_IN_WINDOW * page // total)
            elif limit < LARGEST_ANSWER:
                limit = min(2 * limit, LARGEST_ANSWER)
            else:
                raise StoreError(
                    f"more than {LARGEST_ANSWER} ids begin with the same {8 * PLACES} bytes as {last[:60]!r}: use "
                    "record_id(uri) as ids"
                )

    def _marker(self) -> Fields | None:
        """What an index says of itself: None if its schemas are not deployed, empty if they are new."""
        name = _document_name(_MARKER, _MARKER)

        def get() -> Fields:
            answer = self._session.get_data(self.notes_name, name, namespace=self.notes_name)
            return dict(answer.json.get("fields", {}) if answer.status_code == 200 else {})

        try:
            fields = get()
        except Exception as error:
            is_away = isinstance(error, httpr.RequestError)  # Vespa does not listen before it has an application
            if _status_of(error) == _UNKNOWN_TYPE or (is_away and self._server.is_empty()):
                return None
            if not _is_transient(error):
                raise self._translated(error) or error from error
            fields = self.calls.make(get)
        return load_note(json.loads(fields["record"])[2]) if "record" in fields else {}

    def _made(self, dim: int, *, is_deployed: bool) -> Fields:
        """The marker of a new index: its schemas are deployed if that was not done by other means."""
        if is_deployed:
            return self._claimed(dim)
        text_model, start_s = self.address.options["text_model"], self.address.options["start_s"]
        made = package.build(
            self.name,
            dim,
            text_model=Path(text_model).expanduser() if text_model else None,
            links=self.address.options["links"],
            explored=self.address.options["insert"],
        )
        self._server.add(made)
        until = time.monotonic() + start_s
        while True:  # until everything serves it, calls fail in many ways
            try:
                return self._claimed(dim)
            except StoreForbidden:
                raise
            except StoreError as error:
                if time.monotonic() > until:
                    raise StoreUnreachable(
                        f"{self.address.text} does not serve the application that was deployed {start_s} s ago "
                        f"({error}): look into Vespa's log, then run the same again"
                    ) from error
            time.sleep(_PAUSE_S)

    def _claimed(self, dim: int) -> Fields:
        """The marker of an index whose schemas are new, once it is seen that they are ours and of this dim."""
        marker = {"dim": dim, "format": _FORMAT}
        try:
            self._nearest({"input.query(q)": [1.0] + [0.0] * (dim - 1)}, 1, ALL, self.untuned_width)
            self.write_notes(_MARKER, {_MARKER: marker}, [])
        except StoreError as error:
            if isinstance(error, StoreForbidden | StoreUnreachable):
                raise
            raise StoreError(
                f"{self.address.text} holds schemas that are not Sightline's with {dim} dimensions ({error}), expected "
                "none or such as sightline.stores.vespa.application_package writes: choose another name"
            ) from error
        return marker

    def _find(self, ids: Sequence[str], summary: str) -> Iterator[Record]:
        for few in chunks(ids, _LOOKED_UP):
            wanted = filters.one_of("lookup", [filters.long_of("id", "", name) for name in few])
            root = self._select(self.name, f"{wanted} limit {len(few)}", summary)
            yield from (_document_record(hit["fields"]) for hit in root.get("children", ()))

    def _nearest(self, query: Fields, limit: int, passed: str, width: int) -> list[Hit]:
        if passed == NONE:
            return []
        approximate = "false" if self.address.options["exact"] else "true"
        options = f'{{targetHits: {limit}, "hnsw.exploreAdditionalHits": {width}, approximate: {approximate}}}'
        nearest = f"({options}nearestNeighbor(vector, q))"
        wanted = filters.both([nearest, passed]) if passed != ALL else nearest
        body = {
            "yql": f"select * from sources * where {wanted} limit {limit}",
            "presentation.summary": "short",
            "ranking.profile": "nearest",
            "model.restrict": self.name,
            **query,
        }
        hits = []
        for found in self._query(body).get("children", ()):
            record, closeness = _document_record(found["fields"]), float(found["relevance"])  # is 1 / (1 + angle)
            if not 0 < closeness <= 1:
                raise StoreError(
                    f"Vespa ranked {record.id!r} with {closeness}, expected 0 to 1: deploy the schema again"
                )
            hits.append(Hit(record.id, record.uri, math.cos(min(math.pi, 1 / closeness - 1)), record.payload))
        return hits

    def _select(self, schema: str, rest: str, summary: str) -> Fields:
        """The root of the answer to a question that ranks nothing."""
        body = {"yql": f"select * from sources * where {rest}", "presentation.summary": summary}
        return self._query({**body, "model.restrict": schema, "ranking.profile": "unranked"})

    def _query(self, body: Fields) -> Fields:
        """The root of the answer to a query, from all nodes."""

        def ask() -> Fields:
            root: Fields = self._session.query(body={**_SETTINGS, **body}).json["root"]
            if root.get("errors"):
                raise VespaError(root["errors"])
            coverage = root.get("coverage", {})
            if coverage.get("degraded") or not coverage.get("full", True):
                raise DegradedError(f"only {coverage.get('coverage')} % of the documents were searched")
            return root

        return self.calls.make(ask)

    def _put(
        self, schema: str, documents: Iterable[tuple[Any, Any]], encode: Callable[[Any, Any], tuple[str, Fields]]
    ) -> None:
        """Write documents, each as a name and its fields, which the workers make; returns when all are durable."""

        def write(document: tuple[Any, Any]) -> None:
            name, fields = encode(*document)
            self.calls.make(lambda: self._session.feed_data_point(schema, name, dict(fields), namespace=schema))

        for few in chunks(documents, _AT_ONCE):
            self._workers.map(write, few)

    def _remove(self, schema: str, names: Iterable[str]) -> None:
        delete = self._session.delete_data
        self._workers.map(lambda name: self.calls.make(lambda: delete(schema, name, namespace=schema)), names)

    def _translated(self, error: Exception) -> StoreError | None:
        if not isinstance(error, VespaError | HTTPError | httpr.HTTPError):
            return None
        what, status, text = self.address.text, _status_of(error), str(error)[:300]
        if status in (401, 403):
            return StoreForbidden(
                f"{what} refuses the credentials ({status}), expected a token in the URL (vespa://:TOKEN@host/name), a "
                "key_file, or cert and cert_key: give those of the application"
            )
        if status == 507:
            return StoreFull(
                f"{what} has no room for more (507: {text}): add nodes or memory, then run the same again; what was "
                "acknowledged is kept"
            )
        return StoreError(f"{what} refused a call ({status}: {text}): look into Vespa's log")


def _is_transient(error: Exception) -> bool:
    return isinstance(error, httpr.RequestError | DegradedError) or _status_of(error) in _TRANSIENT


def _status_of(error: BaseException) -> int:
    """The HTTP status behind an error of pyvespa; 0 without one."""
    for one in (error, error.__cause__):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return 0


def _document_name(*names: str) -> str:
    """The last part of a document's id: percent-encoded, or a hash where that is long."""
    text = ":".join(quote(name, safe="") for name in names)
    return text if len(text) <= _LONGEST_NAME else f"={sha256(text.encode()).hexdigest()}"


def _record_document(record: Record, vector: Vector) -> tuple[str, Fields]:
    """A record as the name and the fields of a document; vectors as hexadecimal text are read fastest."""
    ordered = [{"which": which, "amount": amount} for which, amount in filters.payload_ranks(record.payload)]
    return _document_name(record.id), {
        "record": json.dumps([record.id, record.uri, dump_payload(record.payload)]),  # in ASCII, as strings want it
        "vector": {"values": vector.astype(">f4").tobytes().hex()},
        "tokens": filters.payload_longs(record.payload),
        "ordered": ordered,
        **_looked_up(record.id),
    }


def _document_id(fields: Fields) -> str:
    """The id of the record, or the key of the note, of a document."""
    return str(json.loads(fields["record"])[0])


def _document_record(fields: Fields) -> Record:
    """The record of a document; without a vector if the document comes without one."""
    name, uri, payload = json.loads(fields["record"])
    vector = np.array(fields["vector"]["values"] if "vector" in fields else (), np.float32)
    return Record(name, uri, vector, load_payload(payload))


def _looked_up(name: str) -> dict[str, Any]:
    parts, rest = places(name)
    return {
        "lookup": filters.long_of("id", "", name),
        **{f"place{at}": part for at, part in enumerate(parts)},
        "rest": rest,
    }
