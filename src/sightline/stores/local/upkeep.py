"""A local index kept sound: checksums verified, damage cut out, deleted slots reclaimed."""

import logging
import sqlite3
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sightline.errors import StoreDamaged
from sightline.stores.local.scan import Quantiser
from sightline.stores.local.schema import State, read_state, write_state
from sightline.stores.local.vectors import (
    VECTOR,
    appending,
    codes_file,
    create_files,
    lengthen,
    map_codes,
    map_vectors,
    read_rows,
    sync_folder,
    vectors_file,
    write_rows,
)
from sightline.stores.local.views import read_tombstones
from sightline.stores.local.writes import BATCH_ROWS, delete_records

_DELETED_SHARE = 0.25  # of the slots: compaction then copies at most three rows for each one that was replaced
_FEWEST_DELETED = 1024  # below it the room is not worth the work

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    first: int
    count: int
    codes_crc: int
    vectors_crc: int


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


def find_corruption(connection: sqlite3.Connection, folder: Path, dim: int) -> list[Corruption]:
    """Read everything and compare it with the checksums of the commits; `StoreDamaged` if SQLite's own check fails."""
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise StoreDamaged(
            f"the database of {folder} is damaged ({result}): restore the folder from a backup, or delete it and "
            "index again"
        )
    generation = read_state(connection).generation
    damages = (_corruption_of(connection, folder, generation, dim, batch) for batch in _batches(connection))
    return [damage for damage in damages if damage]


def check_last_batch(connection: sqlite3.Connection, folder: Path, dim: int) -> None:
    """Raise `StoreDamaged` if the last commit is not whole: the disk lost what it had promised to keep."""
    row = connection.execute("SELECT * FROM batches ORDER BY first DESC LIMIT 1").fetchone()
    damage = _corruption_of(connection, folder, read_state(connection).generation, dim, _Batch(*row)) if row else None
    if damage:
        raise StoreDamaged(
            f"{folder} lost the vectors of its last commit ({len(damage.ids)} records from slot {damage.first_slot}), "
            "though the disk had confirmed them: sightline status --repair removes those, then index again"
        )


def repair(connection: sqlite3.Connection, folder: Path, quantiser: Quantiser) -> list[Corruption]:
    """Rebuild damaged codes, and remove the records whose vectors are lost; gives what was damaged."""
    state = read_state(connection)
    _restore_sizes(folder, state, quantiser.dim)
    damages = find_corruption(connection, folder, quantiser.dim)
    for damage in damages:
        if damage.can_be_rebuilt:
            _rebuild_codes(connection, folder, quantiser, damage)
        else:
            delete_records(connection, damage.ids)
            connection.execute("DELETE FROM batches WHERE first = ?", (damage.first_slot,))
    return damages


def should_compact(state: State) -> bool:
    """Whether enough slots hold nothing any more."""
    deleted = state.slots - state.live
    return deleted >= _FEWEST_DELETED and deleted > _DELETED_SHARE * state.slots


def compact(connection: sqlite3.Connection, folder: Path, dim: int) -> bool:
    """Copy the live rows to the files of a new generation; the commit of this transaction switches to it.

    Gives whether it did so.

    A damaged index is left as it is: copying would give damaged rows a valid checksum.
    """
    old = read_state(connection)
    live = np.ones(old.slots, np.bool_)
    live[read_tombstones(connection)] = False
    kept = np.flatnonzero(live)
    if any(_corruption_of(connection, folder, old.generation, dim, batch) for batch in _batches(connection)):
        _logger.warning("%s is damaged and was not compacted: run sightline status --repair", folder)
        return False
    state = replace(old, version=old.version + 1, generation=old.generation + 1, slots=len(kept))
    create_files(folder, state.generation)
    codes = map_codes(folder, old.generation, dim, old.slots)
    vectors = map_vectors(folder, old.generation, dim, old.slots)
    connection.execute("DELETE FROM batches")
    with appending(folder, state.generation) as (codes_out, vectors_out):
        for at in range(0, len(kept), BATCH_ROWS):
            some = kept[at : at + BATCH_ROWS]
            checksums = write_rows(codes_out, at, codes[some]), write_rows(vectors_out, at, vectors[some])
            connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (at, len(some), *checksums))
    # In ascending order each new slot is free: it is the old one or one that was left before.
    moved = ((new, old_slot) for new, old_slot in enumerate(kept.tolist()) if new != old_slot)
    connection.executemany("UPDATE slots SET slot = ? WHERE slot = ?", moved)
    connection.execute("DELETE FROM dead")
    write_state(connection, state)
    return True


def _batches(connection: sqlite3.Connection) -> list[_Batch]:
    return [_Batch(*row) for row in connection.execute("SELECT * FROM batches ORDER BY first")]


def _corruption_of(
    connection: sqlite3.Connection, folder: Path, generation: int, dim: int, batch: _Batch
) -> Corruption | None:
    are_codes_whole, are_vectors_whole = (
        zlib.crc32(read_rows(path, batch.first, batch.count, row_bytes)) == crc
        for path, row_bytes, crc in (
            (codes_file(folder, generation), dim, batch.codes_crc),
            (vectors_file(folder, generation), VECTOR.itemsize * dim, batch.vectors_crc),
        )
    )
    if are_codes_whole and are_vectors_whole:
        return None
    rows = connection.execute(
        "SELECT id FROM slots JOIN records USING (key) WHERE slot >= ? AND slot < ? ORDER BY slot",
        (batch.first, batch.first + batch.count),
    )
    ids = tuple(name for (name,) in rows)
    return Corruption(batch.first, batch.count, ids, can_be_rebuilt=are_vectors_whole) if ids else None


def _restore_sizes(folder: Path, state: State, dim: int) -> None:
    """Make missing files and missing ends, of zeros, so that every slot can be mapped."""
    lengthen(codes_file(folder, state.generation), state.slots * dim)
    lengthen(vectors_file(folder, state.generation), state.slots * dim * VECTOR.itemsize)
    sync_folder(folder)


def _rebuild_codes(connection: sqlite3.Connection, folder: Path, quantiser: Quantiser, damage: Corruption) -> None:
    state, end = read_state(connection), damage.first_slot + damage.count
    vectors = map_vectors(folder, state.generation, quantiser.dim, state.slots)[damage.first_slot : end]
    codes, worst = quantiser.encode(vectors)
    with appending(folder, state.generation) as (codes_out, _):
        crc = write_rows(codes_out, damage.first_slot, codes)
    connection.execute("UPDATE batches SET codes_crc = ? WHERE first = ?", (crc, damage.first_slot))
    write_state(connection, replace(state, version=state.version + 1, residual=max(worst, state.residual)))
