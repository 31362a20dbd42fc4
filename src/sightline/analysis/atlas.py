"""Pictures with their places turned into a map: one page of HTML with everything in it, to pan, zoom and colour."""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from io import BytesIO
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sightline.errors import SightlineError
from sightline.images.read import read
from sightline.sources.base import read_here
from sightline.text import printable
from sightline.types import Payload, Record

_TILE = 64  # pixels of a thumbnail
_ACROSS = 32  # thumbnails in a row of a sheet
_PER_SHEET = _ACROSS * _ACROSS  # 2,048 x 2,048 pixels, which every browser can hold
_MOST_COLOURS = 8  # values that get a colour of their own; more cannot be told apart
_TEMPLATE = (Path(__file__).parent / "atlas.html").read_text("utf-8")


def page(records: Sequence[Record], places: NDArray[np.float32], *, title: str, cache: Path | None = None) -> str:
    """The page for n records at (n, 2) places in 0 to 1.

    Thumbnails come from the files, from archives and videos, and from what the folder `cache` keeps of the web; what
    cannot be had is a grey tile.
    """
    colours = {"folder": [_folder(record) for record in records]}
    if any("tags" in record.payload for record in records):
        colours = {"tag": _first_tags([record.payload for record in records])} | colours
    several = {field: of_each for field, of_each in colours.items() if len(set(of_each)) > 1}
    values = {field: _numbered(of_each) for field, of_each in several.items()}
    data = {
        "title": title,
        "places": np.round(places.astype(float), 4).tolist(),
        "names": [printable(str(record.payload.get("name") or record.uri.rpartition("/")[2])) for record in records],
        "uris": [record.uri for record in records],
        "colours": {field: {"names": names, "of": of_each} for field, (names, of_each) in values.items()},
        "tile": _TILE,
        "across": _ACROSS,
        "sheets": _sheets(records, cache),
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # nothing in it can end the script
    return _TEMPLATE.replace("{{title}}", escape(title)).replace("{{data}}", text)


def _sheets(records: Sequence[Record], cache: Path | None) -> list[str]:
    """Thumbnails side by side in large pictures, as data addresses."""
    sheets = []
    with ThreadPoolExecutor() as workers:
        for start in range(0, len(records), _PER_SHEET):
            few = records[start : start + _PER_SHEET]
            sheet = Image.new("RGB", (_ACROSS * _TILE, -(-len(few) // _ACROSS) * _TILE), "#808080")
            order = sorted(range(len(few)), key=lambda at: few[at].uri)  # those of one archive together
            for at, tile in zip(order, workers.map(_tile, (few[at].uri for at in order), repeat(cache)), strict=False):
                if tile is not None:
                    sheet.paste(tile, (at % _ACROSS * _TILE, at // _ACROSS * _TILE))
            data = BytesIO()
            sheet.save(data, "WEBP", quality=72)
            sheets.append(f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}")
    return sheets


def _tile(uri: str, cache: Path | None) -> Image.Image | None:
    try:
        return ImageOps.fit(read(read_here(uri, cache), image_size=_TILE), (_TILE, _TILE))
    except (OSError, SightlineError, ValueError):
        return None


def _folder(record: Record) -> str:
    """The name of the folder that a picture lies in."""
    return printable(record.uri.rpartition("/")[0].rpartition("/")[2])


def _first_tags(payloads: Iterable[Payload]) -> list[str]:
    """One tag for each picture: of those it has the one that most pictures have."""
    tags = [tags if isinstance(tags := payload.get("tags", []), list) else [str(tags)] for payload in payloads]
    frequent = Counter(tag for of_one in tags for tag in of_one)
    return [max(of_one, key=lambda tag: (frequent[tag], tag), default="") for of_one in tags]


def _numbered(values: Sequence[str]) -> tuple[list[str], list[int]]:
    """The most frequent values, and for each picture the number of its own, -1 for one that is rare or none."""
    frequent = [value for value, _ in Counter(value for value in values if value).most_common(_MOST_COLOURS)]
    numbers = {value: number for number, value in enumerate(frequent)}
    return frequent, [numbers.get(value, -1) for value in values]
