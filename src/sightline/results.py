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
class Shown:
    """Something that a notebook shows as HTML, light or dark as its page is, and a terminal as text."""

    html: str
    text: str

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True, slots=True)
class Hits(Sequence[Hit]):
    """What a search found, best first, with the query, the model that understood it, and the time it took.

    `chances` are the cosines that each hit has to reach to be likely what the words mean (see `line`); None where that
    is not known: for queries with pictures in them, and for indexes whose line was never drawn.
    """

    query: str
    model: str
    took_ms: Took
    hits: tuple[Hit, ...]
    chances: tuple[float, ...] | None = None

    @property
    def likely(self) -> tuple[Hit, ...] | None:
        """The hits that score better than chance, None where that is not known."""
        return None if self.chances is None else self._on_side(is_likely=True)

    @property
    def unlikely(self) -> tuple[Hit, ...]:
        """The hits that are nearest, but probably not what the words mean."""
        return () if self.chances is None else self._on_side(is_likely=False)

    @property
    def sides(self) -> tuple[tuple[Hit, ...], tuple[Hit, ...]]:
        """What to show first, and what to show below the line."""
        return (self.hits, ()) if self.likely is None else (self.likely, self.unlikely)

    @property
    def verdict(self) -> str:
        """What stands between the likely hits and the others, nothing where there are no others."""
        if not self.unlikely:
            return ""
        return "nearest, but probably not" if self.likely else "probably nothing here; the nearest are"

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
        first, rest = ([f"{hit.score:6.3f}  {show(hit)}" for hit in hits] for hits in self.sides)
        verdict = [f"{self.verdict}:"] if rest else []
        return "\n".join([f"{count(len(self), 'picture')} for {self.query!r}", *first, *verdict, *rest])

    def _repr_html_(self) -> str:
        return _in_notebook(_section(self))

    def show(self) -> "Shown":
        """What the hits show of themselves in a notebook, as a value to keep."""
        return Shown(self._repr_html_(), str(self))

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints and the HTTP API answers: plain values, datetimes in ISO 8601."""
        took = {"encode": self.took_ms.encode, "search": self.took_ms.search, "total": self.took_ms.total}
        return {
            "query": self.query,
            "model": self.model,
            "took_ms": {stage: round(duration, 2) for stage, duration in took.items()},
            "likely": None if self.likely is None else len(self.likely),
            "hits": [_plain_hit(hit) | line for hit, line in zip(self, self._lines(), strict=True)],
        }

    def _on_side(self, *, is_likely: bool) -> tuple[Hit, ...]:
        pairs = zip(self.hits, self.chances or (), strict=True)
        return tuple(hit for hit, chance in pairs if (hit.score >= chance) == is_likely)

    def _lines(self) -> list[dict[str, Any]]:
        if self.chances is None:
            return [{}] * len(self)
        return [line_of(hit, chance) for hit, chance in zip(self, self.chances, strict=True)]


def line_of(hit: Hit, chance: float) -> dict[str, Any]:
    """From which score on a hit is likely, and whether it is, as JSON has it."""
    return {"line": round(chance, 4), "is_likely": hit.score >= chance}


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
    heading = f"<h1>{escape(title)}</h1>\n" if len(results) > 1 else ""
    return _page(heading + "\n".join(map(_section, results)), title)


def rows_page(rows: Sequence[tuple[str, str, Sequence[Hit]]], *, title: str) -> str:
    """A page of groups of pictures, each with a heading, a line of facts, and the pictures with their scores."""
    sections = [
        f"<section><h2>{escape(heading)}</h2><p class=facts>{escape(facts)}</p>{_scored(hits, '')}</section>"
        for heading, facts, hits in rows
    ]
    return _page(f"<h1>{escape(title)}</h1>\n" + "\n".join(sections), title)


def _page(body: str, title: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f'<body class="sightline page">\n{body}\n</body>\n</html>\n'
    )


def comparison(results: Mapping[str, Sequence[Hits]]) -> Shown:
    """Searches for the same queries by several indexes: for each query a row of pictures for each, best first."""
    html, text = list[str](), list[str]()
    for of_one in zip(*results.values(), strict=True):
        rows = "".join(map(_strip, results, of_one))
        html.append(f'<section class="compared"><h2>{escape(printable(of_one[0].query))}</h2>{rows}</section>')
        text += [
            f"{name}: {hits if hits else f'nothing for {hits.query!r}, model {hits.model}'}"
            for name, hits in zip(results, of_one, strict=True)
        ]
    return Shown(_in_notebook("\n".join(html)), "\n\n".join(text))


def comparison_page(results: Mapping[str, Sequence[Hits]], *, title: str, facts: str = "") -> str:
    """The same as a page; `facts` is text that is shown as it is, below the title: an evaluation, say."""
    head = f"<h1>{escape(title)}</h1>\n" + (f"<pre>{escape(facts)}</pre>\n" if facts else "")
    return _page(head + comparison(results).html, title)


def _strip(name: str, hits: Hits) -> str:
    """One index's row: its name, how sure it is, the pictures."""
    likely = "" if hits.likely is None else f", {len(hits.likely)} likely"
    first = {hit.id for hit in hits.sides[0]}
    figures = "".join(_figure(hit, f"<b>{hit.score:.3f}</b> ", "" if hit.id in first else "unlikely") for hit in hits)
    facts = f"{hits.model}, {hits.took_ms.total:.0f} ms{likely}"
    return (
        f'<div class="strip"><p><b>{escape(name)}</b><br>{escape(facts)}</p>'
        f'<div class="pictures">{figures or "Nothing found."}</div></div>'
    )


