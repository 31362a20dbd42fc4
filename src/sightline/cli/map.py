"""The command map: draw the pictures of an index on a page."""

import argparse
from itertools import islice
from pathlib import Path

from sightline.cli.options import Commands, add_command, add_index, hub, open_index
from sightline.text import count, size

_EXAMPLES = """\
examples:
  sightline map --html map.html
  sightline tag --labels beach,city,forest && sightline map --html map.html    colour by tag
"""


def add_commands(commands: Commands) -> None:
    """Add map."""
    command = add_command(
        commands,
        "map",
        draw,
        "draw the pictures of an index as a map, alike ones side by side",
        is_resumable=False,
        epilog=_EXAMPLES,
    )
    command.add_argument("--html", metavar="FILE", default="map.html", help="the page to write (default: map.html)")
    command.add_argument("--method", metavar="NAME", default="auto", help="pca, umap or auto (umap where installed)")
    command.add_argument("--limit", metavar="N", type=int, default=4000, help="of a larger index N (default: 4000)")
    add_index(command)


def draw(options: argparse.Namespace) -> int:
    """Write the page."""
    import numpy as np

    from sightline.analysis.map import page, project
    from sightline.cli.output import write_page
    from sightline.errors import UsageError

    options.model = None
    with open_index(options) as index:
        records = list(islice(index.store.scan(), max(options.limit, 0)))  # by id, a hash: a random sample
        name = Path(index.url).name.removesuffix(".index") or index.url
    if len(records) < 3:
        raise UsageError(f"{count(len(records), 'picture')} to draw, expected at least 3: index more, or raise --limit")
    places, method = project(np.stack([record.vector for record in records]), options.method)
    file = Path(options.html)
    write_page(file, page(records, places, title=name, cache=hub().cache / "pictures"))
    print(f"{count(len(records), 'picture')} by {method} in {file}, {size(file.stat().st_size)}")
    return 0
