"""A recipe's name into a folder that can be indexed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from sightline.datasets.fetch import fetch
from sightline.datasets.layouts import LAYOUTS
from sightline.datasets.recipes import Recipe
from sightline.errors import UsageError

CARD, DOWNLOADS = "dataset.json", "downloads"


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
    files = [fetch(file, folder / DOWNLOADS, base_url=base_url, on_bytes=on_bytes) for file in recipe.files]
    place = LAYOUTS[recipe.layout](files, folder)
    told = {**asdict(recipe), "place": place.relative_to(folder).as_posix()}
    if not keep:
        shutil.rmtree(folder / DOWNLOADS)
    part = card.with_name(f"{CARD}.part")
    part.write_text(json.dumps(told, indent=2), "utf-8")
    part.replace(card)
    return place
