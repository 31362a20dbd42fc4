"""Records and notes turned into rows and slots, inside a write transaction."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from sightline.filters.documents import dump_note, dump_payload, payload_words
from sightline.stores.local.scan import Quantiser
from sightline.stores.local.schema import State, read_state, write_state
from sightline.stores.local.vectors import VECTOR, appending, write_rows
from sightline.stores.local.views import mark_deleted
from sightline.types import Note, Record, Vectors

BATCH_ROWS = 4096
"""At most so many slots share a checksum: what is damaged is lost by batches, and read by batches."""

_Value = TypeVar("_Value", str, int)

_PARAMETERS = 500  # of one statement, well below SQLite's limits


def write_records(
    connection: sqlite3.Connection, folder: Path, quantiser: Quantiser, records: Sequence[Record], vectors: Vectors
) -> None:
    """Put records with different ids, and their vectors (n, dim), into new slots; earlier ones of the same id die."""
    old = read_state(connection)
    state = _write_vectors(connection, folder, quantiser, old, vectors)
    known = find(connection, [record.id for record in records])
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
    live, next_key = old.live + len(fresh), old.next_key + len(fresh)
    write_state(connection, replace(state, version=old.version + 1, live=live, next_key=next_key))


def delete_records(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Remove records; gives how many were there."""
    known = find(connection, ids)
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


def find(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Key and slot of those ids that exist."""
    found = dict[str, tuple[int, int]]()
    for some in _chunks(ids):
        rows = connection.execute(
            f"SELECT id, key, slot FROM records JOIN slots USING (key) WHERE id IN ({', '.join('?' * len(some))})", some
        )
        found.update({name: (key, slot) for name, key, slot in rows})
    return found


def _write_vectors(
    connection: sqlite3.Connection, folder: Path, quantiser: Quantiser, state: State, vectors: Vectors
) -> State:
    """Append (n, dim) vectors to both files, with a checksum per batch; gives the state with the new slots."""
    slots, residual = state.slots, state.residual
    with appending(folder, state.generation) as (codes_file, vectors_file):
        for at in range(0, len(vectors), BATCH_ROWS):
            some = vectors[at : at + BATCH_ROWS]
            codes, worst = quantiser.encode(some)
            checksums = write_rows(codes_file, slots, codes), write_rows(vectors_file, slots, some.astype(VECTOR))
            connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (slots, len(some), *checksums))
            slots, residual = slots + len(some), max(residual, worst)
    return replace(state, slots=slots, residual=residual)


def _mark_deleted(connection: sqlite3.Connection, slots: Sequence[int]) -> None:
    connection.executemany("DELETE FROM slots WHERE slot = ?", ((slot,) for slot in slots))
    mark_deleted(connection, np.array(slots, np.int64))


def _write_words(
    connection: sqlite3.Connection, records: Sequence[Record], keys: Mapping[str, int], known: Iterable[str]
) -> None:
    """Bring the full text up to date; a record whose words are the same is left alone."""
    words = {keys[record.id]: " ".join(sorted(payload_words(record.payload))) for record in records}
    before = dict[int, str]()
    for some in _chunks([keys[name] for name in known]):
        marks = ", ".join("?" * len(some))
        before.update(connection.execute(f"SELECT rowid, text FROM words WHERE rowid IN ({marks})", some))
    changed = {key: text for key, text in words.items() if before.get(key, "") != text}
    connection.executemany("DELETE FROM words WHERE rowid = ?", [(key,) for key in changed if key in before])
    connection.executemany(
        "INSERT INTO words (rowid, text) VALUES (?, ?)", [(key, text) for key, text in changed.items() if text]
    )


def _chunks(values: Sequence[_Value]) -> Iterator[Sequence[_Value]]:
    for at in range(0, len(values), _PARAMETERS):
        yield values[at : at + _PARAMETERS]
