"""A source: a Hugging Face data set, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sightline.errors import ExtraMissing, SourceError, WebError
from sightline.sources.rows import Row, Rows
from sightline.sources.table import Remote, TableSource, table_of
from sightline.sources.web import Downloader
from sightline.text import printable
from sightline.types import Item

_ANSWER_S = 5.0
_OPTIONS = ("split", "config", "revision", "image", "caption")


def open_dataset(
    url: str, *, downloader: Downloader, image: str | None = None, caption: str | None = None
) -> TableSource:
    """The pictures of hf://datasets/OWNER/NAME?split=train&config=..&image=..&caption=.., without fetching it whole.

    Without `split` all of them, each picture knows its own. A folder on this disk may stand for OWNER/NAME. Labels
    become their names. Raises `SourceError` if it cannot be had, `ExtraMissing` without the package `datasets`.
    """
    url, options = url.partition("#")[0], _options(url)
    splits = _loaded(url, options)
    image = options.get("image") or image or _picture_column(url, next(iter(splits.values())))
    rows = Rows(_columns(splits, image), partial(_walk, url, splits, image))
    caption = options.get("caption") or caption
    return table_of(
        url, rows, downloader=downloader, image=image, caption=caption, base=Path(_name(url)), is_stream=True
    )


def row_item(url: str, *, downloader: Downloader, image: str | None = None, caption: str | None = None) -> Item:
    """One picture of a data set, by the number of its row after the #; `SourceError` if it is not there."""
    whole, _, number = url.partition("#")
    if not number.isdecimal():
        raise SourceError(f"{url} names no row, expected a number after the #: check the URI")
    table = open_dataset(whole, downloader=downloader, image=image, caption=caption)
    splits = _loaded(whole, _options(whole))
    if len(splits) == 1:  # a stream is skipped by whole files where it can be
        ((split, dataset),) = splits.items()
        row = next(_walk(whole, {split: dataset.skip(int(number) - 1)}, table.image_column), None)
    else:
        row = next(islice(table.rows.walk(), int(number) - 1, None), None)
    for item in replace(table, rows=Rows(table.rows.columns, lambda: iter([row] if row else []))):
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
    try:
        import datasets
    except ImportError as error:
        raise ExtraMissing(
            f"{url} needs 'datasets', which is not installed: pip install 'sightline[datasets]'"
        ) from error
    split = options.get("split")
    if not Path(_name(url)).exists() and not datasets.config.HF_HUB_OFFLINE:
        _see_that_the_hub_answers(url, datasets.config.HF_ENDPOINT)
    try:
        loaded = datasets.load_dataset(
            _name(url), options.get("config"), split=split, revision=options.get("revision"), streaming=True
        )
    except Exception as error:  # the package and its clients raise what they like
        raise SourceError(
            f"{url} cannot be had ({_told(error)}), expected a data set of the hub or a folder: check the name, the "
            "configuration, the split, and the network"
        ) from error
    splits = {split: loaded} if split else dict(loaded)
    return {name: _undecoded(datasets, dataset) for name, dataset in splits.items()}


def _see_that_the_hub_answers(url: str, endpoint: str) -> None:
    """Within seconds: the package tries for half a minute, and tells of each try."""
    from sightline.web.client import see_that_it_answers

    try:
        see_that_it_answers(endpoint, answer_s=_ANSWER_S)
    except WebError as error:
        raise SourceError(
            f"{url} is not available, {error}: try again where there is a network, or name a folder "
            "(hf://datasets/./folder)"
        ) from error


def _undecoded(datasets: Any, dataset: Any) -> Any:
    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return dataset


def _picture_column(url: str, dataset: Any) -> str | None:
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
        return _is_text(feature.feature)
    return kind in ("Value", "ClassLabel")


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", "") in ("string", "large_string")


def _walk(url: str, splits: Mapping[str, Any], image: str | None) -> Iterator[Row]:
    for split, dataset in splits.items():
        labels = {name: f.names for name, f in (dataset.features or {}).items() if type(f).__name__ == "ClassLabel"}
        try:
            for row in dataset:
                named = {name: names[row[name]] for name, names in labels.items() if _is_label(row[name], names)}
                yield {"split": split, **row, **named, **_remote(row, image)}
        except Exception as error:  # as above
            raise SourceError(f"{url} breaks off ({_told(error)}), expected the rest of it: run it again") from error


def _is_label(value: Any, names: list[str]) -> bool:
    return isinstance(value, int) and 0 <= value < len(names)  # -1 stands for none


def _remote(row: Row, image: str | None) -> Row:
    """A picture that is a file of its own, on the hub or in an archive there, is fetched when it is read."""
    cell = row.get(image) if image else None
    if not isinstance(cell, dict) or cell.get("bytes") is not None or "://" not in str(cell.get("path")):
        return {}
    path = str(cell["path"])
    return {str(image): Remote(path.partition("::")[0].rpartition("/")[2], partial(_fetched, path))}


def _fetched(path: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except Exception as error:  # as above
        raise SourceError(f"{printable(path)} cannot be fetched ({_told(error)}): try again later") from error


def _told(error: Exception) -> str:
    return printable(str(error).splitlines()[0] if str(error) else type(error).__name__)[:200]
