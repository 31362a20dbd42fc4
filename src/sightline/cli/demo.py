"""The command demo: index and search photographs that come with two scientific packages."""

import argparse
from dataclasses import replace
from pathlib import Path

from sightline.cli.options import Commands, add_command, hub
from sightline.text import count, duration

QUERIES = ("a motorcycle", "a printed page", "a cup of coffee")
_PACKAGES = (("skimage", "data"), ("sklearn", "datasets/images"))


def add_commands(commands: Commands) -> None:
    """Add demo."""
    command = add_command(commands, "demo", demo, "index a few photographs, search them, write a page of results")
    command.add_argument("--index", metavar="URL", default="demo.index", help="where to keep it (default: demo.index)")
    command.add_argument("--html", metavar="FILE", default="demo.html", help="the page (default: demo.html)")
    command.add_argument("--model", metavar="NAME", default="mini", help="the model (default: mini, which is bundled)")


def demo(options: argparse.Namespace) -> int:
    """Index, search by words and by a picture, write the page, say what to type next."""
    from sightline.index import Index
    from sightline.results import location, page

    folders = _folders()
    with Index(options.index, model=options.model, hub=hub()) as index:
        for folder in folders:
            summary = index.add(folder)
            took = f"{summary.encoded} encoded in {duration(summary.seconds)}"
            print(f"{count(summary.seen, 'photograph')} in {folder.parent.name}: {took}")
        results = [index.search(query, k=4) for query in QUERIES]
        results.append(replace(index.search(image=folders[1] / "china.jpg", k=4), query="like china.jpg"))
    for hits in results:
        likely, rest = hits.sides
        lines = [f"  {hit.score:.3f}  {Path(location(hit)).name}" for hit in (*likely, *rest)]
        lines.insert(len(likely), f"  {hits.verdict}:") if rest else None
        print("\n".join(["", hits.query, *lines]))
    Path(options.html).write_text(page(results, title="Sightline demo"), "utf-8")
    print(f"\nThe same with pictures: open {options.html} in a browser.")
    print("Your own folder:        sightline index ~/Pictures")
    print('then:                   sightline search "a dog in the snow"')
    return 0


def _folders() -> list[Path]:
    from importlib.util import find_spec

    from sightline.errors import ExtraMissing

    folders = []
    for package, folder in _PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ExtraMissing(
                f"the demo needs the photographs of {package!r}, which is not installed: pip install 'sightline[demo]'"
            )
        folders.append(Path(spec.origin).parent / folder)
    return folders
