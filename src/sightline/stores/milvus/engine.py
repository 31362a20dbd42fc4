"""Milvus, on a server or as Milvus Lite in a file, as the engine of a store."""

import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

from sightline.errors import StoreBusy, StoreError, StoreForbidden, StoreNotFound, UsageError, summary
from sightline.filters.documents import load_note
from sightline.filters.where import Node
from sightline.stores.milvus import schema
from sightline.stores.milvus.filters import EVERY_ROW, KEYED, Translator, joined, listed, quoted
from sightline.stores.milvus.schema import Place, Row
from sightline.stores.remote import EVERYTHING, Calls, TunableEngine, TunableStore, batches, check_marker, missing_index
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors, chunks

GRAPH_WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # first what the engine does unasked

_FORBIDDEN = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
# https://github.com/milvus-io/milvus/blob/master/pkg/util/merr/errors.go: not ready, unavailable, too many requests,
# not loaded (yet), no replica, channel or node at the moment: all pass when a server has started or nodes have moved.
_TRANSIENT_CODES = (1, 2, 4, 8, 101, 103, 401, 500, 503, 901, 902, 904)
_TRANSIENT_WORDS = re.compile(
    "not ready|unavailable|not loaded|recovering|no available|not healthy|node.*offline", re.I
)
_GONE_CODE, _OTHER_CODE = 100, 65535
_FIRST_WITH_UPSERT_IN_PARTITIONS = _FIRST_WITH_ARRAY_INDEXES = (2, 4)

# Until it is measured: at 64 a graph loses a quarter of a text query's neighbours.
_UNTUNED_WIDTHS = {"hnsw": 256, "ivf": 64, "flat": 1}
_WIDEST_GRAPH = 32_768  # the most that a server takes as ef
_MOST_HITS = 16_384  # rows that a server gives at most for one call
_PAGE_ROWS = 500
_IDS_AT_ONCE = 1_000  # of one expression
_BATCH_BYTES = 8 << 20  # a server takes 64 MB a message; beyond a few MB larger ones gain nothing
_BATCH_ROWS = 2_000
# Lite reads what it has not written to a file yet row by row: 280 us each, against 1.5 us (3.2.2). A flush takes 0.1 s.
_MOST_UNSEALED_ROWS = 256
_LITE_NLIST = 128  # Lite 3.2.2 does not see what pymilvus 3.0.2 sends as parameters of an index
_SHORTEST_TIMEOUT_S, _LOAD_S, _SEAL_S = 1.0, 120.0, 600.0  # loading reads the collection into memory
_MARKER = "settings"  # the kind of note, and its key
_COLUMNS = ["id", "uri", "payload", "vector"]

_lite_lock = threading.Lock()
_lite_users: Counter[Path] = Counter()  # Lite runs in this process, once for each file, until its last user leaves
_lite_writers: dict[Path, threading.Lock] = {}


def open_url(url: StoreUrl | str, *, dim: int | None = None) -> "TunableStore[MilvusEngine]":
    """The store at `milvus://[user:key@]host[:port]/collection` or `milvus:///folder/file.db?collection=name`.

    Created if `dim` is given and nothing is there.
    """
    return TunableStore(MilvusEngine(schema.parse_place(url), dim))


