"""The data sets that can be fetched by name, as recipes.toml describes them."""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from urllib.parse import urlsplit

from sightline.errors import UsageError


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
