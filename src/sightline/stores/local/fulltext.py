"""Full text of a local index: what people wrote in payloads, in a table of FTS5, read once and looked up."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from sightline.filters.documents import load_payload
from sightline.filters.where import Node
from sightline.stores.local.database import FORMAT
from sightline.stores.local.views import View, passing
from sightline.stores.written import Matcher, Phrase, fields_of, known, whole_levels
from sightline.types import Payload, chunks

_KEYS_AT_ONCE = 5_000
_PARAMETERS = 500  # of one statement, well below SQLite's limits


def read_some(connection: sqlite3.Connection) -> int:
    """Read the texts of a few thousand records that an older version wrote; gives how many keys are left."""
    (last,) = connection.execute("SELECT coalesce(max(value), 0) FROM meta WHERE name = 'unread'").fetchone()
    first = max(0, int(last) - _KEYS_AT_ONCE)
    rows = connection.execute("SELECT key, payload FROM records WHERE key > ? AND key <= ?", (first, last))
    write_texts(connection, ((key, load_payload(payload)) for key, payload in rows.fetchall()))
    connection.execute("UPDATE meta SET value = ? WHERE name = 'unread'", (first,))
    return first


def write_texts(connection: sqlite3.Connection, payloads: Iterable[tuple[int, Payload]]) -> None:
    """Put the words of payloads, by the keys of their records, in the place of those that were there."""
    rows = ((key, " ".join(word for words in fields_of(one) for word in words)) for key, one in payloads)
    connection.executemany("INSERT OR REPLACE INTO written (rowid, text) VALUES (?, ?)", rows)


def search_text(
    connection: sqlite3.Connection,
    view: View,
    phrases: Sequence[Phrase],
    limit: int,
    node: Node | None,
    common: int | None,
) -> tuple[Matcher, list[str], int] | None:
    """What ranks by phrases, the ids of the records with the most of them, as `TextStore` has it, how many have any.

    None where texts have to be read before.
    """
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    if meta["format"] < FORMAT or meta.get("unread"):
        return None
    statement = "SELECT term, doc FROM vocabulary WHERE term >= ? AND term < ? ORDER BY term"
    every = [known(phrase, lambda first, end: connection.execute(statement, (first, end))) for phrase in phrases]
    matcher = Matcher(tuple(every), view.state.live)
    if not any(phrase.count for phrase in every):
        return matcher, [], 0
    keys, gains = [np.empty(0, np.int64)], [np.empty(0)]
    for phrase, weight in zip(matcher.phrases, matcher.weights, strict=True):
        if not phrase.count or (common is not None and phrase.count > common):
            continue
        joined = " OR ".join(f'"{word}"' for word in phrase.variants) or " ".join(f'"{word}"' for word in phrase.words)
        # One text of many numbers takes a tenth of the time of as many rows.
        statement = "SELECT group_concat(rowid) FROM written WHERE written MATCH ?"
        (listed,) = connection.execute(statement, (joined,)).fetchone()
        keys.append(np.fromstring(listed or "", np.int64, sep=","))
        gains.append(np.full(len(keys[-1]), weight))
    if len(keys) == 1:
        return matcher, [], 0
    found, place = np.unique(np.concatenate(keys), return_inverse=True)  # (n,) -> (f,) keys, (n,) places in them
    levels = np.round(np.bincount(place, np.concatenate(gains), len(found)), 9)
    if node and len(found):
        passed = np.zeros(view.state.slots, np.bool_)
        passed[passing(connection, view, node)] = True
        slot_of = dict(_looked_up(connection, "SELECT key, slot FROM slots", found.tolist()))
        kept = passed[[slot_of[key] for key in found.tolist()]]
        found, levels = found[kept], levels[kept]
    order = np.argsort(-levels, kind="stable")
    first = levels[order[: limit + 1]].tolist()
    if common is not None:
        order = order[: whole_levels(first, limit)]
    elif len(first) > limit:  # all of the level that the limit cuts: ids tell which come first
        order = order[: int((levels >= first[limit - 1]).sum())]
    level_of = dict(zip(found[order].tolist(), levels[order].tolist(), strict=True))
    ids = _looked_up(connection, "SELECT key, id FROM records", list(level_of))
    return matcher, [name for _, name in sorted((-level_of[key], name) for key, name in ids)][:limit], len(found)


def _looked_up(connection: sqlite3.Connection, select: str, keys: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """The rows of a table that have these keys."""
    for some in chunks(keys, _PARAMETERS):
        yield from connection.execute(f"{select} WHERE key IN ({', '.join('?' * len(some))})", some)
