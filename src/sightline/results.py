"""Hits shown to people: as lines in a terminal, a grid in a notebook, a page of HTML with the pictures in it."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, overload

from sightline.errors import SightlineError
from sightline.sources.folder import path_of
from sightline.text import count, printable
from sightline.types import Hit, Record

_SIDE = 320  # pixels of a thumbnail: sharp at 160 CSS pixels on a dense screen
_STYLE = (Path(__file__).parent / "results.css").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Took:
    """How long a search took, in milliseconds: turning the query into a vector, and finding the nearest ones."""

    encode: float
    search: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.encode + self.search


@dataclass(frozen=True, slots=True)
class Hits(Sequence[Hit]):
    """What a search found, best first, with the query, the model that understood it, and the time it took."""

    query: str
    model: str
    took_ms: Took
    hits: tuple[Hit, ...]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __str__(self) -> str:
        lines = [f"{hit.score:6.3f}  {show(hit)}" for hit in self]
        return "\n".join([f"{count(len(self), 'picture')} for {self.query!r}", *lines])

    def _repr_html_(self) -> str:
        return _in_notebook(_section(self))

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints and the HTTP API answers: plain values, datetimes in ISO 8601."""
        took = {"encode": self.took_ms.encode, "search": self.took_ms.search, "total": self.took_ms.total}
        return {
            "query": self.query,
            "model": self.model,
            "took_ms": {stage: round(duration, 2) for stage, duration in took.items()},
            "hits": [_plain_hit(hit) for hit in self],
        }


def plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload with values that JSON can hold."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in payload.items()}


def _plain_hit(hit: Hit) -> dict[str, Any]:
    return {"id": hit.id, "uri": hit.uri, "score": round(hit.score, 4), "payload": plain(hit.payload)}


def show(hit: Hit | Record) -> str:
    """Where the picture is, as a person would write it: a path for a file, else the URI."""
    return str(path_of(hit.uri)) if hit.uri.startswith("file:") else hit.uri


def page(results: Sequence[Hits], *, title: str) -> str:
    """One self-contained page of HTML: a section for each search, the pictures embedded as thumbnails."""
    sections = "\n".join(map(_section, results))
    heading = f"<h1>{escape(title)}</h1>\n" if len(results) > 1 else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f'<body class="sightline page">\n{heading}{sections}\n</body>\n</html>\n'
    )


def grid(title: str, records: Sequence[Record]) -> str:
    """Some of an index's pictures, for a notebook."""
    figures = "\n".join(_figure(record, "") for record in records)
    return _in_notebook(f"<p class=facts>{escape(title)}</p><div class=grid>{figures}</div>")


def _in_notebook(html: str) -> str:
    return f'<div class="sightline"><style>{_STYLE}</style>{html}</div>'


def _section(hits: Hits) -> str:
    figures = (
        "\n".join(_figure(hit, f"<b>{hit.score:.3f}</b> ") for hit in hits) or '<p class="none">Nothing found.</p>'
    )
    facts = f"{count(len(hits), 'picture')}, {hits.took_ms.total:.0f} ms, model {hits.model}"
    query = f"<h2>{escape(printable(hits.query))}</h2><p class=facts>{escape(facts)}</p>"
    return f"<section>{query}<div class=grid>{figures}</div></section>"


def _figure(hit: Hit | Record, score: str) -> str:
    name = printable(str(hit.payload.get("name") or hit.uri))
    width, height = hit.payload.get("width", 1), hit.payload.get("height", 1)
    ratio = f"{width} / {height}"
    caption = f"<figcaption>{score}{escape(name)}</figcaption>"
    return (
        f'<figure style="--ratio: {escape(ratio)}"><a href="{escape(hit.uri)}" title="{escape(printable(show(hit)))}">'
        f"{_picture(hit, name)}</a>{caption}</figure>"
    )


def _picture(hit: Hit | Record, name: str) -> str:
    from sightline.images.thumbnail import thumbnail  # 25 ms that a search in a terminal does not need

    try:
        data = base64.b64encode(thumbnail(path_of(hit.uri).read_bytes(), _SIDE)).decode()
    except (OSError, SightlineError, ValueError):
        return '<span class="gone">not to be read any more</span>'
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(name)}" loading="lazy">'
