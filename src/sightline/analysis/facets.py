"""Summarise the payload fields of an index for filters: kind, range, and the values where they are few."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sightline.filters.dates import is_local_time
from sightline.types import Payload, Value

NOT_OFFERED = frozenset({"sha256", "stamp", "name", "uri"})
"""Fields that nearly every picture has another value in."""

_MOST_VALUES = 40  # shown of one field; a field with more different ones is no choice but a search
_MOST_FOLDERS = 500


@dataclass(frozen=True, slots=True)
class Facet:
    """One field. `kind` is text, number, truth, time or list; `values` are (value, count), the most frequent first.

    `least` and `most` are of numbers and times. Texts of more than 40 different values come without values.
    """

    field: str
    kind: str
    count: int
    values: tuple[tuple[Value, int], ...] = ()
    least: float | datetime | None = None
    most: float | datetime | None = None


def facets(payloads: Iterable[Payload]) -> list[Facet]:
    """The facets of some pictures, in order of field name, with memory that does not grow with their number."""
    fields: dict[str, _Field] = {}
    for payload in payloads:
        for name, value in payload.items():
            if name not in NOT_OFFERED and not is_local_time(name, value):
                fields.setdefault(name, _Field(name)).add(value)
    return [fields[name].facet() for name in sorted(fields)]


class _Field:
    """What was seen of one field."""

    def __init__(self, name: str) -> None:
        self.name, self.kind, self.count = name, "", 0
        self._most_values = _MOST_FOLDERS if name == "folders" else _MOST_VALUES
        self._values: Counter[Value] | None = Counter()
        self._least: float | datetime | None = None
        self._most: float | datetime | None = None

    def add(self, value: Value) -> None:
        self.kind = self.kind or _kind(value)
        if _kind(value) != self.kind:
            return
        self.count += 1
        if isinstance(value, int | float | datetime) and not isinstance(value, bool):
            self._least = value if self._least is None else min(self._least, value)
            self._most = value if self._most is None else max(self._most, value)
        if self._values is not None:
            self._values.update(value if isinstance(value, list) else [value])
            if len(self._values) > 20 * self._most_values:
                self._values = None

    def facet(self) -> Facet:
        values = self._values or Counter()
        few = values.most_common() if len(values) <= self._most_values else []
        if self.name == "folders":
            few = values.most_common(self._most_values)
        return Facet(self.name, self.kind, self.count, tuple(few), self._least, self._most)


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "list" if isinstance(value, list) else "time" if isinstance(value, datetime) else "text"
