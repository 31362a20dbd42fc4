"""What a search found, and how it is shown: as text, in a notebook, and as a page of HTML with the pictures in it."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import repeat, zip_longest
from textwrap import shorten
from typing import Any, TypeAlias, overload

from sightline.errors import ExtraMissing, SightlineError
from sightline.pages import link, render
from sightline.text import count, printable
from sightline.types import Hit, Record, path_of

Evidence: TypeAlias = Mapping[str, Sequence[tuple[int, int]]]
"""Why a picture was found: `meaning`, and the fields with words of the query, with their places in the text."""

_SIDE = 320  # pixels of a thumbnail: sharp at 160 CSS pixels on a dense screen


@dataclass(frozen=True, slots=True)
class Took:
    """How long a search took, in milliseconds: encoding the query, and finding the nearest vectors."""

    encode: float
    search: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.encode + self.search


@dataclass(frozen=True, slots=True)
class Display:
    """What a notebook shows as HTML, light or dark as its page is, and a terminal as text."""

    html: str
    text: str

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True, slots=True)
class Hits(Sequence[Hit]):
    """What a search found, best first, with the query, the model that encoded it, and the time it took.

    `thresholds` are the cosines that each hit has to reach to be likely what the words mean; None where that is not
    known: for queries with pictures in them, and for indexes that were never calibrated. `duplicates` are the ids that
    were folded into each hit, `total` is how many pictures there are for the query; both where they were asked for.
    `evidence` tells of each hit why it was found.
    `note` says what makes them doubtful: words in a language that the model does not read.
    """

    query: str
    model: str
    took_ms: Took
    hits: tuple[Hit, ...]
    thresholds: tuple[float, ...] | None = None
    duplicates: tuple[tuple[str, ...], ...] = ()
    total: int | None = None
    evidence: tuple[Evidence, ...] = ()
    note: str = ""

    @property
    def likely(self) -> tuple[Hit, ...] | None:
        """The hits that are likely what the words mean, None where that is not known."""
        if self.thresholds is None:
            return None
        return tuple(hit for hit, threshold in zip(self.hits, self.thresholds, strict=True) if hit.score >= threshold)

    @property
    def unlikely(self) -> tuple[Hit, ...]:
        """The hits that are near, but probably not what the words mean."""
        pairs = zip(self.hits, self.thresholds or [-2.0] * len(self.hits), strict=True)
        return tuple(hit for hit, threshold in pairs if hit.score < threshold)

    @property
    def sides(self) -> tuple[tuple[Hit, ...], tuple[Hit, ...]]:
        """What to show first, and what to show below the verdict."""
        return (self.hits, ()) if self.likely is None else (self.likely, self.unlikely)

    @property
    def verdict(self) -> str:
        """What stands between the likely hits and the others, nothing where there are no others."""
        if not self.unlikely:
            return ""
        return "Low confidence" if self.likely else "No confident match. Closest results"

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
        first, rest = ([f"{hit.score:6.3f}  {location(hit)}" for hit in hits] for hits in self.sides)
        verdict = [f"{self.verdict}:"] if rest else []
        noted = [self.note] if self.note else []
        return "\n".join([f"{count(len(self), 'picture')} for {self.query!r}", *noted, *first, *verdict, *rest])

    def _repr_html_(self) -> str:
        return render("notebook.html", searches=[_search(self)], compared=[], records=[])

    def show(self) -> Display:
        """What a notebook shows of the hits, as a value to keep."""
        return Display(self._repr_html_(), str(self))

    def with_verdict(self, rows: Sequence[str]) -> list[str]:
        """A row of text for each hit, in the order of scores, with the verdict where the likely hits end.

        An unlikely hit that scores more than a likely one is marked.
        """
        unlikely = {hit.id for hit in self.unlikely}
        end = max((place for place, hit in enumerate(self.hits, 1) if hit.id not in unlikely), default=0)
        marked = [
            f"{row}  (low confidence)" if hit.id in unlikely else row
            for hit, row in zip(self.hits[:end], rows, strict=False)
        ]
        return [*marked, *([f"{self.verdict}:"] if end < len(self.hits) else []), *rows[end:]]

    def with_plain_payloads(self) -> "Hits":
        """The same with payloads that `json.dumps` takes: moments as text in ISO 8601."""
        return replace(self, hits=tuple(replace(hit, payload=plain(hit.payload)) for hit in self.hits))

    def sorted_by(self, order: str, offset: int, k: int) -> "Hits":
        """The likely hits from `offset` on in another order, all hits where it is not known which are likely."""
        likely = {hit.id for hit in self.hits if self.likely is None or hit in self.likely}
        keys = {at: sort_key(hit, order) for at, hit in enumerate(self.hits) if hit.id in likely}
        places = sorted(keys, key=keys.__getitem__)[offset : offset + k]

        def chosen(parts: tuple[Any, ...] | None) -> Any:
            return tuple(parts[at] for at in places) if parts else parts

        return replace(
            self,
            hits=chosen(self.hits),
            thresholds=chosen(self.thresholds),
            duplicates=chosen(self.duplicates),
            evidence=chosen(self.evidence),
            total=len(keys),
        )

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`, a row for each hit: id, uri, path, score, and a column for each field of a payload."""
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ExtraMissing("a table of hits needs pandas, which is not installed: pip install pandas") from error
        known = ("id", "uri", "path", "score")
        return DataFrame(
            [
                {"id": hit.id, "uri": hit.uri, "path": hit.path, "score": hit.score}
                | {name if name not in known else f"payload_{name}": value for name, value in hit.payload.items()}
                for hit in self
            ],
            columns=None if self.hits else known,
        )

    def plot(self, *, columns: int = 5, side: float = 2.4) -> Any:
        """A `matplotlib` figure with the pictures in a grid, each `side` inches wide, below it score and caption."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ExtraMissing("a plot needs matplotlib, which is not installed: pip install matplotlib") from error
        columns = max(1, min(columns, len(self)))
        rows = max(1, -(-len(self) // columns))
        figure = Figure(figsize=(columns * side, rows * side * 1.25), layout="constrained")
        figure.suptitle(printable(self.query))
        for axes, hit in zip_longest(figure.subplots(rows, columns, squeeze=False).flat, self):
            axes.axis("off")
            if hit is None:
                continue
            text = hit.payload.get("caption") or hit.payload.get("title") or hit.payload.get("name") or hit.uri
            axes.set_title(f"{hit.score:.3f}\n{shorten(printable(str(text)), 36)}", fontsize=8)
            with suppress(OSError, SightlineError, ValueError):  # one that is gone leaves its place empty
                image = hit.image()
                image.thumbnail((_SIDE, _SIDE))
                axes.imshow(image)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints and the HTTP API answers: plain values, datetimes in ISO 8601."""
        took = {"encode": self.took_ms.encode, "search": self.took_ms.search, "total": self.took_ms.total}
        return {
            "query": self.query,
            "model": self.model,
            "took_ms": {stage: round(duration, 2) for stage, duration in took.items()},
            "likely": None if self.likely is None else len(self.likely),
            **({"note": self.note} if self.note else {}),
            "hits": [
                {"id": hit.id, "uri": hit.uri, "score": round(hit.score, 4), "payload": plain(hit.payload)}
                | ({} if threshold is None else line_of(hit, threshold))
                | {"evidence": evidence}
                for hit, threshold, evidence in zip(
                    self.hits, self.thresholds or repeat(None), self.evidence or repeat({}), strict=False
                )
            ],
        }


