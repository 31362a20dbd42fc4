"""The commands export-index and import-index: exchange vectors with other programs through files."""

import argparse
from pathlib import Path

from sightline.cli.options import Commands, add_command, hub, index_url, model_name, open_index, show
from sightline.errors import UsageError
from sightline.text import count

_NO_FOLDERS = (".csv", ".tsv", ".json", ".jsonl", ".npy", ".npz", ".txt", ".zip", ".tar", ".gz")


def add_commands(commands: Commands) -> None:
    """Add export-index and import-index."""
    command = add_command(commands, export_index, "index model json")
    command.add_argument("target", metavar="TARGET", help="a file that ends in .parquet, or a new folder")
    command = add_command(commands, import_index, "index model json")
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="what export-index wrote, a Parquet file with vectors, or clip-retrieval's folder",
    )


def export_index(options: argparse.Namespace) -> int:
    """Write vectors and what is known of pictures to files.

    Examples:
      sightline export-index photos.parquet      one table: id, uri, vector, and what is known of each picture
      sightline export-index photos-vectors      a folder: vectors.npy, and records.jsonl line by line beside it
    """
    from sightline.exchange.files import write_folder, write_parquet

    target = Path(options.target)
    if target.suffix.lower() in _NO_FOLDERS:
        raise UsageError(
            f"{target} is not a format that is written: name a file that ends in .parquet, or a new folder"
        )
    write = write_parquet if target.name.lower().endswith(".parquet") else write_folder
    with open_index(options) as index:
        written = write(index.store, target)
    show(options, {"pictures": written}, f"wrote {count(written, 'picture')} to {target}")
    return 0 if written else 1


def import_index(options: argparse.Namespace) -> int:
    """Fill an index from files of vectors.

    Examples:
      sightline import-index photos.parquet --index copy.index
      sightline import-index embeddings --index laion.index --model clip-b32    what clip-retrieval's inference wrote
    """
    from sightline.exchange.files import load

    url = index_url(options)
    written = load(Path(options.source), url, model=model_name(options), hub=hub())
    show(options, {"pictures": written}, f"read {count(written, 'picture')} from {options.source} into {url}")
    return 0 if written else 1
