"""Hits of a batch of queries turned into the scores from which on they are likely, by one look into the store."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from sightline.calibration.line import Line, Stand, chance_scores, drawn, stands_of
from sightline.encoders.base import Encoder
from sightline.stores.base import Store
from sightline.types import Hit

_KEPT_S = 10.0  # the line: from a database it is a round trip, and it changes when an index has doubled
_REMEMBERED = 65_536  # pictures, 15 MB: who scrolls or types on meets the same ones again


class Judge:
    """Knows the line of an index. Its methods may be called from many threads."""

    def __init__(self, store: Store, encoder: Encoder) -> None:
        self._store, self._encoder = store, encoder
        self._drawn: tuple[float, Line | None] | None = None
        self._stands: OrderedDict[tuple[str, str], Stand] = OrderedDict()  # by id and stamp, for the line of now
        self._remembering = threading.Lock()

    @property
    def has_line(self) -> bool:
        """Whether the index has a line that was drawn with this model."""
        return self._line() is not None

    def chances(self, found: Sequence[Sequence[Hit]]) -> list[tuple[float, ...] | None]:
        """For each query's hits, best first, the scores that they have to reach; None where nothing was found."""
        line = self._line()
        if line is None:
            return [None] * len(found)
        stands = self._stands_of(line, {hit.id: hit for hits in found for hit in hits})
        return [chance_scores(line, hits, stands) if hits else None for hits in found]

    def _stands_of(self, line: Line, hits: Mapping[str, Hit]) -> dict[str, Stand]:
        """Those of the pictures that are still there. One whose stamp has changed is read anew."""
        keys = {(name, str(hit.payload.get("stamp", ""))): name for name, hit in hits.items()}
        with self._remembering:
            stands = {name: stand for key, name in keys.items() if (stand := self._stands.get(key))}
        missing = [name for name in hits if name not in stands]
        stands |= stands_of(line, self._store.fetch(missing)) if missing else {}
        with self._remembering:
            for key, name in keys.items():
                if name in stands and key[1]:
                    self._stands[key] = stands[name]
                    self._stands.move_to_end(key)
            while len(self._stands) > _REMEMBERED:
                self._stands.popitem(last=False)
        return stands

    def _line(self) -> Line | None:
        known = self._drawn
        if known is None or time.monotonic() - known[0] > _KEPT_S:
            line = drawn(self._store, self._encoder)
            if not (known and line and known[1] and line.puts_pictures_as(known[1])):
                with self._remembering:
                    self._stands.clear()
            known = self._drawn = (time.monotonic(), line)
        return known[1]
