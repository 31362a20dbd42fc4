"""The embedded store: a folder with a SQLite database and memory-mapped vectors, scanned exactly."""

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sightline.errors import SightlineError, StoreDamaged, StoreError, StoreNotFound
from sightline.filters.documents import load_note, load_payload
from sightline.filters.where import Node, matches, parse_where
from sightline.stores.base import Store, check_dim, check_records, check_search
from sightline.stores.local import database, writes
from sightline.stores.local.fulltext import read_some, search_text
from sightline.stores.local.search import THREADS, quantiser, search
from sightline.stores.local.vectors import remove_other_files
from sightline.stores.local.views import Stale, View, Views, passing, rows_of
from sightline.stores.url import StoreUrl
from sightline.stores.written import Phrase, Written
from sightline.types import Hit, Note, Record, Vectors, Where

_Result = TypeVar("_Result")

_TIMEOUT_S = 30.0
_FEW = 10_000  # ids: so many may be sorted in memory, instead of looking at every record
_PAGE_ROWS = 500
_MOST_TRIES = 20  # a reader begins again when a compaction overtakes it; more often than this, a file is gone

_logger = logging.getLogger(__name__)


def repair_store(path: str | Path) -> list[writes.Corruption]:
    """Mend an index that `LocalStore` refuses to open because a vector file is missing or truncated."""
    folder = Path(path)
    with contextlib.closing(database.Database(folder, _TIMEOUT_S)) as opened:
        with opened.guarded():
            database.check_folder(folder, may_create=False)
        with opened.reading() as connection:
            dim = database.read_dim(connection, folder, None)
        with opened.writing() as connection:
            return writes.repair(connection, folder, quantiser(dim))


