"""The commands datasets and demo: pictures to try things on."""

import argparse
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

from sightline.cli.options import Commands, add_command, hub, show
from sightline.errors import ExtraMissing, UsageError
from sightline.text import count, duration, size, table

_QUERIES = ("a motorcycle", "a printed page", "a cup of coffee")
_PHOTOGRAPHS = {"skimage": "data", "sklearn": "datasets/images"}  # in the packages of the extra `demo`


def add_commands(commands: Commands) -> None:
    """Add datasets and demo."""
    add = add_command(commands, datasets, "json").add_argument
    add("action", choices=("list", "get"), help="list: the names and licences; get: fetch one")
    add("name", metavar="NAME", nargs="?", help="the data set to get")
    add("--output", metavar="DIR", help="where to put it (default: its name)")
    add("--mirror", metavar="URL", help="fetch its files from here, where they have the same names")
    add("--keep", action="store_true", help="keep the archives that were fetched")
    add = add_command(commands, demo).add_argument
    add("--index", metavar="URL", default="demo.index", help="where to keep it (default: demo.index)")
    add("--html", metavar="FILE", default="demo.html", help="the page (default: demo.html)")
    add("--model", metavar="NAME", default="mini", help="the model (default: mini, which is bundled)")


def datasets(options: argparse.Namespace) -> int:
    """Fetch published data sets to try things on.

    Examples:
      sightline datasets list
      sightline datasets get flickr8k --output data/flickr8k
      sightline index data/flickr8k/captions.tsv --images data/flickr8k/images
    """
    from sightline.datasets.recipes import count_rows, get, pictures_of, recipe, recipes

    if options.action == "list":
        known = list(recipes().values())
        text = "\n\n".join(f"{one.name}\n  {one.title}\n  licence: {one.licence}\n  {one.page}" for one in known)
        return show(options, [asdict(one) for one in known], text)
    if options.name is None:
        raise UsageError("datasets get needs a name: one of " + ", ".join(recipes()))
    wanted = recipe(options.name)
    print(f"{wanted.title}\nlicence: {wanted.licence}\n{wanted.page}", file=sys.stderr)
    rows = [[file.local_name, file.size, "" if file.sha256 else "no checksum is published"] for file in wanted.files]
    print(table(rows), file=sys.stderr)
    came = 0

    def progress(more: int) -> None:
        nonlocal came
        came += more
        if sys.stderr.isatty():
            print(f"\r{size(came)} ", end="", file=sys.stderr, flush=True)

    folder = Path(options.output or wanted.name)
    place = get(wanted, folder, base_url=options.mirror, keep=options.keep, on_bytes=progress)
    images = pictures_of(place) if place.is_file() else None
    lines = count_rows(place)
    command = f"sightline index {place}{f' --images {images}' if images else ''}"
    plain = {"name": wanted.name, "place": str(place), "rows": lines, "index": command}
    rows_text = "" if lines is None else f" has {count(lines, 'row')}"
    return show(options, plain, f"{place}{rows_text}\n{command}")


def demo(options: argparse.Namespace) -> int:
    """Index a few photographs, search them, write a page of results."""
    from sightline.index import Index
    from sightline.results import location, page

    folders = []
    for package, part in _PHOTOGRAPHS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ExtraMissing(
                f"the demo needs the photographs of {package!r}, which is not installed: pip install 'sightline[demo]'"
            )
        folders.append(Path(spec.origin).parent / part)
    with Index(options.index, model=options.model, hub=hub()) as index:
        for folder in folders:
            summary = index.add(folder)
            took = f"{summary.encoded} encoded in {duration(summary.seconds)}"
            print(f"{count(summary.seen, 'photograph')} in {folder.parent.name}: {took}")
        results = [index.search(query, k=4) for query in _QUERIES]
        results.append(replace(index.search(image=folders[1] / "china.jpg", k=4), query="like china.jpg"))
    for hits in results:
        rows = [f"{hit.score:.3f}  {Path(location(hit)).name}" for hit in hits]
        print("\n  ".join([f"\n{hits.query}", *hits.with_verdict(rows)]))
    Path(options.html).write_text(page(results, title="Sightline demo"), "utf-8")
    print(f"\nThe same with pictures: open {options.html} in a browser.")
    print("Your own folder:        sightline index ~/Pictures")
    print('then:                   sightline search "a dog in the snow"')
    return 0
