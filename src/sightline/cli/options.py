"""What several commands share: their options, the environment, the index that both name, and how results are shown."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sightline.errors import ExtraMissing, SightlineError, StoreNotFound, UsageError
from sightline.stores.url import StoreUrl
from sightline.text import printable

if TYPE_CHECKING:
    from sightline.encoders.hub import Hub
    from sightline.index import Index
    from sightline.types import Hit, Record

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run: TypeAlias = Callable[[argparse.Namespace], int]

DEFAULT_INDEX = "photos.index"

ENVIRONMENT: Mapping[str, str] = {
    "SIGHTLINE_INDEX": "the index that commands use without --index (photos.index)",
    "SIGHTLINE_MODEL": "the model that new indexes get without --model, and older ones where it fits",
    "SIGHTLINE_CACHE": "the folder that downloaded models are kept in",
    "SIGHTLINE_API_KEY": "keys that may search through `sightline serve`, one a line",
    "SIGHTLINE_WRITE_KEY": "keys that may also upload and remove there, one a line",
    "SIGHTLINE_STORE_KEY": "the key of the server that keeps the index, where its URL has none",
    "SIGHTLINE_OFFLINE": "1: never ask the network for anything",
    "HF_ENDPOINT": "the address of the model hub, for a mirror",
    "HF_TOKEN": "your token for models that need one (else that of `hf auth login`)",
    "HF_TOKEN_PATH": "the file with the token of `hf auth login`",
    "HF_HOME": "the folder of Hugging Face's own tools, with that token and what `hf download` fetched",
    "HF_HUB_CACHE": "the folder of what `hf download` fetched, which is looked into for models",
    "HF_HUB_OFFLINE": "1: as SIGHTLINE_OFFLINE",
}
"""Every variable that Sightline reads, and what it means."""

MANY: Mapping[str, Any] = {"action": "append", "default": []}
"""An option that may be given several times."""


def add_command(
    commands: Commands, run: Run, shared: str = "", *, name: str = "", is_resumable: bool = True
) -> argparse.ArgumentParser:
    """A command that a function runs, named after it unless a name is given; its docstring is the command's help.

    The function gets the parsed options and returns the exit code. `shared` names options that others have too, some of
    index, model, json and quiet. `is_resumable` says that a second run goes on where an interrupted one stopped.
    """
    summary, _, rest = cleandoc(run.__doc__ or name).partition("\n")
    command = commands.add_parser(
        name or run.__name__.replace("_", "-"),
        help=summary[0].lower() + summary[1:].removesuffix("."),
        description=summary,
        epilog=rest.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, is_resumable=is_resumable, parser=command)
    options = shared.split()
    if "index" in options:
        text = f"the index: a folder, or the URL of a server (default: {DEFAULT_INDEX}, here or in a folder above)"
        command.add_argument("--index", metavar="URL", type=store_url, help=text)
    if "model" in options:
        text = "a model's name or folder (default: the index's own, else auto)"
        command.add_argument("--model", metavar="NAME", help=text)
    if "json" in options:
        command.add_argument("--json", action="store_true", help="print JSON")
    if "quiet" in options:
        command.add_argument("--quiet", "-q", action="store_true", help="print nothing but errors")
    return command


def positive(text: str) -> int:
    """The argument as a whole number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid, expected a whole number of at least 1")
    return int(text)


def index_url(options: argparse.Namespace) -> StoreUrl:
    """Which index the user means: the one that is named, else photos.index here or in a folder above, as git does."""
    named: StoreUrl | None = options.index
    if named or "SIGHTLINE_INDEX" in os.environ:
        return named or store_url(os.environ["SIGHTLINE_INDEX"] or DEFAULT_INDEX)
    folders = (Path(*[".."] * depth) for depth in range(len(Path.cwd().parts)))
    found = next((folder for folder in folders if (folder / DEFAULT_INDEX).is_dir()), Path())
    return store_url(str(found / DEFAULT_INDEX))


