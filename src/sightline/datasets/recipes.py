"""The data sets that can be fetched by name, as recipes.toml describes them, and one laid out as a folder to index."""

import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from sightline.datasets.layouts import LAYOUTS
from sightline.errors import SourceError, UsageError, WebError, WrongContent
from sightline.files import write_atomically

CARD, DOWNLOADS = "dataset.json", "downloads"
_FIRST_PATIENCE_S = 1.0  # where there is no network, that should be said soon


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
