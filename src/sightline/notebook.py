"""Compare the results of several indexes in a notebook: `compare({"clip": a, "cnn": b}, "a red car")`.

A single search shows itself: `index.search("a red car")`, or `.show()` of it to keep what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sightline.fusion import search_each
from sightline.index import Index
from sightline.pictures import Picture
from sightline.results import Display, comparison


def compare(indexes: Mapping[str, Index | str], query: Picture | Sequence[Picture], *, k: int = 8) -> Display:
    """Rows of pictures with their scores, one for each index, for words, a `Path` to a picture, or several of them.

    An index is given as it is or by its URL. One whose model has no text encoder has an empty row for them.
    """
    queries = list(query) if isinstance(query, Sequence) and not isinstance(query, str | bytes) else [query]
    return comparison(search_each(indexes, queries, k=k))
