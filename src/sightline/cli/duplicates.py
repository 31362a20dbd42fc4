"""The command duplicates: find near-duplicate pictures, and measure the threshold for it."""

import argparse
import sys

from sightline.cli.options import Commands, add_command, hub, open_index, show, write_page
from sightline.text import count, printable


def add_commands(commands: Commands) -> None:
    """Add duplicates."""
    add = add_command(commands, duplicates, "index model json", is_resumable=False).add_argument
    add(
        "--threshold", metavar="X", type=float, help="the lowest cosine of duplicates (default: as measured, else 0.93)"
    )
    add(
        "--measure",
        metavar="N",
        type=int,
        help="copy N of the pictures in several ways, choose the threshold by it, and keep it with the index",
    )
    add("--keep", choices=["largest"], help="print the paths of all but the largest of each group")
    add("--html", metavar="FILE", help="write a page with the groups, too")
    add("--unchecked", action="store_true", help="trust the model: do not compare the pixels of what is alike")


def duplicates(options: argparse.Namespace) -> int:
    """Find near-duplicate pictures; nothing is deleted.

    Examples:
      sightline duplicates --measure 100          choose the threshold on copies of your own pictures
      sightline duplicates --html duplicates.html
      sightline duplicates --keep largest > could-go.txt
    """
    from sightline.analysis.copied import Comparison
    from sightline.analysis.duplicates import CANDIDATES, SAME, groups, threshold_of
    from sightline.results import groups_page, location
    from sightline.types import Hit

    def path(hit: Hit) -> str:
        return printable(location(hit))

    def size(hit: Hit) -> str:
        width, height = hit.payload.get("width"), hit.payload.get("height")
        return f"{width} x {height}" if width and height else ""

    if options.measure is not None:
        return _measured(options)
    with open_index(options) as index:
        measured = options.threshold if options.threshold is not None else threshold_of(index.store)
        same = measured or SAME
        compare = None if options.unchecked else Comparison(hub().cache / "pictures")
        margin = CANDIDATES if compare and options.threshold is None else 0.0
        found = groups(index.store, same=same, compare=compare, margin=margin)
    how = f"alike from {same:.3f} on" if options.unchecked else "compared pixel by pixel (1.000: identical)"
    plain, lines, sections = [], [], []
    for group in found:
        copies = [
            {"uri": copy.hit.uri, "score": round(copy.hit.score, 4), "kind": copy.kind}
            | ({} if copy.sure is None else {"sure": round(copy.sure, 3)})
            for copy in group.copies
        ]
        plain.append({"keep": group.kept.uri, "copies": copies})
        lines.append(f"keep   {size(group.kept):>13s}  {path(group.kept)}")
        for copy in group.copies:
            score = "bytes" if copy.kind == "bytes" else f"{copy.hit.score if copy.sure is None else copy.sure:.3f}"
            lines.append(f"{score:5s}  {size(copy.hit):>13s}  {path(copy.hit)}")
        lines.append("")
        facts = f"the first is the largest: {path(group.kept)}, {size(group.kept) or 'of unknown size'}"
        hits = [group.kept, *(copy.hit for copy in group.copies)]
        sections.append((count(len(hits), "picture"), facts, hits))
    copies_there = sum(len(group.copies) for group in found)
    total = f"{count(len(found), 'group')}, {count(copies_there, 'picture')} could go" if found else "no duplicates"
    lines.append(f"{total}, {how}")
    if sys.stdout.isatty():
        lines.append("nothing was deleted; --html FILE shows them, --keep largest prints the paths that could go")
    if options.html:
        title = f"{count(len(found), 'group')} of pictures, {how}"
        write_page(options.html, groups_page(sections, title=title))
    if options.json or not options.keep:
        show(options, {"threshold": same, "groups": plain}, "\n".join(lines))
    elif found:
        print("\n".join(path(copy.hit) for group in found for copy in group.copies))
    if found and measured is None:
        print(
            f"sightline: that copies score about {SAME} is a guess for these pictures: look at the groups before you "
            "delete, and let sightline duplicates --measure 100 choose the threshold",
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
    lines = [
        f"threshold {found.threshold}, measured on copies of {count(found.sample, 'picture')} and kept with the index",
        f"{found.others_reaching:,} of {count(found.others, 'picture')} have a different one that reaches it",
        f"if every picture had one copy, {100 * found.precision:.1f} of 100 pairs found would be right",
        *(f"  {name:14s} {100 * share:5.1f} % found" for name, share in found.found.items()),
    ]
    if found.same_pixels:
        lines.append(f"{found.same_pixels:,} more have one that shows the very same, pixel by pixel")
    return show(options, found.to_dict(), "\n".join(lines))
