"""The command status: show what an index holds, verify and repair it."""

import argparse

from sightline.cli.options import Commands, add_command, better_model, index_url, open_index, show
from sightline.errors import UsageError
from sightline.text import count, left_out_text, printable, size, table


def add_commands(commands: Commands) -> None:
    """Add status."""
    add = add_command(commands, status, "index model json").add_argument
    add("--verify", action="store_true", help="read every record and vector and compare checksums")
    add(
        "--repair",
        action="store_true",
        help="repair what --verify finds; what is lost is indexed again by the next run",
    )


def status(options: argparse.Namespace) -> int:
    """Show what an index holds."""
    damaged = _verified(options) if options.verify or options.repair else None  # needs no sound index
    from sightline.calibration.tuning import Tuning
    from sightline.sources.base import file_of

    with open_index(options) as index:
        info = index.info()
    rows = [
        ["index", str(info["url"])],
        ["pictures", f"{info['pictures']:,}"],
        ["model", f"{info['model']} ({info['dim']} dimensions)"],
        ["on disk", size(info["size_bytes"])] if info["size_bytes"] is not None else ["on disk", "kept by the server"],
        ["failures", f"{info['failures']:,}" + (" (sightline failures)" if info["failures"] else "")],
    ]
    for root, note in info["roots"].items():
        part = "a part of " if note.get("is_part") else ""
        left_out = f"; left out: {left_out_text(note['left_out'])}" if note.get("left_out") else ""
        folder = file_of(root)
        gone = "; not there now" if folder is not None and not folder.exists() else ""
        rows.append(["folder", f"{part}{printable(root)}, indexed {note['indexed']}{left_out}{gone}"])
    rows += [["better", text]] if (text := better_model(info["model"])) else []
    rows += [["answers", str(Tuning(**info["tuning"]))]] if info["tuning"] else []
    rows += [["damaged", text] for text in damaged or []]
    rows += [["verified", "every record and vector matches its checksum"]] if damaged == [] else []
    show(options, info if damaged is None else {**info, "damaged": damaged}, table(rows))
    return 2 if damaged and not options.repair else 0


def _verified(options: argparse.Namespace) -> list[str]:
    """What is damaged, in words; repaired first if that was asked for."""
    from sightline.stores.local.store import LocalStore, repair_store
    from sightline.stores.local.writes import Corruption

    def shown(damage: Corruption) -> str:
        match damage.kind:
            case "records":
                return f"{count(damage.count, 'record')}, to be indexed again"
            case "notes":
                return f"{count(damage.count, 'note')} on folders, failures or measurements, to be taken out"
            case "tables":
                return "what is derived from the records, to be rebuilt without loss"
        if damage.can_be_rebuilt:
            return f"{count(damage.count, 'row')} of the scan, to be rebuilt without loss"
        return f"{count(damage.count, 'vector')} of {count(len(damage.ids), 'picture')}, to be indexed again"

    url = index_url(options)
    if url.is_remote:
        raise UsageError(f"{url} is kept by a server, which checks its own files: --verify is for an index in a folder")
    if options.repair:
        found, end = repair_store(url.path), ": repaired"
    else:
        store, end = LocalStore(url.path), ""
        try:
            found = store.verify()
        finally:
            store.close()
    return [shown(damage) + end for damage in found]
