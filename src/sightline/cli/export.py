"""The command export: write a torch model as a model folder in the ONNX layout."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.options import Commands, add_command, hub
from sightline.text import size, table

if TYPE_CHECKING:
    from sightline.train.export import Report

_EXAMPLES = """\
examples:
  sightline export open_clip:ViT-B-32/laion2b_s34b_b79k --output clip-b32 --precision int8 --pictures captions.tsv
  sightline export open_clip:ViT-B-32/./epoch_10.pt --output mine      a checkpoint of open_clip
  sightline export timm:resnet50 --output resnet50                     a model of pictures alone
  sightline export hf:./siglip --output siglip --pictures photos       a folder that transformers saved
  sightline search "my cat" --model ./clip-b32                         what it makes is a model folder like any other
"""


def add_commands(commands: Commands) -> None:
    """Add export."""
    command = add_command(commands, "export", export, "write a torch model as a model folder", epilog=_EXAMPLES)
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="open_clip:ARCHITECTURE/WEIGHTS, hf:NAME, timm:NAME, dinov2:SIZE, simclr:FILE, st:NAME, a folder that "
        "open_clip or transformers saved, or a training run's folder",
    )
    command.add_argument("--output", metavar="DIR", required=True, help="the folder of the model")
    command.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="int8: a quarter of the size, faster on a CPU; fp16: half the size, for a GPU (default: fp32)",
    )
    command.add_argument(
        "--pictures",
        metavar="PATH",
        help="a folder of pictures or a captions table to compare on (default: generated pictures)",
    )
    command.add_argument("--images", metavar="DIR", help="the folder of the table's pictures (default: beside it)")
    command.add_argument("--json", action="store_true", help="print the report as JSON")


def export(options: argparse.Namespace) -> int:
    """Write the folder and print how close its vectors are to those of the torch model."""
    from importlib.util import find_spec

    from sightline.errors import ExtraMissing

    for package in ("torch", "onnx"):
        if find_spec(package) is None:
            raise ExtraMissing(f"export needs {package!r}, which is not installed: pip install 'sightline[torch]'")
    from sightline.train.export import convert

    report = convert(
        options.source,
        Path(options.output),
        options.precision,
        pictures=Path(options.pictures) if options.pictures else None,
        images=Path(options.images) if options.images else None,
        hub=hub(),
        say=lambda note: print(note, file=sys.stderr, flush=True),
    )
    if options.json:
        print(json.dumps(asdict(report)))
        return 0
    _show(report)
    folder = options.output if "/" in options.output else f"./{options.output}"
    print(f"\nuse it: sightline index FOLDER --model {folder}")
    return 0


def _show(report: "Report") -> None:
    what = "generated pictures (give --pictures for your own)" if report.is_generated else "pictures"
    print(f"cosine to the torch model, on {report.pictures:,} {what} and {report.texts:,} texts")
    rows = [["", "size", "images: min", "1 %", "median", "texts: min", "1 %", "median"]]
    for name, entry in report.precisions.items():
        both = [entry["image_cosine"], entry["text_cosine"]]
        cosines = [f"{value:.4f}" for found in both if found for value in found.values()]
        rows.append([name, size(entry["size_bytes"]), *cosines, *[""] * (6 - len(cosines))])
    print(table(rows, right=frozenset(range(1, 8))))
    if report.recall is None:
        return
    recalls = {"torch": report.recall} | {name: entry["recall"] for name, entry in report.precisions.items()}
    print("\nrecall in %")
    rows = [["", *report.recall], *([name, *_percent(found)] for name, found in recalls.items())]
    print(table(rows, right=frozenset(range(1, len(rows[0])))))


def _percent(found: Mapping[str, float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in found.values()]
