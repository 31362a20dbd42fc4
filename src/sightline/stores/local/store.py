"""The embedded store: a folder with a SQLite database and memory-mapped vectors, scanned exactly."""

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sightline.errors import StoreDamaged, StoreError
from sightline.filters.documents import load_note, load_payload
from sightline.filters.where import Node, matches, parse_where
from sightline.stores.checks import check_dim, check_records, check_search
from sightline.stores.local.database import Database, connect_writer, translated_errors
from sightline.stores.local.scan import Scanner, Slots, quantiser
from sightline.stores.local.schema import check_folder, create_index, read_dim, read_state
from sightline.stores.local.search import nearest, passing, read_hits, rows_of
from sightline.stores.local.upkeep import Corruption, check_last_batch, compact, find_corruption, repair, should_compact
from sightline.stores.local.vectors import remove_other_files, sync_folder
from sightline.stores.local.views import Stale, View, Views
from sightline.stores.local.writes import delete_records, find, write_documents, write_records
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors, Where

_Result = TypeVar("_Result")

_TIMEOUT_S = 30.0
_FEW = 10_000  # ids: so many may be sorted in memory, instead of looking at every record
_PAGE_ROWS = 500
_MOST_TRIES = 20  # a reader begins again when a compaction overtakes it; more often than this, a file is gone

_logger = logging.getLogger(__name__)


def open_url(url: StoreUrl, *, dim: int | None = None) -> "LocalStore":
    """The store at a path or a file: URL, created if `dim` is given and nothing is there."""
    return LocalStore(url.path, dim)


def repair_store(path: str | Path) -> list[Corruption]:
    """Mend an index that `LocalStore` refuses to open because a vector file is missing or truncated."""
    database = Database(Path(path), _TIMEOUT_S)
    try:
        check_folder(Path(path), may_create=False)
        with database.reading() as connection:
            dim = read_dim(connection, Path(path), None)
        with database.writing() as connection:
            return repair(connection, Path(path), quantiser(dim))
    finally:
        database.close()


