"""The command map: draw the pictures of an index on a page."""

import argparse
from itertools import islice
from pathlib import Path

from sightline.cli.options import Commands, add_command, hub, index_url, open_at, write_page
from sightline.errors import UsageError
from sightline.text import count, size


def add_commands(commands: Commands) -> None:
    """Add map."""
    add = add_command(commands, draw, "index", name="map", is_resumable=False).add_argument
    add("--html", metavar="FILE", default="map.html", help="the page to write (default: map.html)")
    add("--method", metavar="NAME", default="auto", help="pca, umap or auto (umap where installed)")
    add("--limit", metavar="N", type=int, default=4000, help="of a larger index N (default: 4000)")


def draw(options: argparse.Namespace) -> int:
    """Draw the pictures of an index as a map, alike ones side by side.

    Examples:
      sightline map --html map.html
      sightline tag --labels beach,city,forest && sightline map --html map.html    colour by tag
    """
    import numpy as np

    from sightline.analysis.map import page, project

    with open_at(index_url(options)) as index:
        records = list(islice(index.store.scan(), max(options.limit, 0)))  # by id, a hash: a random sample
        name = Path(index.url).name.removesuffix(".index") or index.url
    if len(records) < 3:
        raise UsageError(f"{count(len(records), 'picture')} to draw, expected at least 3: index more, or raise --limit")
    places, method = project(np.stack([record.vector for record in records]), options.method)
    write_page(options.html, page(records, places, title=name, cache=hub().cache / "pictures"))
    size_bytes = Path(options.html).stat().st_size
    print(f"{count(len(records), 'picture')} by {method} in {options.html}, {size(size_bytes)}")
    return 0