def line_of(hit: Hit, threshold: float) -> dict[str, Any]:
    """The score from which a hit is likely, and whether it is, as JSON has it."""
    return {"line": round(threshold, 4), "is_likely": hit.score >= threshold}


def plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload with values that JSON can hold."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in payload.items()}


def sort_key(found: Hit | Record, order: str) -> tuple[Any, ...]:
    """What sorts pictures: newest or oldest first (`taken`, else `modified`), by name, or the largest first."""
    payload = found.payload
    if order == "name":
        return (str(payload.get("name", "")).casefold(), found.id)
    if order == "size":
        size = payload.get("size_bytes")
        return (-size if isinstance(size, int) else 0, found.id)
    times = (payload.get(name) for name in ("taken", "modified"))
    moment = next((one.timestamp() for one in times if isinstance(one, datetime)), None)
    return (moment is None, (moment or 0) * (1 if order == "oldest" else -1), found.id)


def location(hit: Hit | Record) -> str:
    """Where the picture is, as a person would write it: a path for a file, else the URI."""
    return str(path_of(hit.uri)) if hit.uri.startswith("file:///") else hit.uri


def page(results: Sequence[Hits], *, title: str) -> str:
    """One self-contained page of HTML: a section for each search, the pictures embedded as thumbnails."""
    return _page(title, has_heading=len(results) > 1, searches=[_search(hits) for hits in results])


