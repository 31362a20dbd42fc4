"""What stands beside a picture: captions, keywords, times and places in files of their own.

Known are img2dataset's and WebDataset's .txt, .caption, .cls and .json of the same name, XMP files (`a.xmp`,
`a.jpg.xmp`), Google Takeout's JSON (`a.jpg.json`, `a.jpg.supplemental-metadata.json`), and a folder's metadata.csv or
metadata.jsonl in the layout of Hugging Face's ImageFolder. Where two of them tell the same thing, the one further on
in this list wins: XMP, JSON, caption and label files, the folder's table.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sightline.errors import SourceError, summary
from sightline.sources.files import suffix_of
from sightline.sources.rows import fields_of, open_rows, text_of
from sightline.text import printable
from sightline.types import Value
from sightline.xmp import payload_of

_TEXTS = {".xmp": 0, ".json": 1, ".cls": 2, ".caption": 3, ".txt": 4}  # in the order in which the later one wins
_FIELDS = {".cls": "label", ".caption": "caption", ".txt": "caption"}
LARGEST_BYTES = 1 << 20
_NOT_KEPT = frozenset({"exif", "status", "error_message"})  # what img2dataset notes of its own work
_TAKEOUT = frozenset({"photoTakenTime", "geoData", "creationTime", "googlePhotosOrigin"})
_SUPPLEMENT = ".supplemental-metadata"  # which Takeout cuts, so that name and it have 46 characters together
_TAKEOUT_NAME = 46
_COPY = re.compile(r"(.+)(\(\d+\))(\.[^.]+)")  # `a(1).jpg`, whose JSON is `a.jpg(1).json`
_EDITED = re.compile(r"(.+)-(?:edited|bearbeitet|modifié|editado|modificato|bewerkt)(\.[^.]+)")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A file beside a picture. `stamp` changes whenever its content may have changed."""

    name: str
    stamp: str
    size_bytes: int
    read: Callable[[], bytes] = field(compare=False)


FOLDER_TABLES = ("metadata.csv", "metadata.jsonl")
"""The names of a folder's table in Hugging Face's ImageFolder layout."""

_log = logging.getLogger(__name__)


def is_sidecar(name: str) -> bool:
    """Whether a file may tell something of a picture beside it, by its name."""
    return suffix_of(name) in _TEXTS


class Sidecars:
    """The names of files in one folder that may tell something of its pictures, found by the picture's name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._by_stem[os.path.splitext(name)[0].casefold()].append(name)  # noqa: PTH122

    def of(self, picture: str) -> list[str]:
        """The files that belong to a picture of that name."""
        if not self._by_stem:
            return []
        found = (name for stem in _stems(picture) for name in self._by_stem.get(stem.casefold(), []))
        return list(dict.fromkeys(found))


@dataclass(slots=True)
class Beside:
    """What stands beside a picture: `payload`, and `fallback` for what the picture's own file does not tell."""

    payload: dict[str, Value] = field(default_factory=dict)
    fallback: dict[str, Value] = field(default_factory=dict)


def read_sidecars(files: Iterable[Sidecar]) -> Beside:
    """What the files beside one picture tell of it. A broken one tells nothing: the picture is still good."""
    beside = Beside()
    for file in sorted(files, key=lambda file: (_TEXTS[suffix_of(file.name)], file.name)):
        try:
            if file.size_bytes > LARGEST_BYTES:
                raise SourceError(f"it has {file.size_bytes:,} bytes, expected at most {LARGEST_BYTES:,}")
            _read_into(beside, file)
        except (SourceError, OSError, ValueError, RecursionError) as error:
            _log.warning("%s tells nothing of the picture beside it: %s", printable(file.name), summary(error))
    return beside


