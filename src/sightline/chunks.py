"""Split values of any kind into lists of a few."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of that many values, the last one shorter. None is kept once it was given away, as a generator would."""
    iterator = iter(values)
    return iter(lambda: list(islice(iterator, size)), [])