def no_default_index(options: argparse.Namespace) -> str | None:
    """What to say where no index was named and the default one does not exist; None where one was named."""
    if getattr(options, "index", "none") or os.environ.get("SIGHTLINE_INDEX"):
        return None
    return (
        f"there is no {DEFAULT_INDEX} in {Path.cwd()} or in a folder above it: name an index with --index or "
        "SIGHTLINE_INDEX, or build one with sightline index FOLDER"
    )


def store_url(text: str) -> StoreUrl:
    """The argument as the URL of an index, with the key that the environment holds for its server."""
    url, key = StoreUrl(text), os.environ.get("SIGHTLINE_STORE_KEY")
    return url.with_key(key) if key else url


def model_name(options: argparse.Namespace) -> str | None:
    """Which model the user asked for, if any."""
    return options.model or os.environ.get("SIGHTLINE_MODEL") or None


def hub() -> "Hub":
    """The model hub as the environment describes it."""
    from sightline.encoders.hub import Hub

    return Hub.from_environment()


def open_index(options: argparse.Namespace, *, model: str | None = None) -> "Index":
    """The index that the options and the environment name; a model given here is used as it is."""
    return open_at(index_url(options), model or options.model)


def open_at(url: StoreUrl, model: str | None = None) -> "Index":
    """The index of that URL, opened with the model that built it unless another is given."""
    from sightline.index import Index

    return Index(url, model=model_for(url, model), hub=hub())


def model_for(url: StoreUrl, model: str | None) -> str | None:
    """The model to open an index with, None for its own: the one given, or SIGHTLINE_MODEL if that fits.

    It fits a new index, and one whose pictures have the same vectors with it, as those of a query adapter have.
    """
    from sightline.index import Index

    usual = os.environ.get("SIGHTLINE_MODEL")
    if model or not usual:
        return model
    try:
        with Index(url, model=usual, hub=replace(hub(), offline=True)) as index:
            index.encoder  # noqa: B018  loads it
    except StoreNotFound:
        return usual
    except SightlineError:  # another model, or one that is not on this disk
        return None
    return usual


def better_model(built_with: str) -> str:
    """How to switch from the bundled model to the recommended one, once that is on this disk; else nothing."""
    from sightline.encoders.catalog import BUNDLED, catalog
    from sightline.encoders.hub import is_here

    best = next(entry for entry in catalog().values() if entry.recommended)
    if built_with != BUNDLED or not is_here(best, hub()):
        return ""
    return (
        f"{best.name} is on this disk and finds far more than {BUNDLED}: "
        f"sightline index FOLDER --index NEW --model {best.name}"
    )


def need(what: str, extra: str, *packages: str) -> None:
    """Say which package is missing before anything is begun; `ExtraMissing`."""
    for package in packages:
        if find_spec(package) is None:
            raise ExtraMissing(f"{what} needs {package!r}, which is not installed: pip install 'sightline[{extra}]'")


def progress_bar(unit: str, *, quiet: bool = False, **more: Any) -> Any:
    """A bar of tqdm with the rate and the time left on a terminal, one that shows nothing elsewhere."""
    from tqdm import tqdm

    return tqdm(unit=unit, dynamic_ncols=True, disable=quiet or not sys.stderr.isatty(), **{"leave": False, **more})


def show(options: argparse.Namespace, plain: Any, text: str) -> int:
    """Print a result as it was asked for, as JSON or as text; gives the exit code of a command that is done."""
    print(json.dumps(plain, indent=2, default=str) if options.json else text)
    return 0


def shown_path(hit: "Hit | Record") -> str:
    """Where a picture is, from the current folder on if it lies below it."""
    from sightline.results import location

    here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118  the user's own spelling, links not resolved
    return printable(location(hit).removeprefix(here))


def write_page(path: str, text: str) -> None:
    """Write a page where the user wants it; `UsageError` where that is not possible."""
    try:
        Path(path).write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
