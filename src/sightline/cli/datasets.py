"""The command datasets: list and fetch published data sets."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.options import Commands, add_command
from sightline.text import count, size, table

if TYPE_CHECKING:
    from sightline.datasets.recipes import Recipe

_EXAMPLES = """\
examples:
  sightline datasets list
  sightline datasets get flickr8k --output data/flickr8k
  sightline index data/flickr8k/captions.tsv --images data/flickr8k/images
"""


def add_commands(commands: Commands) -> None:
    """Add datasets."""
    command = add_command(
        commands, "datasets", datasets, "fetch published data sets to try things on", epilog=_EXAMPLES
    )
    command.add_argument("action", choices=("list", "get"), help="list: the names and licences; get: fetch one")
    command.add_argument("name", metavar="NAME", nargs="?", help="the data set to get")
    command.add_argument("--output", metavar="DIR", help="where to put it (default: its name)")
    command.add_argument("--mirror", metavar="URL", help="fetch its files from here, where they have the same names")
    command.add_argument("--keep", action="store_true", help="keep the archives that were fetched")
    command.add_argument("--json", action="store_true", help="print JSON")


def datasets(options: argparse.Namespace) -> int:
    """List, or fetch one."""
    from sightline.datasets.recipes import recipe, recipes
    from sightline.errors import UsageError

    if options.action == "list":
        known = recipes().values()
        if options.json:
            print(json.dumps([asdict(one) for one in known], indent=2))
            return 0
        print("\n\n".join(f"{one.name}\n  {one.title}\n  licence: {one.licence}\n  {one.page}" for one in known))
        return 0
    if options.name is None:
        raise UsageError("datasets get needs a name: one of " + ", ".join(recipes()))
    return _get(recipe(options.name), options)


def _get(recipe: "Recipe", options: argparse.Namespace) -> int:
    from sightline.datasets.layouts import count_rows, pictures_of
    from sightline.datasets.recipes import get

    print(f"{recipe.title}\nlicence: {recipe.licence}\n{recipe.page}", file=sys.stderr)
    rows = [[file.local_name, file.size, "" if file.sha256 else "no checksum is published"] for file in recipe.files]
    print(table(rows), file=sys.stderr)
    came = 0

    def show(more: int) -> None:
        nonlocal came
        came += more
        if sys.stderr.isatty():
            print(f"\r{size(came)} ", end="", file=sys.stderr, flush=True)

    place = get(recipe, Path(options.output or recipe.name), base_url=options.mirror, keep=options.keep, on_bytes=show)
    images = pictures_of(place) if place.is_file() else None
    lines = count_rows(place)
    command = f"sightline index {place}{f' --images {images}' if images else ''}"
    if options.json:
        print(json.dumps({"name": recipe.name, "place": str(place), "rows": lines, "index": command}))
    else:
        print(place if lines is None else f"{place} has {count(lines, 'row')}")
        print(command)
    return 0
