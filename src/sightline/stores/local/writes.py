"""Writing inside a transaction, and a local index kept sound: checksums verified, damage cut out, slots reclaimed."""

import json
import logging
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sightline.errors import StoreDamaged
from sightline.filters.documents import dump_note, dump_payload, load_payload, payload_words
from sightline.stores.local import database
from sightline.stores.local import vectors as files
from sightline.stores.local.fulltext import write_texts
from sightline.stores.local.search import Quantiser
from sightline.stores.local.vectors import VECTOR, Codes, Slots
from sightline.stores.local.views import PAGE_SLOTS, read_tombstones, unpacked
from sightline.types import Note, Record, Vectors, chunks

_BATCH_ROWS = 4096  # share a checksum: what is damaged is lost by batches, and read by batches
_PARAMETERS = 500  # of one statement, well below SQLite's limits
_DELETED_SHARE = 0.25  # of the slots: compaction then copies at most three rows for each one that was replaced
_FEWEST_DELETED = 1024  # below it the room is not worth the work

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Corruption:
    """What is not what was written: rows of the vector files, or of the database."""

    first_slot: int
    """Of the batch of vectors; -1 for what is in the database."""
    count: int
    """Slots of the batch, or rows of the database."""
    ids: tuple[str, ...]
    """The records that have to be indexed again."""
    can_be_rebuilt: bool
    """Only the codes, or what SQLite derives from rows, are damaged: `repair` makes them anew and no record is lost."""
    kind: str = "vectors"
    """Or "records", "notes", "tables"."""


def write_records(
    connection: sqlite3.Connection, folder: Path, quantiser: Quantiser, records: Sequence[Record], vectors: Vectors
) -> None:
    """Put records with different ids, and their vectors (n, dim), into new slots; earlier ones of the same id die."""
    old, residual = database.read_state(connection), 0.0

    def blocks() -> Iterator[tuple[Codes, Vectors]]:
        nonlocal residual
        for at in range(0, len(vectors), _BATCH_ROWS):
            codes, worst = quantiser.encode(vectors[at : at + _BATCH_ROWS])
            residual = max(residual, worst)
            yield codes, vectors[at : at + _BATCH_ROWS]

    _append(connection, folder, old.generation, old.slots, blocks())
    known = _find(connection, [record.id for record in records])
    _mark_deleted(connection, [slot for _, slot in known.values()])
    fresh = [record for record in records if record.id not in known]
    keys = {record.id: old.next_key + at for at, record in enumerate(fresh)}
    connection.executemany(
        "INSERT INTO records VALUES (?1, ?2, ?3, ?4, ?5)",
        ((keys[r.id], *(row := (r.id, r.uri, dump_payload(r.payload))), _crc_of(*row)) for r in fresh),
    )
    connection.executemany(
        "UPDATE records SET uri = ?2, payload = ?3, crc = ?4 WHERE key = ?5 AND id = ?1",
        (
            (*(row := (r.id, r.uri, dump_payload(r.payload))), _crc_of(*row), known[r.id][0])
            for r in records
            if r.id in known
        ),
    )
    keys |= {name: key for name, (key, _) in known.items()}
    connection.executemany(
        "INSERT INTO slots VALUES (?, ?)", ((old.slots + at, keys[record.id]) for at, record in enumerate(records))
    )
    _write_words(connection, records, keys, known)
    write_texts(connection, ((keys[record.id], record.payload) for record in records))
    state = database.State(
        version=old.version + 1,
        generation=old.generation,
        slots=old.slots + len(records),
        live=old.live + len(fresh),
        next_key=old.next_key + len(fresh),
        residual=max(old.residual, residual),
    )
    database.write_state(connection, state)


