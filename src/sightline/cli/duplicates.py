"""The command duplicates: find near-duplicate pictures, and measure the threshold for it."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.options import Commands, add_command, add_index, add_model, hub, open_index
from sightline.text import count, printable

if TYPE_CHECKING:
    from sightline.analysis.duplicates import Group
    from sightline.evaluate.copies import Copies
    from sightline.types import Hit

_EXAMPLES = """\
examples:
  sightline duplicates --measure 100          choose the threshold on copies of your own pictures
  sightline duplicates --html duplicates.html
  sightline duplicates --keep largest > could-go.txt
"""


def add_commands(commands: Commands) -> None:
    """Add duplicates."""
    command = add_command(
        commands,
        "duplicates",
        duplicates,
        "find near-duplicate pictures; nothing is deleted",
        is_resumable=False,
        epilog=_EXAMPLES,
    )
    command.add_argument(
        "--threshold",
        metavar="X",
        type=float,
        default=None,
        help="the lowest cosine of duplicates (default: as measured, else 0.93)",
    )
    command.add_argument(
        "--measure",
        metavar="N",
        type=int,
        default=None,
        help="copy N of the pictures in several ways, choose the threshold by it, and keep it with the index",
    )
    command.add_argument(
        "--keep", choices=["largest"], default=None, help="print the paths of all but the largest of each group"
    )
    command.add_argument("--html", metavar="FILE", default=None, help="write a page with the groups, too")
    add_index(command)
    add_model(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def duplicates(options: argparse.Namespace) -> int:
    """Measure, or find the groups; exit code 1 when there are none."""
    from sightline.analysis.duplicates import SAME, groups, threshold_of

    if options.measure is not None:
        return _measured(options)
    with open_index(options) as index:
        measured = options.threshold if options.threshold is not None else threshold_of(index.store)
        same = measured or SAME
        found = groups(index.store, same=same)
    if options.html:
        from sightline.cli.output import write_page

        write_page(Path(options.html), _page(found, same))
    if options.json:
        print(json.dumps({"threshold": same, "groups": [_plain(group) for group in found]}, indent=2))
    elif options.keep:
        for group in found:
            print("\n".join(_path(copy.hit) for copy in group.copies))
    else:
        print(_text(found, same))
    if found and measured is None:
        print(
            f"sightline: {SAME} is a guess for these pictures: look at the groups before you delete, and let "
            "sightline duplicates --measure 100 choose the threshold",
            file=sys.stderr,
        )
    return 0 if found else 1


def _measured(options: argparse.Namespace) -> int:
    from sightline.analysis.duplicates import keep_threshold
    from sightline.evaluate.copies import measure

    cache = hub().cache / "pictures"
    with open_index(options) as index:
        found = measure(index.store, index.encoder, sample=options.measure, threshold=options.threshold, cache=cache)
        keep_threshold(index.store, found.threshold, found.to_dict())
    print(json.dumps(found.to_dict(), indent=2) if options.json else _figures(found))
    return 0


def _figures(found: "Copies") -> str:
    lines = [
        f"threshold {found.threshold}, measured on copies of {count(found.sample, 'picture')} and kept with the index",
        f"{found.others_reaching:,} of {count(found.others, 'picture')} have a different one that reaches it",
        f"if every picture had one copy, {100 * found.precision:.1f} of 100 pairs found would be right",
        *(f"  {name:14s} {100 * share:5.1f} % found" for name, share in found.found.items()),
    ]
    if found.same_pixels:
        lines.append(f"{found.same_pixels:,} more have one that shows the very same, pixel by pixel")
    return "\n".join(lines)


def _text(found: "list[Group]", same: float) -> str:
    lines = []
    for group in found:
        lines.append(f"keep   {_facts(group.kept)}{_path(group.kept)}")
        for copy in group.copies:
            score = "bytes" if copy.kind == "bytes" else f"{copy.hit.score:.3f}"
            lines.append(f"{score:5s}  {_facts(copy.hit)}{_path(copy.hit)}")
        lines.append("")
    copies = sum(len(group.copies) for group in found)
    lines.append(f"{count(len(found), 'group')}, {count(copies, 'picture')} could go, alike from {same:.3f} on")
    if sys.stdout.isatty():
        lines.append("nothing was deleted; --html FILE shows them, --keep largest prints the paths that could go")
    return "\n".join(lines)


def _facts(hit: "Hit") -> str:
    width, height = hit.payload.get("width"), hit.payload.get("height")
    return f"{f'{width} x {height}' if width and height else '':>13s}  "


def _path(hit: "Hit") -> str:
    from sightline.results import location

    return printable(location(hit))


def _plain(group: "Group") -> dict[str, Any]:
    copies = [{"uri": copy.hit.uri, "score": round(copy.hit.score, 4), "kind": copy.kind} for copy in group.copies]
    return {"keep": group.kept.uri, "copies": copies}


def _page(found: "list[Group]", same: float) -> str:
    from sightline.results import groups_page

    rows = [
        (
            f"{count(1 + len(group.copies), 'picture')}",
            f"the first is the largest: {_path(group.kept)}, {_facts(group.kept).strip() or 'of unknown size'}",
            [group.kept, *(copy.hit for copy in group.copies)],
        )
        for group in found
    ]
    return groups_page(rows, title=f"{count(len(found), 'group')} of pictures alike from {same:.3f} on")
