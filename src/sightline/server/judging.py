"""Hits of a batch of queries turned into the scores from which on they are likely, by one look into the store."""

import time
from collections.abc import Mapping, Sequence
from typing import cast

from sightline.encoders.base import Encoder
from sightline.stores.base import Store
from sightline.structure.line import chance_scores
from sightline.types import Hit, Note, Record

MOST_JUDGED = 1_000
"""Hits of a query that are judged: the vector of each is read, 10 us from a folder and more from a database."""

_KIND = "line"
_KEPT_S = 10.0  # the note: from a database it is a round trip, and it changes when an index has doubled


class Judge:
    """Knows the line of an index. Its methods may be called from many threads."""

    def __init__(self, store: Store, encoder: Encoder) -> None:
        self._store, self._encoder = store, encoder
        self._known: tuple[float, dict[str, Note]] | None = None

    @property
    def has_line(self) -> bool:
        """Whether the index has a line that was drawn with this model."""
        return any(note["fingerprint"] == self._encoder.fingerprint for note in self._notes().values())

    def chances(self, found: Sequence[Sequence[Hit]]) -> list[tuple[float, ...] | None]:
        """For each query's hits, best first, the scores that they have to reach; None where nothing was found."""
        if not any(found):
            return [None] * len(found)
        ids = list(dict.fromkeys(hit.id for hits in found for hit in hits))
        records = {record.id: record for record in self._store.fetch(ids)}
        seen = cast(Store, _Seen(self._notes(), records))  # no more of a store is asked for
        return [chance_scores(seen, self._encoder, hits) if hits else None for hits in found]

    def _notes(self) -> dict[str, Note]:
        known = self._known
        if known is None or time.monotonic() - known[0] > _KEPT_S:
            known = self._known = (time.monotonic(), self._store.notes(_KIND))
        return known[1]


class _Seen:
    """What was read of a store for a whole batch."""

    def __init__(self, notes: dict[str, Note], records: Mapping[str, Record]) -> None:
        self._notes, self._records = notes, records

    def notes(self, kind: str) -> dict[str, Note]:
        return self._notes if kind == _KIND else {}

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        return [self._records[name] for name in ids if name in self._records]
