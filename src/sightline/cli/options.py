"""What several commands share: their options, the environment, and the index that both name."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from sightline.encoders.hub import Hub
    from sightline.index import Index
    from sightline.stores.url import StoreUrl

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run: TypeAlias = Callable[[argparse.Namespace], int]

DEFAULT_INDEX = "photos.index"

ENVIRONMENT: Mapping[str, str] = {
    "SIGHTLINE_INDEX": "the index that commands use without --index (photos.index)",
    "SIGHTLINE_MODEL": "the model that commands use without --model",
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


def add_command(
    commands: Commands, name: str, run: Run, help_text: str, *, is_resumable: bool = True, **more: Any
) -> argparse.ArgumentParser:
    """One command with its help; `run` gets the parsed options and returns the exit code.

    `is_resumable` says that a second run goes on where an interrupted one stopped.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )
    command.set_defaults(run=run, is_resumable=is_resumable, parser=command)
    return command


def add_index(command: argparse.ArgumentParser) -> None:
    """`--index`."""
    command.add_argument(
        "--index",
        metavar="URL",
        type=store_url,
        default=None,
        help="the index: a folder, or the URL of a server (default: photos.index, here or in a folder above)",
    )


def add_model(command: argparse.ArgumentParser) -> None:
    """`--model`."""
    command.add_argument(
        "--model", metavar="NAME", default=None, help="a model's name or folder (default: the index's own, else auto)"
    )


def index_url(options: argparse.Namespace) -> "StoreUrl":
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


def store_url(text: str) -> "StoreUrl":
    """The argument as the URL of an index, with the key that the environment holds for its server."""
    from sightline.stores.url import StoreUrl

    return StoreUrl(text).with_key(os.environ.get("SIGHTLINE_STORE_KEY"))


def model_name(options: argparse.Namespace) -> str | None:
    """Which model the user asked for, if any."""
    return options.model or os.environ.get("SIGHTLINE_MODEL") or None


def hub() -> "Hub":
    """The model hub as the environment describes it."""
    from sightline.encoders.hub import Hub

    return Hub.from_environment()


def open_index(options: argparse.Namespace, *, model: str | None = None) -> "Index":
    """The index that the options and the environment name; a model given here is used as it is."""
    return open_at(index_url(options), model or model_name(options))


def open_at(url: "StoreUrl", model: str | None = None) -> "Index":
    """The index of that URL, opened with the model that built it unless another is given."""
    from sightline.index import Index

    return Index(url, model=model, hub=hub())