class LocalStore:
    """Keeps records in a folder; any number of processes may read while one writes.

    Search is exact: every live record is scanned in int8, and those that can be among the best are ranked in float32.
    `dim` creates the folder if it is missing; without it, it must exist.
    """

    def __init__(self, path: str | Path, dim: int | None = None, *, timeout_s: float = _TIMEOUT_S) -> None:
        self.path = Path(path)
        with translated_errors(self.path):
            check_folder(self.path, may_create=dim is not None)
            if dim is not None:
                _create_if_missing(self.path, dim, timeout_s)
        self._database = Database(self.path, timeout_s)
        try:
            with self._database.reading() as connection:
                self.dim = read_dim(connection, self.path, dim)
            self._views = Views(self.path, self.dim)
            self._read(lambda connection, view: None)  # a truncated file is found now, not by the first search
        except BaseException:
            self._database.close()
            raise
        self._quantiser, self._scanner = quantiser(self.dim), Scanner()
        self._is_checked, self._may_compact = False, True

    def upsert(self, records: Sequence[Record]) -> None:
        """Write records, replacing those of the same id; returns when they are on the disk."""
        last = list({record.id: record for record in records}.values())
        vectors = check_records(last, self.dim)
        if last:
            with self._writing() as connection:
                write_records(connection, self.path, self._quantiser, last, vectors)
            self._compact_if_useful()

    def delete(self, ids: Sequence[str]) -> int:
        """Remove records; gives how many were there."""
        with self._writing() as connection:
            count = delete_records(connection, ids)
        self._compact_if_useful()
        return count

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        """(q, dim) -> for each query the hits from `offset` to `offset + k`, best first."""
        queries = check_search(vectors, k, offset, self.dim)
        node = parse_where(where) if where else None

        def find_hits(connection: sqlite3.Connection, view: View) -> list[list[Hit]]:
            slots = passing(connection, view, node) if node else None
            found = nearest(view, self._scanner, self._quantiser, queries, offset + k, slots)
            return [read_hits(connection, best, scores, offset, offset + k) for best, scores in found]

        return self._read(find_hits)

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """The records of those ids that exist, in the order asked."""

        def read(connection: sqlite3.Connection, view: View) -> dict[str, Record]:
            slots = [slot for _, slot in find(connection, ids).values()]
            return {record.id: record for record in _records(view, rows_of(connection, slots))}

        found = self._read(read)
        return [found[name] for name in ids if name in found]

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        """Every record that matches, in order of id, with constant memory; the store may be written meanwhile."""
        node = parse_where(where) if where else None
        pages = self._pages_of(node) if node else self._pages()
        return (record for page in pages for record in page)

    def count(self, where: Where | None = None) -> int:
        """How many records match."""
        node = parse_where(where) if where else None
        return self._read(lambda connection, view: len(passing(connection, view, node)) if node else view.state.live)

    def notes(self, kind: str) -> dict[str, Note]:
        """The notes of a kind by key."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT name, document FROM notes WHERE kind = ? ORDER BY name", (kind,))
            return {name: load_note(document) for name, document in rows}

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        """Write notes, replacing those of the same key; None removes one."""
        with self._writing() as connection:
            write_documents(connection, kind, notes)

    def close(self) -> None:
        """Give back files and connections; further calls raise `StoreError`."""
        self._database.close()
        self._scanner.close()
        self._views.forget()

    def verify(self) -> list[Corruption]:
        """Compare everything with the checksums of the commits; gives what is damaged, nothing if all is well."""
        with self._database.reading() as connection:
            return find_corruption(connection, self.path, self.dim)

    def repair(self) -> list[Corruption]:
        """Rebuild what can be rebuilt, and remove the records whose vectors are lost: indexing encodes them again."""
        with self._database.writing() as connection:
            damages = repair(connection, self.path, self._quantiser)
        self._views, self._may_compact = Views(self.path, self.dim), True
        return damages

    def size_bytes(self) -> int:
        """What the folder takes on the disk."""
        with translated_errors(self.path):
            return sum(_size_bytes(file) for file in self.path.iterdir())

    def _read(self, action: Callable[[sqlite3.Connection, View], _Result]) -> _Result:
        """Do something in a read transaction, again if a writer overtook it."""
        tries = 0
        while True:
            try:
                with self._database.reading() as connection:
                    return action(connection, self._views.of(connection))
            except Stale as stale:
                tries += 1
                if tries > _MOST_TRIES and isinstance(stale.__cause__, FileNotFoundError):
                    raise StoreDamaged(
                        f"a vector file of {self.path} is missing: restore it from a backup, or run "
                        "sightline status --repair, which removes the records that were lost, and index again"
                    ) from stale

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._database.writing() as connection:
            if not self._is_checked:
                check_last_batch(connection, self.path, self.dim)
                remove_other_files(self.path, read_state(connection).generation)
                self._is_checked = True
            yield connection

    def _compact_if_useful(self) -> None:
        """Reclaim deleted slots; what was written before is safe whatever happens here."""
        if not self._may_compact or not self._read(lambda connection, view: should_compact(view.state)):
            return
        try:
            with self._database.writing() as connection:
                if should_compact(read_state(connection)):  # another process may have been faster
                    self._may_compact = compact(connection, self.path, self.dim)
        except StoreError as error:
            self._may_compact = False  # each try reads everything: one is enough until the next opening
            _logger.warning("the room of deleted records was not reclaimed: %s", error)
        with self._database.writing() as connection:
            remove_other_files(self.path, read_state(connection).generation)

    def _pages_of(self, node: Node) -> Iterator[list[Record]]:
        ids = self._read(lambda connection, view: _few_ids(connection, passing(connection, view, node)))
        if ids is None:
            pages = self._pages()
        else:
            pages = (self.fetch(ids[at : at + _PAGE_ROWS]) for at in range(0, len(ids), _PAGE_ROWS))
        for page in pages:
            yield [record for record in page if matches(record.payload, node)]

    def _pages(self) -> Iterator[list[Record]]:
        last = ""
        while page := self._read(lambda connection, view: _page(connection, view, last)):  # noqa: B023 (called at once)
            yield page
            last = page[-1].id


def _create_if_missing(folder: Path, dim: int, timeout_s: float) -> None:
    check_dim(dim)
    folder.mkdir(parents=True, exist_ok=True)
    connection = connect_writer(folder, timeout_s)
    try:
        create_index(connection, folder, dim)
    finally:
        connection.close()
    sync_folder(folder.parent)


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # SQLite's log comes and goes
        return 0


def _few_ids(connection: sqlite3.Connection, slots: Slots) -> list[str] | None:
    return sorted(name for _, name, _, _ in rows_of(connection, slots.tolist())) if len(slots) <= _FEW else None


def _page(connection: sqlite3.Connection, view: View, after: str) -> list[Record]:
    rows = connection.execute(
        "SELECT slot, id, uri, payload FROM records JOIN slots USING (key) WHERE id > ? ORDER BY id LIMIT ?",
        (after, _PAGE_ROWS),
    )
    return _records(view, rows)


def _records(view: View, rows: Iterable[tuple[int, str, str, str]]) -> list[Record]:
    every = list(rows)
    vectors = view.vectors[[slot for slot, *_ in every]]  # (slots, dim) -> (n, dim)
    return [
        Record(name, uri, vector, load_payload(payload))
        for (_, name, uri, payload), vector in zip(every, vectors, strict=True)
    ]
