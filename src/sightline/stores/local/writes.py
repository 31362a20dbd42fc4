"""Writing inside a transaction, and a local index kept sound: checksums verified, damage cut out, slots reclaimed."""

import logging
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sightline.errors import StoreDamaged
from sightline.filters.documents import dump_note, dump_payload, payload_words
from sightline.stores.local.database import State, read_state, write_state
from sightline.stores.local.search import Quantiser
from sightline.stores.local.vectors import (
    VECTOR,
    Codes,
    Slots,
    appending,
    create_files,
    files_of,
    map_files,
    sync_folder,
    write_rows,
)
from sightline.stores.local.views import PAGE_SLOTS, read_tombstones, unpacked
from sightline.types import Note, Record, Vectors, chunks

_BATCH_ROWS = 4096  # share a checksum: what is damaged is lost by batches, and read by batches
_PARAMETERS = 500  # of one statement, well below SQLite's limits
_DELETED_SHARE = 0.25  # of the slots: compaction then copies at most three rows for each one that was replaced
_FEWEST_DELETED = 1024  # below it the room is not worth the work

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Corruption:
    """Rows of the vector files that are not what was written."""

    first_slot: int
    count: int
    """Slots of the batch."""
    ids: tuple[str, ...]
    """The records that have to be indexed again."""
    can_be_rebuilt: bool
    """Only the codes are damaged: `repair` makes them anew and no record is lost."""


def write_records(
    connection: sqlite3.Connection, folder: Path, quantiser: Quantiser, records: Sequence[Record], vectors: Vectors
) -> None:
    """Put records with different ids, and their vectors (n, dim), into new slots; earlier ones of the same id die."""
    old, residual = read_state(connection), 0.0

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
        "INSERT INTO records VALUES (?, ?, ?, ?)",
        ((keys[record.id], record.id, record.uri, dump_payload(record.payload)) for record in fresh),
    )
    connection.executemany(
        "UPDATE records SET uri = ?, payload = ? WHERE key = ?",
        ((r.uri, dump_payload(r.payload), known[r.id][0]) for r in records if r.id in known),
    )
    keys |= {name: key for name, (key, _) in known.items()}
    connection.executemany(
        "INSERT INTO slots VALUES (?, ?)", ((old.slots + at, keys[record.id]) for at, record in enumerate(records))
    )
    _write_words(connection, records, keys, known)
    state = State(
        version=old.version + 1,
        generation=old.generation,
        slots=old.slots + len(records),
        live=old.live + len(fresh),
        next_key=old.next_key + len(fresh),
        residual=max(old.residual, residual),
    )
    write_state(connection, state)


