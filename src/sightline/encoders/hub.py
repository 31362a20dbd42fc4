"""A model's repository on a Hugging Face hub turned into a folder on this disk.

The protocol in brief: `/api/models/{repository}/revision/main?blobs=true` lists the files with sizes and hashes at one
commit, `/{repository}/resolve/{commit}/{file}` gives one and honours Range. The `huggingface_hub` package is not used:
in version 2.4 it waits 40 s and not 3 for a silent hub, starts an interrupted file over, and keeps wrong content.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sightline.encoders.catalog import BUNDLED, CatalogEntry, bundled_folder
from sightline.errors import (
    EncoderError,
    HubUnreachable,
    ModelDamaged,
    ModelNotFound,
    UsageError,
    WebError,
    WrongContent,
)
from sightline.text import size
from sightline.web.download import Expected, download

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes of the whole model."""

_STALL_S = 30.0  # a download that brings nothing for so long is asked for again
_NEEDED = re.compile(r"config\.json|(visual|textual)/\w[\w.+-]*")
_FOR_OTHERS = (".armnn", ".rknn", ".md")  # the same weights for other runtimes
_ADVICE = f"use --model {BUNDLED}, which needs no network, or a model folder (--model ./folder), or try again"


def default_cache() -> Path:
    """Where this system keeps what programs can fetch again."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / "sightline"
    folders = {"darwin": home / "Library" / "Caches" / "sightline", "win32": home / "AppData" / "Local" / "sightline"}
    return folders.get(sys.platform, home / ".cache" / "sightline")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository: large ones come with their SHA-256, small ones with git's SHA-1 of the blob."""

    path: str
    size_bytes: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files that a model needs, at one commit of its repository."""

    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Hub:
    """Where models come from and where they are kept. Offline, only what is kept already can be used.

    A hub that does not answer within `answer_s` seconds counts as unreachable.
    """

    endpoint: str = "https://huggingface.co"
    cache: Path = field(default_factory=default_cache)
    offline: bool = False
    token: str | None = field(default=None, repr=False)
    answer_s: float = 3.0
    progress: Progress | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.endpoint.startswith(("https://", "http://")):
            raise UsageError(f"the hub is {self.endpoint!r}, expected an address such as https://huggingface.co")

    def folder(self, repository: str) -> Path | None:
        """The model's folder if it is on this disk, complete."""
        folder = self._folder(repository)
        return folder if folder.is_dir() else None

    def fetch(self, repository: str) -> Path:
        """The model's folder, fetched if it is not on this disk.

        An interrupted fetch goes on where it stopped. Raises `HubUnreachable`, `ModelNotFound`, `ModelDamaged` (a file
        is not what the hub says it is) or another `EncoderError` (the disk has no room).
        """
        if folder := self.folder(repository):
            return folder
        listing = self.files(repository)
        folder = self._folder(repository)
        unfinished = folder.with_name(f"{folder.name}.part-{listing.commit[:12]}")
        try:
            with _alone(folder):
                if not folder.is_dir():  # another process may have fetched it meanwhile
                    self._fetch(repository, listing, unfinished)
                    unfinished.rename(folder)
        except OSError as error:
            raise EncoderError(
                f"{self.cache} cannot be written ({error.strerror or error}), expected room for the model: "
                "free some space, or choose another folder with SIGHTLINE_CACHE"
            ) from error
        for stale in folder.parent.glob(f"{folder.name}.part-*"):  # of an earlier commit
            shutil.rmtree(stale, ignore_errors=True)
        return folder

    def remove(self, repository: str) -> int:
        """Take a model off this disk, unfinished downloads too; gives the bytes that were freed."""
        folder = self._folder(repository)
        freed = 0
        for one in [folder, *folder.parent.glob(f"{folder.name}.part-*")]:
            freed += sum(path.stat().st_size for path in one.rglob("*") if path.is_file())
            shutil.rmtree(one, ignore_errors=True)
        return freed

    def files(self, repository: str) -> Listing:
        """What a model consists of; raises `HubUnreachable` or `ModelNotFound`."""
        answer = self.ask(repository, "/revision/main?blobs=true")
        try:
            listing = Listing(answer.get("sha", "main"), tuple(filter(_is_needed, map(_file, answer["siblings"]))))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise HubUnreachable(f"{self.endpoint} does not answer like a Hugging Face hub: {_ADVICE}") from error
        if not {"config.json", "visual/model.onnx"} <= {file.path for file in listing.files}:
            raise ModelNotFound(
                f"{repository} on {self.endpoint} holds no model in the open_clip ONNX layout, expected config.json, "
                "visual/ and textual/: choose another (sightline models lists some)"
            )
        return listing

    def ask(self, repository: str, what: str = "") -> Any:
        """What the hub's API says of a repository, within `answer_s`; raises `HubUnreachable` or `ModelNotFound`."""
        from sightline.web.client import fetch_json

        if self.offline:
            raise HubUnreachable(f"offline mode is on: {_ADVICE}")
        url = f"{self._base}/api/models/{repository}{what}"
        try:
            return fetch_json(url, answer_s=self.answer_s, headers=self._headers)
        except WebError as error:
            if error.status in (401, 403, 404):
                raise ModelNotFound(
                    f"{self.endpoint} has no model {repository!r} for you (status {error.status}): check the name; if "
                    "it is not public, HF_TOKEN must hold a token that may read it"
                ) from error
            raise HubUnreachable(f"{self.endpoint} {error.reason}: {_ADVICE}") from error

    def _fetch(self, repository: str, listing: Listing, folder: Path) -> None:
        here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        free = shutil.disk_usage(self.cache).free
        if free < listing.size_bytes - here:
            raise EncoderError(
                f"{self.cache} has {size(free)} free, expected {size(listing.size_bytes - here)} for {repository}: "
                "free some space, or choose another folder with SIGHTLINE_CACHE"
            )
        from sightline.web.client import HttpClient

        client, done = HttpClient(read_s=_STALL_S), 0

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            if self.progress:
                self.progress(done, listing.size_bytes)

        for file in listing.files:
            target = folder / file.path
            if target.is_file():  # verified before it got its name
                on_bytes(file.size_bytes)
                continue
            url = f"{self._base}/{repository}/resolve/{listing.commit}/{file.path}"
            expected = Expected(file.size_bytes, file.sha256, file.git_sha1)
            try:
                download(client, url, target, expected, headers=self._headers, on_bytes=on_bytes)
            except WrongContent as error:
                raise ModelDamaged(
                    f"{error}, run the same again; if that does not help, something between you and the hub changes "
                    "files"
                ) from error
            except WebError as error:
                here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                raise HubUnreachable(
                    f"{error}, got {here:,} of {listing.size_bytes:,} bytes: run the same again, it goes on from there"
                ) from error

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def _base(self) -> str:
        return self.endpoint.rstrip("/")

    def _folder(self, repository: str) -> Path:
        return self.cache / "models" / repository.replace("/", "--")


def is_here(entry: CatalogEntry, hub: Hub) -> bool:
    """Whether a model of the catalog can be used without the network."""
    if entry.kind == "bundled":
        return (bundled_folder(entry.name) / "config.json").is_file()
    return entry.kind != "hub" or hub.folder(entry.repository) is not None


def _file(sibling: dict[str, object]) -> RemoteFile:
    large = sibling.get("lfs")
    sha256 = large.get("sha256", "") if isinstance(large, dict) else ""
    return RemoteFile(str(sibling["rfilename"]), int(str(sibling["size"])), sha256, str(sibling.get("blobId") or ""))


def _is_needed(file: RemoteFile) -> bool:
    return bool(_NEEDED.fullmatch(file.path)) and not file.path.endswith(_FOR_OTHERS)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time fetches a model; a second one waits, and then finds it there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file gives the lock back
