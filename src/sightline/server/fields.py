"""The fields that a filter names, held against those that pictures have: a misspelt one would find nothing, unsaid."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any

from sightline.errors import WhereError
from sightline.stores.base import Store
from sightline.types import Where

_USUAL = frozenset(
    "name folders size_bytes modified width height format taken camera latitude longitude caption title sha256".split()
)
"""What indexing writes: a filter on these is no mistake, even if no picture of this index happens to have one."""

_LOOKED_AT = 1000  # pictures, for the fields that a message lists
_LISTED = 30


class Fields:
    """The fields of one store's pictures, as far as filters have named them."""

    def __init__(self) -> None:
        self._known = set(_USUAL)

    def check(self, where: Where, store: Store) -> None:
        """`WhereError` for a field that no picture has; an index without pictures knows none, and takes all.

        Each field is looked for in the store once, so that one which another process has just added is known.
        """
        for name in sorted(set(_named(where)) - self._known):
            if store.count({name: {"$exists": True}}):
                self._known.add(name)
            elif store.count():
                raise WhereError(_unknown(name, store))

    def are_known(self, where: Where) -> bool:
        """Whether the store need not be asked."""
        return self._known.issuperset(_named(where))


def _named(where: Mapping[str, Any]) -> Iterator[str]:
    """The fields of a filter, without those of which only the existence is asked."""
    for name, operand in where.items():
        if name == "$not" and isinstance(operand, Mapping):
            yield from _named(operand)
        elif name in ("$and", "$or") and isinstance(operand, list):
            for part in operand:
                yield from _named(part) if isinstance(part, Mapping) else ()
        elif not name.startswith("$") and not (isinstance(operand, Mapping) and operand.keys() == {"$exists"}):
            yield name


def _unknown(name: str, store: Store) -> str:
    fields = {field for record in islice(store.scan(), _LOOKED_AT) for field in record.payload} - {"stamp"}
    near = get_close_matches(name, sorted(fields), n=1)
    advice = f"did you mean {near[0]!r}?" if near else "/api/facets tells what the pictures have"
    listed = ", ".join(sorted(fields)[:_LISTED])
    return f"no picture has the field {name[:60]!r} that the filter names, expected one of {listed}: {advice}"
