"""The commands export-index and import-index: exchange vectors with other programs through files."""

import argparse
import json
from pathlib import Path

from sightline.cli.options import Commands, add_command, add_index, add_model, hub, index_url, model_name, open_index
from sightline.text import count

_EXPORT_EXAMPLES = """\
examples:
  sightline export-index photos.parquet      one table: id, uri, vector, and what is known of each picture
  sightline export-index photos-vectors      a folder: vectors.npy, and records.jsonl line by line beside it
"""

_NO_FOLDERS = (".csv", ".tsv", ".json", ".jsonl", ".npy", ".npz", ".txt", ".zip", ".tar", ".gz")
_IMPORT_EXAMPLES = """\
examples:
  sightline import-index photos.parquet --index copy.index
  sightline import-index embeddings --index laion.index --model clip-b32    what clip-retrieval's inference wrote
"""


def add_commands(commands: Commands) -> None:
    """Add export-index and import-index."""
    command = add_command(
        commands,
        "export-index",
        export_index,
        "write vectors and what is known of pictures to files",
        epilog=_EXPORT_EXAMPLES,
    )
    command.add_argument("target", metavar="TARGET", help="a file that ends in .parquet, or a new folder")
    add_index(command)
    add_model(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    command = add_command(
        commands, "import-index", import_index, "fill an index from files of vectors", epilog=_IMPORT_EXAMPLES
    )
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="what export-index wrote, a Parquet file with vectors, or clip-retrieval's folder",
    )
    add_index(command)
    add_model(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def export_index(options: argparse.Namespace) -> int:
    """Write the files."""
    from sightline.errors import UsageError
    from sightline.exchange.write import write_folder, write_parquet

    target = Path(options.target)
    if target.suffix.lower() in _NO_FOLDERS:
        raise UsageError(
            f"{target} is not a format that is written: name a file that ends in .parquet, or a new folder"
        )
    write = write_parquet if target.name.lower().endswith(".parquet") else write_folder
    with open_index(options) as index:
        written = write(index.store, target)
    _report(f"wrote {count(written, 'picture')} to {target}", written, options)
    return 0 if written else 1


def import_index(options: argparse.Namespace) -> int:
    """Fill the index."""
    from sightline.exchange.load import load

    url = index_url(options)
    written = load(Path(options.source), url, model=model_name(options), hub=hub())
    place = f" into {url}"
    _report(f"read {count(written, 'picture')} from {options.source}{place}", written, options)
    return 0 if written else 1


def _report(text: str, written: int, options: argparse.Namespace) -> None:
    print(json.dumps({"pictures": written}) if options.json else text)