@dataclass(frozen=True, slots=True)
class FolderTable:
    """The rows of a folder's metadata.csv or metadata.jsonl, by the path of the picture below that folder."""

    folder: str
    rows: Mapping[str, Mapping[str, Any]]

    def row(self, path: str) -> tuple[dict[str, Value], str]:
        """What the table tells of the picture at a path, and a stamp that changes with it."""
        row = self.rows.get(os.path.relpath(path, self.folder).replace(os.sep, "/"))
        if row is None:
            return {}, ""
        told = {"caption" if name == "text" and "caption" not in row else name: cell for name, cell in row.items()}
        return _fields(told), blake2b(repr(sorted(row.items())).encode("utf-8", "replace"), digest_size=6).hexdigest()


def read_folder_table(folder: str, name: str) -> FolderTable | None:
    """The table of a folder, None if it is not one of Hugging Face's: those have a column file_name.

    Rows that cannot be read are logged and left out.
    """
    path = Path(folder, name)
    rows = dict[str, Mapping[str, Any]]()
    try:
        for row in open_rows(path).read():
            if isinstance(row, SourceError):
                _log.warning("%s, and is left out", row)
            elif isinstance(file_name := row.pop("file_name", None), str):
                rows[posixpath.normpath(file_name.replace("\\", "/"))] = {k: v for k, v in row.items() if k}
    except SourceError as error:
        _log.warning("%s tells nothing of the pictures beside it: %s", path, error)
    return FolderTable(folder, rows) if rows else None


def _stems(picture: str) -> list[str]:
    """The names, without the last suffix, of files that belong to a picture."""
    stem = os.path.splitext(picture)[0]  # noqa: PTH122
    supplement = f"{picture}{_SUPPLEMENT}"
    stems = [stem, picture, supplement, supplement[:_TAKEOUT_NAME], picture[:_TAKEOUT_NAME]]
    if match := _COPY.fullmatch(picture):
        name, number, suffix = match.groups()
        stems += [f"{name}{suffix}{number}", f"{name}{suffix}{_SUPPLEMENT}{number}"]
    if match := _EDITED.fullmatch(picture):
        stems += _stems("".join(match.groups()))[1:]
    return stems


def _read_into(beside: Beside, file: Sidecar) -> None:
    suffix, content = suffix_of(file.name), file.read()
    if suffix == ".xmp":
        beside.payload |= payload_of(content)
        return
    text = content.decode("utf-8-sig", "replace")
    fields = json.loads(text) if suffix == ".json" else {_FIELDS[suffix]: text_of(text.strip())}
    if not isinstance(fields, dict):
        return
    if _TAKEOUT & fields.keys():
        beside.payload |= _takeout(fields)
        beside.fallback |= _takeout_moment_and_place(fields)
    else:
        beside.payload |= _fields(fields)


def _fields(told: Mapping[str, Any]) -> dict[str, Value]:
    fields = fields_of({name: cell for name, cell in told.items() if name not in _NOT_KEPT})
    if isinstance(caption := told.get("caption"), str) and caption:  # of words, and of a year too
        fields["caption"] = text_of(caption)
    return {name: value for name, value in fields.items() if value != ""}


def _takeout(told: Mapping[str, Any]) -> dict[str, Value]:
    """Google Takeout: the description is a caption."""
    payload = dict[str, Value]()
    if isinstance(description := told.get("description"), str) and description.strip():
        payload["caption"] = text_of(description.strip())
    if people := [text_of(name) for person in _list(told.get("people")) if (name := _mapping(person).get("name"))]:
        payload["people"] = people
    if told.get("favorited") is True:
        payload["favorite"] = True
    return payload


def _takeout_moment_and_place(told: Mapping[str, Any]) -> dict[str, Value]:
    """In UTC, without the camera's offset: the picture's own time is better. 0, 0 says that the place is not known."""
    found = dict[str, Value]()
    seconds = _mapping(told.get("photoTakenTime")).get("timestamp")
    with suppress(ValueError, OverflowError, OSError):
        found["taken"] = datetime.fromtimestamp(int(str(seconds)), UTC)
    for key in ("geoData", "geoDataExif"):
        place = _mapping(told.get(key))
        latitude, longitude = place.get("latitude"), place.get("longitude")
        if isinstance(latitude, int | float) and isinstance(longitude, int | float) and (latitude or longitude):
            return found | {"latitude": float(latitude), "longitude": float(longitude)}
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
