"""The store in Milvus: one collection of records and one of notes, found by vector and by expression."""

import time
from collections.abc import Iterator, Mapping, Sequence

from sightline.filters.where import matches, parse_where
from sightline.stores.checks import check_records, check_search
from sightline.stores.milvus.connection import Connection
from sightline.stores.milvus.filters import Translator
from sightline.stores.milvus.notes import read_notes, write_notes
from sightline.stores.milvus.opening import check_file, open_or_create
from sightline.stores.milvus.place import Place, parse_place
from sightline.stores.milvus.reading import Reader
from sightline.stores.milvus.rows import record_of, record_rows
from sightline.stores.milvus.writing import delete_ids, write_rows
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors, Where

_SEAL_S = 600.0
_WIDTH = "width"
_COLUMNS = ["id", "uri", "payload", "vector"]
_GRAPH_WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # first what the engine does unasked
# Until it is measured: at 64 a graph loses a quarter of a text query's neighbours.
_FIRST_WIDTHS = {"hnsw": 256, "ivf": 64, "flat": 1}


def open_url(url: StoreUrl, *, dim: int | None = None) -> "MilvusStore":
    """The store at `milvus://[user:key@]host[:port]/collection` or `milvus:///folder/file.db?collection=name`.

    Created if `dim` is given and nothing is there.
    """
    return MilvusStore(parse_place(url), dim)


class MilvusStore:
    """Keeps records in Milvus; any number of processes may share a server, one at a time a file of Milvus Lite."""

    def __init__(self, place: Place, dim: int | None = None) -> None:
        self.place = place
        if place.file:
            check_file(place.file, may_create=dim is not None)
        self._connection = Connection(place)
        try:
            settings = open_or_create(self._connection, place, dim)
            self.dim: int = settings["dim"]
            self._partition_key: str = settings["partition"]
            self._translator = Translator(not self._connection.is_lite, self._partition_key)
            index = settings["index"]
            self.widths: Sequence[int] = _widths(index, settings["nlist"])
            self._reader = Reader(self._connection, place, index, self.widths[-1])
            kept = self.notes(_WIDTH).get(_WIDTH)
            self.width: int = kept[_WIDTH] if kept else min(_FIRST_WIDTHS[index], self.widths[-1])
        except BaseException:
            self._connection.close()
            raise
        self._is_sealed = False

    def upsert(self, records: Sequence[Record]) -> None:
        """Write records, replacing those of the same id; returns when they are in the server's log."""
        last = list({record.id: record for record in records}.values())
        vectors = check_records(last, self.dim)
        write_rows(self._connection, self.place.collection, record_rows(last, vectors, self._partition_key))
        self._is_sealed = False

    def delete(self, ids: Sequence[str]) -> int:
        """Remove records; gives how many were there."""
        unique = list(dict.fromkeys(ids))
        found = [row["id"] for row in self._reader.rows_of(unique, ["id"])]
        delete_ids(self._connection, self.place.collection, found)
        if found and self.place.consistency == "Session":
            self._reader.catch_up()  # unlike an upsert's, a delete's timestamp is not told to the session (2.3.5)
        return len(found)

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        """(q, dim) -> for each query the hits from `offset` to `offset + k`, best first."""
        queries = check_search(vectors, k, offset, self.dim)
        return self._reader.nearest(queries, k, self._expression(where), offset, self.width)

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """The records of those ids that exist, in the order asked."""
        rows = self._reader.rows_of(list(dict.fromkeys(ids)), _COLUMNS)
        found = {row["id"]: record_of(row) for row in rows}
        return [found[name] for name in ids if name in found]

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        """Every record that matches, in order of id, with constant memory; the store may be written meanwhile."""
        node = parse_where(where or {})
        pages = self._reader.pages(self.place.collection, self._translator.lookup(node) if where else "", _COLUMNS)
        records = (record_of(row) for page in pages for row in page)
        return (record for record in records if not where or matches(record.payload, node))

    def count(self, where: Where | None = None) -> int:
        """How many records match."""
        return self._reader.count(self._expression(where))

    def notes(self, kind: str) -> dict[str, Note]:
        """The notes of a kind by key, with all that any process has written."""
        return read_notes(self._reader, kind)

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        """Write notes, replacing those of the same key; None removes one."""
        write_notes(self._connection, self.place, kind, notes)

    def search_at(self, vectors: Vectors, k: int, width: int) -> list[list[Hit]]:
        """As `search` without a filter, at that width; what was written is sealed and indexed before the first."""
        queries = check_search(vectors, k, 0, self.dim)
        if not self._is_sealed:
            self.seal()
        return self._reader.nearest(queries, k, "", 0, width)

    def set_width(self, width: int) -> None:
        """Search at that width from now on, here and wherever else this store is opened."""
        self.write_notes(_WIDTH, {_WIDTH: {_WIDTH: width}})
        self.width = width

    def seal(self) -> None:
        """Have the server close its growing segments, index them and search by that index; takes seconds to minutes.

        Not needed for durability nor for being found. Until then the server searches what is new by an index of its
        own that no width widens: 0.5 to 0.9 of the true neighbours of text queries, measured on 2.3.5.
        """
        name = self.place.collection
        if not self._connection.is_lite:
            self._connection.call("flush", name, timeout=_SEAL_S)
            until = time.monotonic() + _SEAL_S
            while time.monotonic() < until and not self._is_indexed():
                time.sleep(0.5)
            self._connection.call("refresh_load", name, timeout=_SEAL_S)
        self._is_sealed = True

    def drop(self) -> None:
        """Remove records, notes and schema, and close the store."""
        with self._connection.writing:
            for name in (self.place.collection, self.place.notes):
                self._connection.call("drop_collection", name)
        self.close()

    def close(self) -> None:
        """Give back connections; further calls raise `StoreError`."""
        self._connection.close()

    def _expression(self, where: Where | None) -> str:
        return self._translator.expression(parse_where(where)) if where else ""

    def _is_indexed(self) -> bool:
        found = self._connection.call("describe_index", self.place.collection, "vector")
        return int(found.get("pending_index_rows", 0)) == 0


def _widths(index: str, nlist: int) -> Sequence[int]:
    if index == "flat":
        return (1,)
    if index == "hnsw":
        return _GRAPH_WIDTHS
    return (*(8 << step for step in range(20) if 8 << step < nlist), nlist)
