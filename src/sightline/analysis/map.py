"""Draw an index as a map: vectors are projected onto a plane, and one page of HTML shows the pictures there."""

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sightline.errors import ExtraMissing, SightlineError, UsageError
from sightline.images.read import read
from sightline.pages import link, render
from sightline.sources.base import read_here
from sightline.text import printable
from sightline.types import Payload, Record, Vectors

METHODS = ("auto", "pca", "umap")
_NEIGHBOURS = 15  # that UMAP keeps together
_TILE = 64  # pixels of a thumbnail
_ACROSS = 32  # thumbnails in a row of a sheet
_PER_SHEET = _ACROSS * _ACROSS  # 2,048 x 2,048 pixels, which every browser can hold
_MOST_COLOURS = 8  # values that get a colour of their own; more cannot be told apart


def project(vectors: Vectors, method: str = "auto") -> tuple[NDArray[np.float32], str]:
    """(n, dim) -> (n, 2) in 0 to 1, and how: by UMAP where it is installed, else by principal components.

    UMAP (McInnes et al. 2018, arXiv:1802.03426) keeps neighbours together; PCA keeps large distances, and is exact and
    quick. Raises `ExtraMissing` where UMAP was asked for and is not there.
    """
    if method not in METHODS:
        raise UsageError(f"the method is {method!r}, expected one of {', '.join(METHODS)}")
    is_here = find_spec("umap") is not None
    if method == "umap" and not is_here:
        raise ExtraMissing("--method umap needs 'umap-learn', which is not installed: pip install umap-learn")
    if method == "pca" or not is_here or len(vectors) <= _NEIGHBOURS:
        return _in_unit_square(principal_components(vectors)), "pca"
    umap = import_module("umap").UMAP(n_neighbors=_NEIGHBOURS, metric="cosine", random_state=0, n_jobs=1)
    places: NDArray[np.float32] = umap.fit_transform(vectors)
    return _in_unit_square(places), "umap"


def principal_components(vectors: Vectors) -> NDArray[np.float32]:
    """(n, dim) -> (n, 2): along the two directions in which the vectors vary most (Hotelling 1933).

    The sign of each direction is that of its largest part, so that a second run draws the same map.
    """
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # (dim, n) @ (n, dim) -> (dim, dim)
    two = directions[:, : -min(3, directions.shape[1] + 1) : -1]  # the last ones vary most
    two = two * np.sign(two[np.abs(two).argmax(axis=0), np.arange(two.shape[1])])
    return np.asarray(centred @ two, np.float32)  # (n, dim) @ (dim, 2) -> (n, 2)


def page(records: Sequence[Record], places: NDArray[np.float32], *, title: str, cache: Path | None = None) -> str:
    """The page for n records at (n, 2) places in 0 to 1.

    Thumbnails come from the files, from archives and videos, and from what the folder `cache` keeps of the web; what
    is not available is a grey tile.
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
        "uris": [link(record.uri) or "" for record in records],
        "colours": {field: {"names": names, "of": of_each} for field, (names, of_each) in values.items()},
        "tile": _TILE,
        "across": _ACROSS,
        "sheets": _sheets(records, cache),
    }
    return render("map.html", title=title, data=data)


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


def _in_unit_square(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Moved and scaled, with the same scale for both; a few far ones are drawn in to the edge."""
    low, high = np.percentile(places, [0.5, 99.5], axis=0)
    scale = max(float((high - low).max()), 1e-9)
    middle = (low + high) / 2
    return np.asarray(np.clip((places - middle) / scale + 0.5, -0.02, 1.02), np.float32)
