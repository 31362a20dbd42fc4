"""The data sets that can be fetched by name, as recipes.toml describes them, and how each is laid out to be indexed."""

import csv
import json
import shutil
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.resources import files
from io import StringIO
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import urlsplit

from sightline.errors import SourceError, UsageError, WebError, WrongContent
from sightline.files import replacing, write_atomically
from sightline.sources.files import is_picture
from sightline.sources.members import Member, members
from sightline.sources.rows import open_rows

Layout: TypeAlias = Callable[[Sequence[Path], Path], Path]
"""From the fetched files and the folder to fill, to the place that `sightline index` is to be given."""

CARD, DOWNLOADS, TABLE = "dataset.json", "downloads", "captions.tsv"
_FIRST_PATIENCE_S = 1.0  # where there is no network, that should be said soon
_WORDNET = {  # as the data set's page names them
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file to fetch; without `sha256` none is published."""

    url: str
    size: str
    sha256: str = ""
    name: str = ""

    @property
    def local_name(self) -> str:
        """What it is called on this disk."""
        return self.name or urlsplit(self.url).path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where a data set comes from, on which terms, and which layout it has."""

    name: str
    title: str
    page: str
    licence: str
    layout: str
    files: tuple[File, ...]


def recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    tables = tomllib.loads(files("sightline.datasets").joinpath("recipes.toml").read_text("utf-8"))
    return {
        name: Recipe(**{**table, "name": name, "files": tuple(File(**file) for file in table["files"])})
        for name, table in tables.items()
    }


def recipe(name: str) -> Recipe:
    """One of them; `UsageError` with the nearest name if there is none of that."""
    known = recipes()
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "see sightline datasets list"
        raise UsageError(f"no data set is called {name!r}, expected one of {', '.join(known)}: {hint}")
    return known[name]


def get(
    recipe: Recipe,
    folder: Path,
    *,
    base_url: str | None = None,
    keep: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Path:
    """Fetch and lay out; gives the place to index: a table or a folder. A finished one is not fetched again.

    Files come from `base_url` if it is given, a mirror with the same names. The fetched archives are removed unless
    `keep`. dataset.json says where it comes from and on which terms. Raises `SourceError`.
    """
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise UsageError(f"the mirror is {base_url!r}, expected a URL: write http:// or https:// in front")
    card = folder / CARD
    if card.is_file():
        return folder / str(json.loads(card.read_text("utf-8"))["place"])
    fetched = [fetch(file, folder / DOWNLOADS, base_url=base_url, on_bytes=on_bytes) for file in recipe.files]
    place = LAYOUTS[recipe.layout](fetched, folder)
    document = {**asdict(recipe), "place": place.relative_to(folder).as_posix()}
    if not keep:
        shutil.rmtree(folder / DOWNLOADS)
    write_atomically(card, json.dumps(document, indent=2))
    return place


def fetch(file: File, folder: Path, *, base_url: str | None = None, on_bytes: Callable[[int], None]) -> Path:
    """The file in that folder, fetched unless it is there; `base_url` takes the place of all of its URL but the name.

    Raises `SourceError`: what has come so far stays for the next attempt, what has another checksum does not.
    """
    from sightline.web.client import HttpClient
    from sightline.web.download import Expected, download

    target = folder / file.local_name
    if target.is_file():
        return target
    url = f"{base_url.rstrip('/')}/{file.local_name}" if base_url else file.url
    client = HttpClient(connect_s=5.0, read_s=30.0)
    expected = Expected(sha256=file.sha256)
    try:
        download(client, url, target, expected, first_patience_s=_FIRST_PATIENCE_S, on_bytes=on_bytes)
    except WrongContent as error:
        raise SourceError(f"{error}, run the same again") from error
    except WebError as error:
        if error.status is not None and not error.is_transient:
            advice = "it may have moved, see the page of the data set"
        elif target.with_name(f"{target.name}.part").is_file():
            advice = "run the same again, it goes on from where it is"
        else:
            advice = "try again where there is a network, or name a mirror with --mirror"
        raise SourceError(f"{error}: {advice}") from error
    finally:
        client.close()
    return target


def imagenette(files: Sequence[Path], folder: Path) -> Path:
    """train/ and val/ with a folder for each class, called by its name in words."""
    for member in members(str(files[0])):
        parts = PurePosixPath(member.name).parts
        if is_picture(member.name) and len(parts) >= 3 and parts[-2] in _WORDNET:
            _put(member, folder / parts[-3] / _WORDNET[parts[-2]].replace(" ", "_"), folder)
    return folder


def flickr8k(files: Sequence[Path], folder: Path) -> Path:
    """images/ and captions.tsv: image, caption, split, five lines a picture."""
    pictures, texts = files
    for member in members(str(pictures)):
        if is_picture(member.name) and not member.name.startswith("__MACOSX"):
            _put(member, folder / "images", folder)
    known = {PurePosixPath(member.name).name: member for member in members(str(texts)) if "__MACOSX" not in member.name}
    splits = {
        name.strip(): split
        for split in ("train", "dev", "test")
        for name in _lines(known, f"Flickr_8k.{split}Images.txt", texts)
    }
    pairs = (line.split("\t", 1) for line in _lines(known, "Flickr8k.token.txt", texts) if "\t" in line)
    rows = ((name.partition("#")[0], caption) for name, caption in pairs)
    # One picture of the published table is in no archive: 2258277193_586949ec62.jpg.1
    here = ((name, caption, splits.get(name, "none")) for name, caption in rows if (folder / "images" / name).is_file())
    return _table(folder / TABLE, ("image", "caption", "split"), here)


def conceptual_captions(files: Sequence[Path], folder: Path) -> Path:
    """captions.tsv: url, caption, split; the pictures are fetched by indexing it."""
    rows = (line.split("\t", 1) for line in files[0].read_text("utf-8").splitlines())
    split = "validation" if "alidation" in files[0].name else "train"
    pairs = ((url.strip(), caption, split) for caption, url in rows)
    return _table(folder / TABLE, ("url", "caption", "split"), pairs)


def fashion_products(files: Sequence[Path], folder: Path) -> Path:
    """images/ and captions.tsv: image, caption (the product's name), and the columns of styles.csv."""
    found = {member.name: member for member in members(str(files[0]))}
    shallowest = sorted(found, key=lambda name: name.count("/"))  # the archive holds everything a second time, deeper
    styles = next((name for name in shallowest if name.endswith("styles.csv")), None)
    if styles is None:
        raise SourceError(f"{files[0]} holds no styles.csv, expected the shop's table: fetch it again")
    top = styles.removesuffix("styles.csv")
    for name in shallowest:
        if is_picture(name) and name.startswith(f"{top}images/"):
            _put(found[name], folder / "images", folder)
    header, *rows = csv.reader(StringIO(found[styles].read().decode("utf-8")))
    wanted = [row for row in rows if (folder / "images" / f"{row[0]}.jpg").is_file()]
    # Names with commas in them are not quoted: what is too much belongs to the last column.
    cells = (
        (f"{row[0]}.jpg", ",".join(row[len(header) - 1 :]), *row[: len(header) - 1])
        for row in wanted
        if len(row) >= len(header)
    )
    return _table(folder / TABLE, ("image", "caption", *header[:-1]), cells)


LAYOUTS: dict[str, Layout] = {
    layout.__name__: layout for layout in (imagenette, flickr8k, conceptual_captions, fashion_products)
}


def pictures_of(table: Path) -> Path | None:
    """The folder that the names in a table start from, if there is one."""
    return table.parent / "images" if (table.parent / "images").is_dir() else None


def count_rows(place: Path) -> int | None:
    """How many rows a table has; None for a folder."""
    return sum(1 for _ in open_rows(place).walk()) if place.is_file() else None


def _put(member: Member, folder: Path, top: Path) -> None:
    """A member under its last name alone, so that it lands in the folder whatever the archive says."""
    name = PurePosixPath(member.name.replace("\\", "/")).name
    target = folder / name
    if not target.resolve().is_relative_to(top.resolve()):
        raise SourceError(f"{member.name} leads out of {top}, expected a plain name: fetch the archive again")
    if target.is_file() and target.stat().st_size == member.size_bytes:
        return
    write_atomically(target, member.read())


def _lines(known: dict[str, Member], name: str, archive: Path) -> list[str]:
    if name not in known:
        raise SourceError(f"{archive} holds no {name}, expected the texts of Flickr8k: fetch it again")
    return known[name].read().decode("utf-8", "replace").splitlines()


def _table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        for row in chain([header], rows):
            file.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
    return path