def groups_page(groups: Sequence[tuple[str, str, Sequence[Hit | Record]]], *, title: str) -> str:
    """A page of groups of pictures, each with a heading, a line of facts, and the pictures with their scores."""
    shown = [
        {"heading": heading, "facts": facts, "pictures": [_picture(hit) for hit in hits]}
        for heading, facts, hits in groups
    ]
    return _page(title, groups=shown)


def comparison(results: Mapping[str, Sequence[Hits]]) -> Display:
    """Searches for the same queries by several indexes: for each query a row of pictures for each, best first."""
    text = [
        f"{name}: {hits if hits else f'nothing for {hits.query!r}, model {hits.model}'}"
        for of_one in zip(*results.values(), strict=True)
        for name, hits in zip(results, of_one, strict=True)
    ]
    html = render("notebook.html", searches=[], compared=_compared(results), records=[])
    return Display(html, "\n\n".join(text))


def comparison_page(results: Mapping[str, Sequence[Hits]], *, title: str, facts: str = "") -> str:
    """The same as a page; `facts` is text that is shown as it is, below the title: an evaluation, say."""
    return _page(title, facts=facts, compared=_compared(results))


def grid(title: str, records: Sequence[Record]) -> str:
    """Some of an index's pictures, for a notebook."""
    pictures = [_picture(record) for record in records]
    return render("notebook.html", searches=[], compared=[], records=pictures, title=title)


def embedded(data: bytes, side: int) -> str:
    """A small WebP of a picture's bytes as a data URL; raises `ImageError`."""
    from sightline.images.read import thumbnail  # 25 ms that a search in a terminal does not need

    return f"data:image/webp;base64,{base64.b64encode(thumbnail(data, side)).decode()}"


def _page(title: str, *, has_heading: bool = True, facts: str = "", **parts: Any) -> str:
    parts = {"searches": [], "groups": [], "compared": []} | parts
    return render("results.html", title=title, heading=has_heading, facts=facts, **parts)


def _search(hits: Hits) -> dict[str, Any]:
    likely, unlikely = hits.sides
    return {
        "query": printable(hits.query),
        "facts": f"{count(len(hits), 'picture')}, {hits.took_ms.total:.0f} ms, model {hits.model}"
        + (f"; {printable(hits.note)}" if hits.note else ""),
        "verdict": hits.verdict,
        "likely": [_picture(hit) for hit in likely],
        "unlikely": [_picture(hit) for hit in unlikely],
    }


def _compared(results: Mapping[str, Sequence[Hits]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """For each query its words, and of each index a strip: its name, how sure it is, the pictures."""
    compared = []
    for of_one in zip(*results.values(), strict=True):
        strips = list[dict[str, Any]]()
        for name, hits in zip(results, of_one, strict=True):
            likely = "" if hits.likely is None else f", {len(hits.likely)} likely"
            unlikely = {hit.id for hit in hits.unlikely}
            pictures = [_picture(hit, "unlikely" if hit.id in unlikely else "") for hit in hits]
            facts = f"{hits.model}, {hits.took_ms.total:.0f} ms{likely}"
            strips.append({"name": name, "facts": facts, "pictures": pictures})
        compared.append((printable(of_one[0].query), strips))
    return compared


def _picture(hit: Hit | Record, kind: str = "") -> dict[str, Any]:
    """What the templates show of a picture; its source is its address on the web, or itself where it can be read."""
    from sightline.sources.base import read_here

    source = hit.uri if hit.uri.startswith(("http://", "https://")) else None
    with suppress(OSError, SightlineError, ValueError):
        source = source or embedded(read_here(hit.uri), _SIDE)
    return {
        "kind": kind,
        "link": link(hit.uri),
        "location": printable(location(hit)),
        "name": printable(str(hit.payload.get("name") or hit.uri)),
        "score": f"{hit.score:.3f}" if isinstance(hit, Hit) else None,
        "source": source,
        "width": _pixels(hit.payload.get("width")),
        "height": _pixels(hit.payload.get("height")),
    }


def _pixels(value: object) -> int:
    """A side, for a style: a payload from elsewhere may hold anything there."""
    return value if isinstance(value, int) and value > 0 else 1