class LocalStore(Store):
    """Keeps records in a folder, at a path or a file: URL; any number of processes may read while one writes.

    Search is exact: every live record is scanned in int8, and those that can be among the best are ranked in float32.
    `dim` creates the folder if it is missing; without it, it must exist.
    """

    def __init__(self, path: str | Path | StoreUrl, dim: int | None = None, *, timeout_s: float = _TIMEOUT_S) -> None:
        self.path = path.path if isinstance(path, StoreUrl) else Path(path)
        self._database = database.Database(self.path, timeout_s)
        try:
            with self._database.guarded():
                database.check_folder(self.path, may_create=dim is not None)
                if dim is not None:
                    check_dim(dim)
                    database.create_index(self.path, dim, timeout_s)
            with self._database.reading() as connection:
                self.dim = database.read_dim(connection, self.path, dim)
            self._views = Views(self.path, self.dim)
            self._read(lambda connection, view: None)  # a truncated file is found now, not by the first search
        except BaseException:
            self._database.close()
            raise
        self._quantiser = quantiser(self.dim)
        self._threads = ThreadPoolExecutor(max(1, THREADS - 1), "sightline-scan")
        self._is_checked, self._may_compact = False, True

    def upsert(self, records: Sequence[Record]) -> None:
        last = list({record.id: record for record in records}.values())
        vectors = check_records(last, self.dim)
        if last:
            with self._writing() as connection:
                writes.write_records(connection, self.path, self._quantiser, last, vectors)
            self._compact_if_useful()

    def delete(self, ids: Sequence[str]) -> int:
        with self._writing() as connection:
            count = writes.delete_records(connection, ids)
        self._compact_if_useful()
        return count

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        queries = check_search(vectors, k, offset, self.dim)
        node = parse_where(where) if where else None
        return self._read(
            lambda connection, view: search(
                connection, view, self._threads, self._quantiser, queries, node, offset, offset + k
            )
        )

    def search_text(
        self, phrases: Sequence[Phrase], limit: int, where: Where | None = None, *, common: int | None = None
    ) -> Written:
        """The records with the most of what the phrases tell, as `TextStore` says; an older index is read once."""
        node = parse_where(where) if where else None

        while (
            found := self._read(lambda connection, view: search_text(connection, view, phrases, limit, node, common))
        ) is None:
            with self._writing() as connection:
                if unread := read_some(connection):
                    _logger.warning("%s: reading what is written, once: %d records to go", self.path, unread)
        matcher, ids, count = found
        return Written(matcher, self.fetch(ids) if ids else [], count)

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        records = self._read(lambda connection, view: _records(view, rows_of(connection, "id", ids)))
        found = {record.id: record for record in records}
        return [found[name] for name in ids if name in found]

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        node = parse_where(where) if where else None
        pages = self._pages_of(node) if node else self._pages()
        return (record for page in pages for record in page)

    def count(self, where: Where | None = None) -> int:
        node = parse_where(where) if where else None
        return self._read(lambda connection, view: len(passing(connection, view, node)) if node else view.state.live)

    def notes(self, kind: str) -> dict[str, Note]:
        with self._database.reading() as connection:
            rows = connection.execute("SELECT name, document FROM notes WHERE kind = ? ORDER BY name", (kind,))
            with self._damage_named():
                return {name: load_note(document) for name, document in rows}

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        with self._writing() as connection:
            writes.write_documents(connection, kind, notes)

    def close(self) -> None:
        self._database.close()
        self._threads.shutdown()
        self._views.newest = None  # which unmaps the files, as soon as nobody searches in them

    def drop(self) -> None:
        """Delete the index's files, and its folder where nothing else is in it; then as `close`."""
        with self._database.writing():  # nobody else is at it
            pass
        self.close()
        for pattern in ("index.sqlite*", "vectors-*", "writer.*"):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files: not ours to delete
            self.path.rmdir()

    def verify(self) -> list[writes.Corruption]:
        """Compare everything with the checksums of the commits; gives what is damaged, nothing if all is well."""
        with self._database.reading() as connection, self._damage_named():
            return writes.find_corruption(connection, self.path, self.dim)

    def repair(self) -> list[writes.Corruption]:
        """Rebuild what can be rebuilt, and remove the records whose vectors are lost: indexing encodes them again."""
        with self._database.writing() as connection:
            damages = writes.repair(connection, self.path, self._quantiser)
        self._views, self._may_compact = Views(self.path, self.dim), True
        return damages

    def is_current(self) -> bool:
        """Whether the index still lies where it was opened: false once it was deleted or another one put there."""
        try:
            self._database.check_current()
        except StoreNotFound:
            return False
        return True

    def size_bytes(self) -> int:
        """What the folder takes on the disk."""
        size = 0
        with self._database.guarded():
            for file in self.path.iterdir():
                with contextlib.suppress(FileNotFoundError):  # SQLite's log comes and goes
                    size += file.stat().st_size
        return size

    def _read(self, action: Callable[[sqlite3.Connection, View], _Result]) -> _Result:
        """Do something in a read transaction, again if a writer overtook it."""
        tries = 0
        while True:
            try:
                with self._database.reading() as connection, self._damage_named():
                    return action(connection, self._views.of(connection))
            except Stale as stale:
                tries += 1
                if tries > _MOST_TRIES and isinstance(stale.__cause__, FileNotFoundError):
                    raise StoreDamaged(
                        f"a vector file of {self.path} is missing: restore it from a backup, or run "
                        "sightline status --repair, which removes the records that were lost, and index again"
                    ) from stale

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        """What a row that is not what was written makes of reading it."""
        try:
            yield
        except SightlineError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise database.damaged_record(self.path, error) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._database.writing() as connection:
            if not self._is_checked:
                database.upgrade(connection)
                writes.check_last_batch(connection, self.path, self.dim)
                remove_other_files(self.path, database.read_state(connection).generation)
                self._is_checked = True
            yield connection

    def _compact_if_useful(self) -> None:
        """Reclaim deleted slots; what was written before is safe whatever happens here."""
        if not self._may_compact or not self._read(lambda connection, view: writes.should_compact(view.state)):
            return
        try:
            with self._database.writing() as connection:
                if writes.should_compact(database.read_state(connection)):  # another process may have been faster
                    self._may_compact = writes.compact(connection, self.path, self.dim)
        except StoreError as error:
            self._may_compact = False  # each try reads everything: one is enough until the next opening
            _logger.warning("the room of deleted records was not reclaimed: %s", error)
        with self._database.writing() as connection:
            remove_other_files(self.path, database.read_state(connection).generation)

    def _pages_of(self, node: Node) -> Iterator[list[Record]]:
        def few_ids(connection: sqlite3.Connection, view: View) -> list[str] | None:
            slots = passing(connection, view, node)
            every = slots.tolist() if len(slots) <= _FEW else None
            return None if every is None else sorted(name for _, name, _, _ in rows_of(connection, "slot", every))

        ids, pages = self._read(few_ids), self._pages()
        if ids is not None:
            pages = (self.fetch(ids[at : at + _PAGE_ROWS]) for at in range(0, len(ids), _PAGE_ROWS))
        for page in pages:
            yield [record for record in page if matches(record.payload, node)]

    def _pages(self) -> Iterator[list[Record]]:
        last = ""
        while page := self._read(lambda connection, view: _page(connection, view, last)):  # noqa: B023 (called at once)
            yield page
            last = page[-1].id


def _page(connection: sqlite3.Connection, view: View, after: str) -> list[Record]:
    rows = connection.execute(
        "SELECT slot, id, uri, payload FROM records JOIN slots USING (key) WHERE id > ? ORDER BY id LIMIT ?",
        (after, _PAGE_ROWS),
    )
    return _records(view, rows)


def _records(view: View, rows: Iterable[tuple[int, str, str, str]]) -> list[Record]:
    every = list(rows)
    view.check()
    vectors = view.vectors[[slot for slot, *_ in every]]  # (slots, dim) -> (n, dim)
    view.check()
    return [
        Record(name, uri, vector, load_payload(payload))
        for (_, name, uri, payload), vector in zip(every, vectors, strict=True)
    ]