def grid(title: str, records: Sequence[Record]) -> str:
    """Some of an index's pictures, for a notebook."""
    figures = "\n".join(_figure(record, "") for record in records)
    return _in_notebook(f"<p class=facts>{escape(title)}</p><div class=grid>{figures}</div>")


def _in_notebook(html: str) -> str:
    return f'<div class="sightline"><style>{_STYLE}</style>{html}</div>'


def _section(hits: Hits) -> str:
    first, rest = hits.sides
    facts = f"{count(len(hits), 'picture')}, {hits.took_ms.total:.0f} ms, model {hits.model}"
    body = f"<h2>{escape(printable(hits.query))}</h2><p class=facts>{escape(facts)}</p>"
    if not hits:
        return f'<section>{body}<p class="none">Nothing found.</p></section>'
    body += _scored(first, "") if first else ""
    if rest:
        body += f"<h3>{escape(hits.verdict.capitalize())}</h3>{_scored(rest, ' unlikely')}"
    return f"<section>{body}</section>"


def _scored(hits: Sequence[Hit], kind: str) -> str:
    figures = "\n".join(_figure(hit, f"<b>{hit.score:.3f}</b> ") for hit in hits)
    return f'<div class="grid{kind}">{figures}</div>'


def _figure(hit: Hit | Record, score: str, kind: str = "") -> str:
    name = printable(str(hit.payload.get("name") or hit.uri))
    width, height = hit.payload.get("width", 1), hit.payload.get("height", 1)
    ratio = f"{width} / {height}"
    caption = f"<figcaption>{score}{escape(name)}</figcaption>"
    return (
        f'<figure class="{kind}" style="--ratio: {escape(ratio)}">'
        f'<a href="{escape(hit.uri)}" title="{escape(printable(show(hit)))}">'
        f"{_picture(hit, name)}</a>{caption}</figure>"
    )


def _picture(hit: Hit | Record, name: str) -> str:
    from sightline.images.thumbnail import thumbnail  # 25 ms that a search in a terminal does not need
    from sightline.sources.base import read_here

    if hit.uri.startswith(("http://", "https://")):
        return f'<img src="{escape(hit.uri)}" alt="{escape(name)}" loading="lazy" referrerpolicy="no-referrer">'
    try:
        data = base64.b64encode(thumbnail(read_here(hit.uri), _SIDE)).decode()
    except (OSError, SightlineError, ValueError):
        return '<span class="gone">not to be read any more</span>'
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(name)}" loading="lazy">'