def delete_records(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Remove records; gives how many were there."""
    known = _find(connection, ids)
    if not known:
        return 0
    _mark_deleted(connection, [slot for _, slot in known.values()])
    keys = [(key,) for key, _ in known.values()]
    connection.executemany("DELETE FROM records WHERE key = ?", keys)
    for table in ("words", "written"):
        connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", keys)
    state = database.read_state(connection)
    database.write_state(connection, replace(state, version=state.version + 1, live=state.live - len(known)))
    return len(known)


def write_documents(connection: sqlite3.Connection, kind: str, notes: Mapping[str, Note | None]) -> None:
    """Write notes of a kind; None removes one."""
    gone = [(kind, name) for name, note in notes.items() if note is None]
    rows = [(kind, name, dump_note(note)) for name, note in notes.items() if note is not None]
    connection.executemany("DELETE FROM notes WHERE kind = ? AND name = ?", gone)
    statement = "INSERT OR REPLACE INTO notes (kind, name, document, crc) VALUES (?, ?, ?, ?)"
    connection.executemany(statement, [(*row, _crc_of(*row)) for row in rows])


def find_corruption(connection: sqlite3.Connection, folder: Path, dim: int) -> list[Corruption]:
    """Read everything and compare it with the checksums of the commits; `StoreDamaged` if SQLite's own check fails."""
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise database.damaged_database(folder, result)
    records, notes = _corrupt_records(connection), _corrupt_notes(connection)
    found = list[Corruption]()
    if records:
        found.append(Corruption(-1, len(records), tuple(records.values()), can_be_rebuilt=False, kind="records"))
    if notes:
        found.append(Corruption(-1, len(notes), (), can_be_rebuilt=False, kind="notes"))
    if not records and not _is_consistent(connection):
        found.append(Corruption(-1, 1, (), can_be_rebuilt=True, kind="tables"))
    return [*found, *_corrupt_batches(connection, folder, dim, "ORDER BY first")]


def check_last_batch(connection: sqlite3.Connection, folder: Path, dim: int) -> None:
    """Raise `StoreDamaged` if the last commit is not whole: the disk lost what it had promised to keep."""
    for damage in _corrupt_batches(connection, folder, dim, "ORDER BY first DESC LIMIT 1"):
        raise StoreDamaged(
            f"{folder} lost the vectors of its last commit ({len(damage.ids)} records from slot {damage.first_slot}), "
            "though the disk had confirmed them: sightline status --repair removes those, then index again"
        )


def repair(connection: sqlite3.Connection, folder: Path, quantiser: Quantiser) -> list[Corruption]:
    """Rebuild damaged codes, and remove the records whose vectors are lost; gives what was damaged."""
    state, dim = database.read_state(connection), quantiser.dim
    paths = files.files_of(folder, state.generation)
    (known,) = connection.execute("SELECT coalesce(max(first + count), 0) FROM batches").fetchone()
    rows = max([known, *(path.stat().st_size // dim for path in paths if path.exists())])
    is_other = any(folder.glob("vectors-*")) and not any(path.exists() for path in paths)
    if state.slots > rows or is_other:  # to go by them would cost every vector
        raise database.damaged_database(folder, "its counters")
    for path, row_bytes in zip(paths, (dim, dim * VECTOR.itemsize), strict=True):
        with path.open("ab") as file:  # missing files and missing ends, of zeros, so that every slot can be mapped
            file.truncate(max(file.tell(), state.slots * row_bytes))
    files.sync_folder(folder)
    database.upgrade(connection)
    damages = find_corruption(connection, folder, dim)
    if any(damage.kind != "vectors" for damage in damages):
        _repair_database(connection)
    for damage in damages:
        if damage.kind != "vectors":
            continue
        if not damage.can_be_rebuilt:
            delete_records(connection, damage.ids)
            connection.execute("DELETE FROM batches WHERE first = ?", (damage.first_slot,))
            continue
        _, vectors, _ = files.map_files(folder, state.generation, dim, state.slots)
        codes, worst = quantiser.encode(vectors[damage.first_slot : damage.first_slot + damage.count])
        with files.appending(folder, state.generation) as (codes_file, _):
            crc = files.write_rows(codes_file, damage.first_slot, codes)
        connection.execute("UPDATE batches SET codes_crc = ? WHERE first = ?", (crc, damage.first_slot))
        now = database.read_state(connection)
        database.write_state(connection, replace(now, version=now.version + 1, residual=max(worst, now.residual)))
    _fill_checksums(connection)
    return damages


def _corrupt_records(connection: sqlite3.Connection) -> dict[int, str]:
    """Key and id of the records that do not have the checksum of their commit, or no slot of their own."""
    state, dead, found = database.read_state(connection), set(read_tombstones(connection).tolist()), dict[int, str]()
    rows = connection.execute(
        f"SELECT key, slot, {_checked_columns(connection, 'records', 'id', 'uri', 'payload')} "
        "FROM records LEFT JOIN slots USING (key)"
    )
    for key, slot, *checked, name, uri, payload in rows:
        is_placed = slot is not None and 0 <= slot < state.slots and slot not in dead
        if not is_placed or not _is_whole(*checked, name, uri, payload):
            found[key] = name.decode("utf-8", "replace")
    return found


def _corrupt_notes(connection: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
    """Kind and name of the notes that do not have the checksum of their commit."""
    rows = connection.execute(f"SELECT {_checked_columns(connection, 'notes', 'kind', 'name', 'document')} FROM notes")
    return [(kind, name) for *checked, kind, name, text in rows if not _is_whole(*checked, kind, name, text)]


def _is_whole(crc: int | None, is_text: int, *columns: bytes) -> bool:
    """By the checksum; rows from before there were any can at least be read as JSON."""
    if crc is not None or not is_text:
        return bool(is_text) and crc == zlib.crc32(b"\0".join(columns))
    try:
        json.loads(columns[-1])
    except (ValueError, RecursionError):
        return False
    return True


def _crc_of(*columns: str) -> int:
    return zlib.crc32("\0".join(columns).encode())


def _checked_columns(connection: sqlite3.Connection, table: str, *names: str) -> str:
    """What `_is_whole` looks at, in SQL; bytes, for what is damaged may be no text."""
    every = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
    are_text = " AND ".join(f"typeof({name}) = 'text'" for name in names)
    return ", ".join(["crc" if "crc" in every else "NULL", are_text, *(f"CAST({name} AS BLOB)" for name in names)])


def _is_consistent(connection: sqlite3.Connection) -> bool:
    """Whether the slots, the counters, SQLite's indexes and the full text agree with the records."""
    state = database.read_state(connection)
    (strays,) = connection.execute("SELECT count(*) FROM slots WHERE key NOT IN (SELECT key FROM records)").fetchone()
    live, last_key = connection.execute("SELECT count(*), coalesce(max(key), 0) FROM records").fetchone()
    is_counted = live == state.live == state.slots - len(read_tombstones(connection)) and last_key < state.next_key
    return not strays and is_counted and connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"


def _repair_database(connection: sqlite3.Connection) -> None:
    """Take out damaged rows, and make anew what follows from the others."""
    for field in database.INDEXED_FIELDS:  # they cannot be kept up to date for a payload that is no JSON
        for name in (f"records_{field}", f"records_{field}_lists"):
            connection.execute(f"DROP INDEX IF EXISTS {name}")
    pairs = connection.execute("SELECT slot, key FROM slots NOT INDEXED").fetchall()
    owners = Counter(key for _, key in pairs)
    connection.execute("DROP TABLE slots")  # an index of its own may deny that two rows have the same key
    connection.execute(database.SLOTS_TABLE)
    connection.executemany("INSERT INTO slots VALUES (?, ?)", [pair for pair in pairs if owners[pair[1]] == 1])
    connection.execute("REINDEX")
    lost = [(key,) for key in _corrupt_records(connection)]
    connection.executemany("DELETE FROM records WHERE key = ?", lost)
    connection.execute("DELETE FROM slots WHERE key NOT IN (SELECT key FROM records)")
    connection.executemany(
        "DELETE FROM notes WHERE CAST(kind AS BLOB) = ? AND CAST(name AS BLOB) = ?", _corrupt_notes(connection)
    )
    database.create_field_indexes(connection)
    state = database.read_state(connection)
    placed = np.array([slot for (slot,) in connection.execute("SELECT slot FROM slots ORDER BY slot")], np.int64)
    connection.execute("DELETE FROM dead")
    _mark_dead(connection, np.setdiff1d(np.arange(state.slots), placed))
    (last,) = connection.execute("SELECT coalesce(max(key), 0) FROM records").fetchone()
    live, next_key = len(placed), max(state.next_key, last + 1)
    database.write_state(connection, replace(state, version=state.version + 1, live=live, next_key=next_key))
    for table in ("words", "written"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('unread', ?)", (last,))
    rows = connection.execute("SELECT key, payload FROM records")
    texts = ((key, " ".join(sorted(payload_words(load_payload(payload))))) for key, payload in rows)
    connection.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", (row for row in texts if row[1]))


def _fill_checksums(connection: sqlite3.Connection) -> None:
    """For rows from before there were any."""
    for table, names in (("records", "id, uri, payload"), ("notes", "kind, name, document")):
        rows = connection.execute(f"SELECT {names} FROM {table} WHERE crc IS NULL").fetchall()
        first, second, _ = names.split(", ")
        connection.executemany(
            f"UPDATE {table} SET crc = ? WHERE {first} = ? AND {second} = ?",
            [(_crc_of(*row), row[0], row[1]) for row in rows],
        )


def should_compact(state: database.State) -> bool:
    """Whether enough slots hold nothing any more."""
    deleted = state.slots - state.live
    return deleted >= _FEWEST_DELETED and deleted > _DELETED_SHARE * state.slots


def compact(connection: sqlite3.Connection, folder: Path, dim: int) -> bool:
    """Copy the live rows to the files of a new generation; the commit of this transaction switches to it.

    Gives whether it did so. A damaged index is left as it is: copying would give damaged rows a valid checksum.
    """
    old = database.read_state(connection)
    live = np.ones(old.slots, np.bool_)
    live[read_tombstones(connection)] = False
    kept = np.flatnonzero(live)
    if any(_corrupt_batches(connection, folder, dim, "ORDER BY first")):
        _logger.warning("%s is damaged and was not compacted: run sightline status --repair", folder)
        return False
    state = replace(old, version=old.version + 1, generation=old.generation + 1, slots=len(kept))
    files.create_files(folder, state.generation)
    codes, vectors, _ = files.map_files(folder, old.generation, dim, old.slots)
    connection.execute("DELETE FROM batches")
    rows = (kept[at : at + _BATCH_ROWS] for at in range(0, len(kept), _BATCH_ROWS))
    _append(connection, folder, state.generation, 0, ((codes[some], vectors[some]) for some in rows))
    # In ascending order each new slot is free: it is the old one or one that was left before.
    moved = ((new, old_slot) for new, old_slot in enumerate(kept.tolist()) if new != old_slot)
    connection.executemany("UPDATE slots SET slot = ? WHERE slot = ?", moved)
    connection.execute("DELETE FROM dead")
    database.write_state(connection, state)
    return True


def _append(
    connection: sqlite3.Connection, folder: Path, generation: int, slot: int, blocks: Iterable[tuple[Codes, Vectors]]
) -> None:
    """Write blocks of codes and vectors to both files from a slot on, each with its checksums."""
    with files.appending(folder, generation) as (codes_file, vectors_file):
        for codes, vectors in blocks:
            checksums = (
                files.write_rows(codes_file, slot, codes),
                files.write_rows(vectors_file, slot, np.asarray(vectors, VECTOR)),
            )
            connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (slot, len(codes), *checksums))
            slot += len(codes)


def _find(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Key and slot of those ids that exist."""
    found = dict[str, tuple[int, int]]()
    for some in chunks(ids, _PARAMETERS):
        rows = connection.execute(
            f"SELECT id, key, slot FROM records JOIN slots USING (key) WHERE id IN ({', '.join('?' * len(some))})", some
        )
        found.update({name: (key, slot) for name, key, slot in rows})
    return found


def _mark_deleted(connection: sqlite3.Connection, slots: Sequence[int]) -> None:
    connection.executemany("DELETE FROM slots WHERE slot = ?", ((slot,) for slot in slots))
    _mark_dead(connection, np.array(slots, np.int64))


def _mark_dead(connection: sqlite3.Connection, dead: Slots) -> None:
    for page in np.unique(dead // PAGE_SLOTS).tolist():
        row = connection.execute("SELECT bits FROM dead WHERE page = ?", (page,)).fetchone()
        flags = unpacked(row[0]) if row else np.zeros(PAGE_SLOTS, np.uint8)
        flags[dead[dead // PAGE_SLOTS == page] % PAGE_SLOTS] = 1
        bits = np.packbits(flags, bitorder="little").tobytes()
        connection.execute("INSERT OR REPLACE INTO dead VALUES (?, ?)", (page, bits))


def _write_words(
    connection: sqlite3.Connection, records: Sequence[Record], keys: Mapping[str, int], known: Iterable[str]
) -> None:
    """Bring the full text up to date; a record whose words are the same is left alone."""
    words = {keys[record.id]: " ".join(sorted(payload_words(record.payload))) for record in records}
    before = dict[int, str]()
    for some in chunks((keys[name] for name in known), _PARAMETERS):
        marks = ", ".join("?" * len(some))
        before.update(connection.execute(f"SELECT rowid, text FROM words WHERE rowid IN ({marks})", some))
    changed = {key: text for key, text in words.items() if before.get(key, "") != text}
    connection.executemany("DELETE FROM words WHERE rowid = ?", [(key,) for key in changed if key in before])
    connection.executemany(
        "INSERT INTO words (rowid, text) VALUES (?, ?)", [(key, text) for key, text in changed.items() if text]
    )


def _corrupt_batches(connection: sqlite3.Connection, folder: Path, dim: int, which: str) -> Iterator[Corruption]:
    """Those of some batches, by the end of an SQL statement, whose rows do not have the checksums of their commit."""
    codes, vectors = files.files_of(folder, database.read_state(connection).generation)
    batches = connection.execute(f"SELECT first, count, codes_crc, vectors_crc FROM batches {which}").fetchall()
    for first, count, codes_crc, vectors_crc in batches:
        are_vectors_whole = _crc(vectors, first, count, dim * VECTOR.itemsize) == vectors_crc
        if are_vectors_whole and _crc(codes, first, count, dim) == codes_crc:
            continue
        rows = connection.execute(
            "SELECT id FROM slots JOIN records USING (key) WHERE slot >= ? AND slot < ? ORDER BY slot",
            (first, first + count),
        )
        if ids := tuple(name for (name,) in rows):
            yield Corruption(first, count, ids, can_be_rebuilt=are_vectors_whole)


def _crc(path: Path, first: int, count: int, row_bytes: int) -> int:
    """Of some rows; of fewer if the file is shorter or missing."""
    try:
        with path.open("rb") as file:
            file.seek(first * row_bytes)
            return zlib.crc32(file.read(count * row_bytes))
    except FileNotFoundError:
        return 0
