"""The command status: show what an index holds, verify and repair it."""

import argparse
import json
from typing import TYPE_CHECKING

from sightline.cli.options import Commands, add_command, add_index, add_model, index_url, open_index
from sightline.text import count, left_out_text, printable, size, table

if TYPE_CHECKING:
    from sightline.stores.local.writes import Corruption
    from sightline.types import Note


def add_commands(commands: Commands) -> None:
    """Add status."""
    command = add_command(commands, "status", status, "show what an index holds")
    add_index(command)
    add_model(command)
    command.add_argument("--verify", action="store_true", help="read every vector and compare checksums")
    command.add_argument(
        "--repair",
        action="store_true",
        help="repair what --verify finds; what is lost is indexed again by the next run",
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def status(options: argparse.Namespace) -> int:
    """Show an index."""
    damaged = _verified(options) if options.verify or options.repair else None
    from sightline.calibration.tuning import Tuning
    from sightline.cli.copy import tuning_text

    with open_index(options) as index:
        info = index.info()
    if damaged is not None:
        info["damaged"] = damaged
    if options.json:
        print(json.dumps(info, indent=2))
        return 0
    rows = [
        ["index", str(info["url"])],
        ["pictures", f"{info['pictures']:,}"],
        ["model", f"{info['model']} ({info['dim']} dimensions)"],
        ["on disk", size(info["size_bytes"])] if info["size_bytes"] is not None else ["on disk", "kept by the server"],
        ["failures", f"{info['failures']:,}" + (" (sightline failures)" if info["failures"] else "")],
    ]
    rows += [["folder", _root(root, note)] for root, note in info["roots"].items()]
    rows += [["answers", tuning_text(Tuning(**info["tuning"]))]] if info["tuning"] else []
    rows += [["damaged", text] for text in damaged or []]
    if damaged == []:
        rows.append(["verified", "every vector matches its checksum"])
    print(table(rows))
    return 2 if damaged and not options.repair else 0


def _verified(options: argparse.Namespace) -> list[str]:
    """What is damaged, in words; repaired first if asked, which needs no sound index."""
    from sightline.errors import UsageError
    from sightline.stores.local.store import LocalStore, repair_store

    url = index_url(options)
    if url.is_remote:
        raise UsageError(f"{url} is kept by a server, which checks its own files: --verify is for an index in a folder")
    if options.repair:
        return [_damage(damage) + ": repaired" for damage in repair_store(url.path)]
    store = LocalStore(url.path)
    try:
        return [_damage(damage) for damage in store.verify()]
    finally:
        store.close()


def _damage(damage: "Corruption") -> str:
    if damage.can_be_rebuilt:
        return f"{count(damage.count, 'row')} of the scan, to be rebuilt without loss"
    return f"{count(damage.count, 'vector')} of {count(len(damage.ids), 'picture')}, to be indexed again"


def _root(uri: str, note: "Note") -> str:
    part = "a part of " if note.get("is_part") else ""
    left_out = f"; left out: {left_out_text(note['left_out'])}" if note.get("left_out") else ""
    from sightline.sources.base import file_of

    folder = file_of(uri)
    gone = "; not there now" if folder is not None and not folder.exists() else ""
    return f"{part}{printable(uri)}, indexed {note['indexed']}{left_out}{gone}"