class MilvusEngine(TunableEngine):
    """One collection of records and one of notes; any number of processes may share a server, one a file of Lite.

    `writing` is held while something is written, and of a Lite file while it is read: beside a write or a flush of
    another thread Lite misses rows that are there.
    """

    most_hits = _MOST_HITS

    def __init__(self, place: Place, dim: int | None) -> None:
        if place.file:
            _check_file(place.file, place, may_create=dim is not None)
        self.place, patience_s = place, place.options["patience_s"]
        self.calls = Calls(
            place.text, patience_s, is_transient=_is_transient, translate=self._translated, words=_message
        )
        lock = _lite_writers.setdefault(place.file, threading.Lock()) if place.file else nullcontext()
        self.writing: AbstractContextManager[object] = lock
        may_be_doubled = place.file is not None and _has_flushed_log(place.file)
        self.client: Any = _lite_client(place.file) if place.file else None
        self._timeout_s = max(_SHORTEST_TIMEOUT_S, patience_s)
        self._unsealed_rows: Counter[str] = Counter()
        self._is_sealed = False
        with self.opening():
            if self.client is None:
                self.client = self.calls.make(self._connected)
            self._version = str(self._call("get_server_version"))  # 2.3.5-lite is a server, milvus_lite-3.2.2 is Lite
            self.is_lite = "lite-" in self._version or place.file is not None
            numbers = tuple(map(int, re.findall(r"\d+", self._version)[:2]))
            self._has_array_indexes = not self.is_lite and numbers >= _FIRST_WITH_ARRAY_INDEXES
            self._can_upsert_partitions = self.is_lite or numbers >= _FIRST_WITH_UPSERT_IN_PARTITIONS
            marker = self._open(dim)
            if may_be_doubled:
                self._remove_doubles()
        self.dim = int(marker["dim"])
        self.index: str = marker["index"]
        of_lists = (*(8 << step for step in range(20) if 8 << step < marker["nlist"]), marker["nlist"])
        self.widths = {"flat": (1,), "hnsw": GRAPH_WIDTHS}.get(self.index, of_lists)
        self.untuned_width = min(_UNTUNED_WIDTHS[self.index], self.widths[-1])
        self._partition_key: str = marker["partition"]
        self.translator = Translator(not self.is_lite, self._partition_key)

    def write(self, records: Sequence[Record], vectors: Vectors) -> None:
        self._write(self.place.collection, schema.record_rows(records, vectors, self._partition_key))
        self._is_sealed = False

    def delete(self, ids: Sequence[str]) -> int:
        found = [row["id"] for row in self._rows_of(ids, ["id"])]
        self._delete(self.place.collection, found)
        if found and self.place.consistency == "Session":
            self._catch_up()  # unlike an upsert's, a delete's timestamp is not told to the session (2.3.5)
        return len(found)

    def nearest(self, queries: Vectors, limit: int, node: Node, width: int | None) -> list[list[Hit]]:
        """The best of each query. An index may find fewer than there are: then it searches as widely as it can."""
        expression = self._expression(node)
        found = self._found(queries, limit, expression, width or self.untuned_width)
        fewest = min(map(len, found))
        if fewest < limit and self.index != "flat" and fewest < min(limit, self._counted(expression)):
            return self._found(queries, limit, expression, _WIDEST_GRAPH if self.index == "hnsw" else self.widths[-1])
        return found

    def fetch(self, ids: Sequence[str]) -> Iterable[Record]:
        return map(schema.record_of, self._rows_of(ids, _COLUMNS))

    def scan(self, node: Node, *, with_vectors: bool) -> Iterator[Record]:
        expression = "" if node == EVERYTHING else self.translator.lookup(node)
        pages = self._pages(self.place.collection, expression, _COLUMNS)
        return (schema.record_of(row) for page in pages for row in page)

    def count(self, node: Node) -> int:
        return self._counted(self._expression(node))

    def notes(self, kind: str) -> Iterator[tuple[str, Note]]:
        pages = self._pages(self.place.notes, f"kind == {quoted(kind)}", ["id", "name", "document"], "Strong")
        return ((row["name"], load_note(row["document"])) for page in pages for row in page)

    def write_notes(self, kind: str, notes: Mapping[str, Note], removed: Sequence[str]) -> None:
        self._write(self.place.notes, [schema.note_row(kind, name, note) for name, note in notes.items()])
        self._delete(self.place.notes, [schema.note_id(kind, name) for name in removed])

    def finish_indexing(self) -> None:
        """Have the server close its growing segments, index them and search by that index; takes seconds to minutes.

        Not needed for durability nor for being found. Until then the server searches what is new by an index of its
        own that no width widens: 0.5 to 0.9 of the true neighbours of text queries, measured on 2.3.5.
        """
        name = self.place.collection
        if self._is_sealed:
            return
        if not self.is_lite:
            self._call("flush", name, timeout=_SEAL_S)
            until = time.monotonic() + _SEAL_S
            while time.monotonic() < until and self._call("describe_index", name, "vector").get("pending_index_rows"):
                time.sleep(0.5)
            self._call("refresh_load", name, timeout=_SEAL_S)
        self._is_sealed = True

    def drop(self) -> None:
        with self.writing:
            for name in (self.place.collection, self.place.notes):
                self._call("drop_collection", name)

    def close(self) -> None:
        """Give back the connection; the last one of a Lite file closes it."""
        if self.calls.is_closed:
            return
        self.calls.close()
        if self.client is not None:
            self.client.close()
            if self.place.file:
                from milvus_lite.server_manager import server_manager_instance

                with _lite_lock:
                    _lite_users[self.place.file] -= 1
                    if _lite_users[self.place.file] == 0:
                        server_manager_instance.release_server(str(self.place.file.absolute()))

    def query(
        self, collection: str, expression: str, columns: list[str], consistency: str = "", **options: Any
    ) -> list[Row]:
        """The rows for which an expression holds, in any order."""
        level = consistency or self.place.consistency
        with self.writing:
            rows = self._call(
                "query", collection, filter=expression, output_fields=columns, consistency_level=level, **options
            )
            return list(rows)

    def _open(self, dim: int | None) -> Mapping[str, Any]:
        """The marker `format`, `dim`, `index`, `nlist` and `partition` of the index; both collections are loaded.

        Making may be cut off, and done by two processes at once: whoever opens with a dim goes on with it.
        """
        place, made = self.place, None
        if self._call("has_collection", place.collection):
            found_dim = self._check_collections()
            check_marker(place.text, {"format": 0, "dim": found_dim}, dim)
        else:
            found_dim = missing_index(place.text, dim)
        if not self._call("has_collection", place.notes):
            if dim is None:
                raise StoreError(f"{place.text} has no collection of notes: index again, which makes it")
            made = self._create(found_dim)
        self._load()
        marker = dict(self.notes(_MARKER)).get(_MARKER)
        if marker is None:
            marker = made or self._create(found_dim)
            self.write_notes(_MARKER, {_MARKER: dict(marker)}, [])
        check_marker(place.text, marker, dim)
        self._catch_up()  # from here on this client sees all that anyone was acknowledged before it was opened
        return marker

    def _create(self, dim: int) -> dict[str, Any]:
        """Make both collections. Safe to repeat and to do in two processes at once."""
        place, client, partition = self.place, self.client, self.place.options["partition_key"]
        if partition and not self._can_upsert_partitions:
            raise UsageError(
                f"partition_key={partition} needs a newer server than Milvus {self._version}, which puts "
                "replaced records into the wrong partition, expected 2.4 or later: leave the option out"
            )
        with self.writing:
            records = schema.record_fields(client, dim, has_partitions=bool(partition))
            self._make(place.collection, records, schema.vector_index(place), max(1, place.options["shards"]))
            kind = "INVERTED" if self.is_lite or self._has_array_indexes else "Trie"
            for column in (KEYED, *(schema.ARRAYS if self._has_array_indexes else ())):
                scalar = client.prepare_index_params()
                scalar.add_index(column, index_name=column, index_type=kind)
                self._call("create_index", place.collection, scalar)
            notes = schema.fields(client, "notes", 2, ("kind", "name", "document"))  # 2: it must have a vector, too
            self._make(place.notes, notes, {"index_type": "FLAT", "params": {}}, 1)
        nlist = _LITE_NLIST if self.is_lite else place.options["nlist"]
        return {"format": schema.FORMAT, "dim": dim, "index": place.index, "nlist": nlist, "partition": partition}

    def _make(self, name: str, fields: Any, vector_index: Mapping[str, Any], shards: int) -> None:
        if not self._call("has_collection", name):
            options = {} if self.is_lite else {"num_shards": shards}
            # Another process may have been faster: the server takes the same schema twice.
            self._call("create_collection", name, schema=fields, consistency_level="Strong", **options)
        params = self.client.prepare_index_params()
        params.add_index("vector", index_name="vector", metric_type="IP", **vector_index)
        self._call("create_index", name, params)

    def _remove_doubles(self) -> None:
        """Write again the rows that Lite has twice, in a file and in a log that was not removed: the new ones win."""
        for name in (self.place.collection, self.place.notes):
            seen = Counter(row["id"] for row in self.query(name, EVERY_ROW, ["id"]))
            for few in chunks((one for one, count in seen.items() if count > 1), _IDS_AT_ONCE):
                rows = {row["id"]: row for row in self.query(name, f"id in {listed(few)}", ["*"])}
                self._write(name, list(rows.values()))

    def _check_collections(self) -> int:
        """The length of the vectors; raises `StoreError` if a collection of that name is something else's."""
        dim = 0
        for name, expected in ((self.place.collection, schema.RECORD_FIELDS), (self.place.notes, schema.NOTE_FIELDS)):
            if not self._call("has_collection", name):
                continue
            fields = self._call("describe_collection", name)["fields"]
            found = {field["name"] for field in fields}
            if found - {"partition"} != expected:
                raise StoreError(
                    f"the collection {name!r} of {self.place.text} has the fields {', '.join(sorted(found))}, which "
                    "Sightline did not make: name another collection"
                )
            if name == self.place.collection:
                dim = next(int(field["params"]["dim"]) for field in fields if field["name"] == "vector")
        return dim

    def _load(self) -> None:
        """Have the server hold both collections in memory, which it needs for any answer: both at once takes 3 s."""
        options: dict[str, Any] = {} if self.is_lite else {"replica_number": max(1, self.place.options["replicas"])}
        both = (self.place.collection, self.place.notes)
        names = [name for name in both if self._call("get_load_state", name)["state"].name != "Loaded"]
        for name in names:
            self._call("load_collection", name, _async=True, **options)
        for name in names:
            self._call("load_collection", name, timeout=_LOAD_S, **options)

    def _expression(self, node: Node) -> str:
        return "" if node == EVERYTHING else self.translator.expression(node)

    def _found(self, queries: Vectors, limit: int, expression: str, width: int) -> list[list[Hit]]:
        # A graph refuses an ef below the number of hits.
        params = {"hnsw": {"ef": min(max(width, limit), _WIDEST_GRAPH)}, "ivf": {"nprobe": width}}
        with self.writing:
            found = self._call(
                "search",
                self.place.collection,
                data=list(queries),
                anns_field="vector",
                limit=limit,
                filter=expression,
                search_params={"metric_type": "IP", "params": params.get(self.index, {})},
                output_fields=["uri", "payload"],
                consistency_level=self.place.consistency,
            )
        return [[schema.hit_of(hit) for hit in hits] for hits in found]

    def _counted(self, expression: str) -> int:
        return int(self.query(self.place.collection, expression, ["count(*)"])[0]["count(*)"])

    def _catch_up(self) -> None:
        """Wait until the server shows what is in its log by now."""
        self.query(self.place.collection, EVERY_ROW, ["id"], "Strong", limit=1)

    def _rows_of(self, ids: Sequence[str], columns: list[str]) -> list[Row]:
        few_ids = chunks(filter(None, ids), _IDS_AT_ONCE)
        return [row for few in few_ids for row in self.query(self.place.collection, f"id in {listed(few)}", columns)]

    def _pages(self, collection: str, expression: str, columns: list[str], level: str = "") -> Iterator[list[Row]]:
        """Rows by id, a page after the other, each from where the last one ended."""
        page = self.query(collection, expression or EVERY_ROW, columns, level, limit=_PAGE_ROWS)
        if len(page) < _PAGE_ROWS:  # all there are, in whatever order
            yield sorted(page, key=itemgetter("id"))
            return
        # Only as an iterator do newer servers give the first rows by id. It waits for the newest state if the timestamp
        # is 0, which the first page does, and takes the state as it is if that is 1.
        options = {"iterator": "True", "reduce_stop_for_best": "False", "limit": _PAGE_ROWS, "guarantee_timestamp": 0}
        last = ""
        while page:
            more = joined([f"id > {quoted(last)}", *([f"({expression})"] if expression else [])], "and")
            page = sorted(self.query(collection, more, columns, level, **options), key=itemgetter("id"))
            yield page
            last = page[-1]["id"] if page else last
            options["guarantee_timestamp"] = 0 if (level or self.place.consistency) == "Strong" else 1

    def _write(self, collection: str, rows: Sequence[Row]) -> None:
        for batch in batches(rows, schema.row_bytes, most=_BATCH_ROWS, most_bytes=_BATCH_BYTES):
            with self.writing:
                self._call("upsert", collection, batch)
                self._unsealed_rows[collection] += len(batch)
                if self.is_lite and self._unsealed_rows[collection] >= _MOST_UNSEALED_ROWS:
                    self._call("flush", collection)
                    self._unsealed_rows[collection] = 0

    def _delete(self, collection: str, ids: Sequence[str]) -> None:
        for few in chunks(ids, _IDS_AT_ONCE):
            with self.writing:
                self._call("delete", collection, filter=f"id in {listed(few)}")

    def _call(self, method: str, *given: Any, **options: Any) -> Any:
        """What a method of the client gives, which must be safe to repeat."""
        self.calls.check_open()
        action = getattr(self.client, method)
        options = {"timeout": self._timeout_s, **options}
        return self.calls.make(lambda: action(*given, **options))

    def _connected(self) -> Any:
        place = self.place
        ca_file = place.options["ca_file"]
        return _client_class()(
            uri=place.uri,
            token=place.token,
            db_name=place.options["db"],
            timeout=self._timeout_s,
            dedicated=True,  # shared ones mix up databases, and are never closed
            **({"server_pem_path": ca_file} if ca_file else {}),
        )

    def _translated(self, error: Exception) -> StoreError | None:
        if isinstance(error, ImportError):
            return None
        what, words = self.place.text, _message(error)
        if set(_statuses(error)) & set(_FORBIDDEN):
            return StoreForbidden(
                f"{what} refuses the credentials ({words}): correct user:key@ in the URL, or key_file, to an account "
                "that may use it"
            )
        if getattr(error, "code", None) == _GONE_CODE:
            return StoreNotFound(f"{what} is gone ({words}): index again, or restore its collections")
        return StoreError(f"{what} refuses a call ({words}): look at the server's log")