def delete_records(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Remove records; gives how many were there."""
    known = _find(connection, ids)
    if not known:
        return 0
    _mark_deleted(connection, [slot for _, slot in known.values()])
    keys = [(key,) for key, _ in known.values()]
    connection.executemany("DELETE FROM records WHERE key = ?", keys)
    connection.executemany("DELETE FROM words WHERE rowid = ?", keys)
    state = read_state(connection)
    write_state(connection, replace(state, version=state.version + 1, live=state.live - len(known)))
    return len(known)


def write_documents(connection: sqlite3.Connection, kind: str, notes: Mapping[str, Note | None]) -> None:
    """Write notes of a kind; None removes one."""
    gone = [(kind, name) for name, note in notes.items() if note is None]
    kept = [(kind, name, dump_note(note)) for name, note in notes.items() if note is not None]
    connection.executemany("DELETE FROM notes WHERE kind = ? AND name = ?", gone)
    connection.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", kept)


def find_corruption(connection: sqlite3.Connection, folder: Path, dim: int) -> list[Corruption]:
    """Read everything and compare it with the checksums of the commits; `StoreDamaged` if SQLite's own check fails."""
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise StoreDamaged(
            f"the database of {folder} is damaged ({result}): restore the folder from a backup, or delete it and "
            "index again"
        )
    return list(_corrupt_batches(connection, folder, dim, "ORDER BY first"))


def check_last_batch(connection: sqlite3.Connection, folder: Path, dim: int) -> None:
    """Raise `StoreDamaged` if the last commit is not whole: the disk lost what it had promised to keep."""
    for damage in _corrupt_batches(connection, folder, dim, "ORDER BY first DESC LIMIT 1"):
        raise StoreDamaged(
            f"{folder} lost the vectors of its last commit ({len(damage.ids)} records from slot {damage.first_slot}), "
            "though the disk had confirmed them: sightline status --repair removes those, then index again"
        )


def repair(connection: sqlite3.Connection, folder: Path, quantiser: Quantiser) -> list[Corruption]:
    """Rebuild damaged codes, and remove the records whose vectors are lost; gives what was damaged."""
    state, dim = read_state(connection), quantiser.dim
    for path, row_bytes in zip(files_of(folder, state.generation), (dim, dim * VECTOR.itemsize), strict=True):
        with path.open("ab") as file:  # missing files and missing ends, of zeros, so that every slot can be mapped
            file.truncate(max(file.tell(), state.slots * row_bytes))
    sync_folder(folder)
    damages = find_corruption(connection, folder, dim)
    for damage in damages:
        if not damage.can_be_rebuilt:
            delete_records(connection, damage.ids)
            connection.execute("DELETE FROM batches WHERE first = ?", (damage.first_slot,))
            continue
        _, vectors, _ = map_files(folder, state.generation, dim, state.slots)
        codes, worst = quantiser.encode(vectors[damage.first_slot : damage.first_slot + damage.count])
        with appending(folder, state.generation) as (codes_file, _):
            crc = write_rows(codes_file, damage.first_slot, codes)
        connection.execute("UPDATE batches SET codes_crc = ? WHERE first = ?", (crc, damage.first_slot))
        now = read_state(connection)
        write_state(connection, replace(now, version=now.version + 1, residual=max(worst, now.residual)))
    return damages


def should_compact(state: State) -> bool:
    """Whether enough slots hold nothing any more."""
    deleted = state.slots - state.live
    return deleted >= _FEWEST_DELETED and deleted > _DELETED_SHARE * state.slots


def compact(connection: sqlite3.Connection, folder: Path, dim: int) -> bool:
    """Copy the live rows to the files of a new generation; the commit of this transaction switches to it.

    Gives whether it did so. A damaged index is left as it is: copying would give damaged rows a valid checksum.
    """
    old = read_state(connection)
    live = np.ones(old.slots, np.bool_)
    live[read_tombstones(connection)] = False
    kept = np.flatnonzero(live)
    if any(_corrupt_batches(connection, folder, dim, "ORDER BY first")):
        _logger.warning("%s is damaged and was not compacted: run sightline status --repair", folder)
        return False
    state = replace(old, version=old.version + 1, generation=old.generation + 1, slots=len(kept))
    create_files(folder, state.generation)
    codes, vectors, _ = map_files(folder, old.generation, dim, old.slots)
    connection.execute("DELETE FROM batches")
    rows = (kept[at : at + _BATCH_ROWS] for at in range(0, len(kept), _BATCH_ROWS))
    _append(connection, folder, state.generation, 0, ((codes[some], vectors[some]) for some in rows))
    # In ascending order each new slot is free: it is the old one or one that was left before.
    moved = ((new, old_slot) for new, old_slot in enumerate(kept.tolist()) if new != old_slot)
    connection.executemany("UPDATE slots SET slot = ? WHERE slot = ?", moved)
    connection.execute("DELETE FROM dead")
    write_state(connection, state)
    return True


def _append(
    connection: sqlite3.Connection, folder: Path, generation: int, slot: int, blocks: Iterable[tuple[Codes, Vectors]]
) -> None:
    """Write blocks of codes and vectors to both files from a slot on, each with its checksums."""
    with appending(folder, generation) as (codes_file, vectors_file):
        for codes, vectors in blocks:
            checksums = write_rows(codes_file, slot, codes), write_rows(vectors_file, slot, np.asarray(vectors, VECTOR))
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
    dead: Slots = np.array(slots, np.int64)
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
    codes, vectors = files_of(folder, read_state(connection).generation)
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
