"""A source: a Hugging Face data set, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from sightline.errors import SourceError, WebError, needing, summary
from sightline.sources.rows import Row, Rows
from sightline.sources.table import Remote, TableSource, table_of
from sightline.text import printable
from sightline.types import Item

if TYPE_CHECKING:
    from sightline.sources.base import Opening

_ANSWER_S = 5.0
_OPTIONS = ("split", "config", "revision", "image", "caption")


def open_dataset(url: str, opening: Opening) -> TableSource:
    """The pictures of hf://datasets/OWNER/NAME?split=train&config=..&image=..&caption=.., without fetching it whole.

    Without `split` all of them, each picture knows its own. A folder on this disk may stand for OWNER/NAME. Labels
    become their names. Raises `SourceError` if it cannot be had, `ExtraMissing` without the package `datasets`.
    """
    url, options = url.partition("#")[0], _options(url)
    splits = _loaded(url, options)
    image = options.get("image") or opening.image or _picture_column(next(iter(splits.values())))
    rows = Rows(printable(url), _columns(splits, image), partial(_walk, url, splits, image))
    opening = replace(opening, image=image, caption=options.get("caption") or opening.caption)
    return table_of(url, rows, opening, base=Path(_name(url)), is_stream=True)


def row_item(url: str, opening: Opening) -> Item:
    """One picture of a data set, by the number of its row after the #; `SourceError` if it is not there."""
    whole, _, number = url.partition("#")
    if not number.isdecimal():
        raise SourceError(f"{url} names no row, expected a number after the #: check the URI")
    table = open_dataset(whole, opening)
    splits = _loaded(whole, _options(whole))
    if len(splits) == 1:  # a stream is skipped by whole files where it can be
        ((split, dataset),) = splits.items()
        row = next(_walk(whole, {split: dataset.skip(int(number) - 1)}, table.image_column), None)
    else:
        row = next(islice(table.rows.walk(), int(number) - 1, None), None)
    for item in replace(table, rows=replace(table.rows, read=lambda: iter([row] if row else []))):
        return replace(item, uri=url)
    raise SourceError(f"{whole} has no picture in row {number}, expected one: index the data set again")


def _options(url: str) -> dict[str, str]:
    options = dict(parse_qsl(urlsplit(url).query))
    if wrong := next((name for name in options if name not in _OPTIONS), None):
        raise SourceError(f"{url} has the option {wrong!r}, expected some of {', '.join(_OPTIONS)}: check the URL")
    return options


def _name(url: str) -> str:
    """OWNER/NAME, or the path of a folder."""
    return url.removeprefix("hf://").removeprefix("datasets/").partition("?")[0].partition("#")[0]


def _loaded(url: str, options: Mapping[str, str]) -> dict[str, Any]:
    """The streams of a data set, by split, with pictures left undecoded."""
    with needing(url, "datasets"):
        import datasets
    split = options.get("split")
    if not Path(_name(url)).exists() and not datasets.config.HF_HUB_OFFLINE:
        from sightline.web.client import see_that_it_answers

        try:  # within seconds: the package tries for half a minute, and tells of each try
            see_that_it_answers(datasets.config.HF_ENDPOINT, answer_s=_ANSWER_S)
        except WebError as error:
            raise SourceError(
                f"{url} is not available, {error}: try again where there is a network, or name a folder "
                "(hf://datasets/./folder)"
            ) from error
    try:
        loaded = datasets.load_dataset(
            _name(url), options.get("config"), split=split, revision=options.get("revision"), streaming=True
        )
    except Exception as error:  # the package and its clients raise what they like
        raise SourceError(
            f"{url} cannot be had ({summary(error)}), expected a data set of the hub or a folder: check the name, the "
            "configuration, the split, and the network"
        ) from error
    splits: dict[str, Any] = {split: loaded} if split else dict(loaded)
    for name, dataset in splits.items():
        for column, feature in (dataset.features or {}).items():
            if isinstance(feature, datasets.Image):
                splits[name] = splits[name].cast_column(column, datasets.Image(decode=False))
    return splits


def _picture_column(dataset: Any) -> str | None:
    """The first column of pictures; None if there are only texts, one of which may hold URLs."""
    features = dataset.features or {}
    return next((name for name, feature in features.items() if type(feature).__name__ == "Image"), None)


def _columns(splits: Mapping[str, Any], image: str | None) -> tuple[str, ...]:
    dataset = next(iter(splits.values()))
    features = dataset.features
    if features is None:  # a stream of text files: the first row tells
        return (*next(iter(dataset), {}), "split")
    return (*(name for name, feature in features.items() if name == image or _is_plain(feature)), "split")


def _is_plain(feature: Any) -> bool:
    """Whether a column says something that can be filtered by: no arrays, sounds or vectors."""
    kind = type(feature).__name__
    if kind in ("List", "LargeList", "Sequence"):
        return getattr(feature.feature, "dtype", "") in ("string", "large_string")
    return kind in ("Value", "ClassLabel")


def _walk(url: str, splits: Mapping[str, Any], image: str | None) -> Iterator[Row]:
    for split, dataset in splits.items():
        labels = {name: f.names for name, f in (dataset.features or {}).items() if type(f).__name__ == "ClassLabel"}
        try:
            for row in dataset:
                row = {"split": split, **row}
                for name, names in labels.items():
                    if isinstance(row[name], int) and 0 <= row[name] < len(names):  # -1 stands for none
                        row[name] = names[row[name]]
                cell = row.get(image) if image else None
                if isinstance(cell, dict) and cell.get("bytes") is None and "://" in str(cell.get("path")):
                    row[image] = _remote(str(cell["path"]))
                yield row
        except Exception as error:  # as above
            raise SourceError(f"{url} breaks off ({summary(error)}), expected the rest of it: run it again") from error


def _remote(path: str) -> Remote:
    """A picture that is a file of its own, on the hub or in an archive there, is fetched when it is read."""

    def read() -> bytes:
        import fsspec

        try:
            with fsspec.open(path, "rb") as file:
                return bytes(file.read())
        except Exception as error:  # as above
            raise SourceError(f"{printable(path)} cannot be fetched ({summary(error)}): try again later") from error

    return Remote(path.partition("::")[0].rpartition("/")[2], read)