def _is_transient(error: Exception) -> bool:
    statuses = set(_statuses(error))
    if statuses & set(_FORBIDDEN):
        return False
    code = getattr(error, "code", None)
    if statuses & set(_AWAY) or (isinstance(code, int) and code in _TRANSIENT_CODES):
        return True
    return bool(code == _OTHER_CODE and _TRANSIENT_WORDS.search(_message(error)))


def _statuses(error: BaseException) -> Iterator[str]:
    """The names of the gRPC statuses in an error and in what caused it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:  # the client raises errors from themselves
            continue
        seen.add(id(one))
        code = getattr(one, "code", None)
        status = code() if callable(code) else code
        if not isinstance(status, int) and (name := getattr(status, "name", "")):
            yield str(name)
        pending += [one.__cause__, one.__context__]


def _message(error: Exception) -> str:
    details = getattr(error, "details", None)
    words = getattr(error, "message", None) or (details() if callable(details) else "") or str(error)
    return summary(Exception(words)) if str(words).strip() else type(error).__name__


def _client_class() -> Any:
    from pymilvus import MilvusClient

    # It logs each error with its trace to the terminal, those that are tried again and those that we raise, too.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return MilvusClient


def _lite_client(file: Path) -> Any:
    import milvus_lite  # noqa: F401  (the client would not say that it is missing)

    client = _client_class()
    logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)
    if _is_worth_logging not in logging.getLogger("grpc._server").filters:
        logging.getLogger("grpc._server").addFilter(_is_worth_logging)
    with _lite_lock:
        try:
            opened = client(uri=str(file.absolute()), dedicated=True)
        except Exception as error:
            if _is_held(file):
                raise StoreBusy(
                    f"{file} is open in another process, and Milvus Lite serves one at a time: close it there, or use "
                    "a server"
                ) from error
            raise StoreError(f"{file} cannot be opened by Milvus Lite ({_message(error)}): restore a backup") from error
        _lite_users[file] += 1
    return opened


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Whether a line of the log is more than the trace of a call that Lite does not know and the client can miss."""
    return not (record.exc_info and isinstance(record.exc_info[1], NotImplementedError))


def _check_file(file: Path, place: Place, *, may_create: bool) -> None:
    """Raise `StoreNotFound` if a file of Lite, which is a folder, is missing and may not be made, or is no such one."""
    is_free = not file.exists() or (file.is_dir() and not any(file.iterdir()))
    if not is_free and not (file / "LOCK").exists():
        raise StoreNotFound(f"{file} is not a file of Milvus Lite, expected a folder that it made: name another path")
    if is_free and not may_create:
        missing_index(place.text, None)
    file.parent.mkdir(parents=True, exist_ok=True)


def _has_flushed_log(file: Path) -> bool:
    """Whether Lite was killed after it had put what a log holds into files, and before it removed the log."""
    for manifest in file.glob("collections/*/manifest.json"):
        with suppress(OSError, ValueError):
            active = json.loads(manifest.read_text("utf-8")).get("active_wal_number") or 0
            numbers = (int(log.stem.rpartition("_")[2]) for log in manifest.parent.glob("wal/wal_*_*.arrow"))
            if any(number < active for number in numbers):
                return True
    return False


def _is_held(file: Path) -> bool:
    try:
        import fcntl

        with (file / "LOCK").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False
