"""Models downloaded from a Hugging Face hub and kept on this disk.

The protocol in brief: `/api/models/{repository}/revision/main?blobs=true` lists the files with sizes and hashes at one
commit, `/{repository}/resolve/{commit}/{file}` gives one and honours Range. The `huggingface_hub` package is not used:
in version 2.4 it waits 40 s and not 3 for a silent hub, starts an interrupted file over, and keeps wrong content. What
`hf download` fetched is found in its cache all the same.
"""

import json
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import quote

from sightline import errors
from sightline.encoders.catalog import BUNDLED, CatalogEntry, bundled_folder, catalog
from sightline.files import default_cache
from sightline.text import size
from sightline.web.download import Expected, download

if TYPE_CHECKING:
    from sightline.web.client import HttpClient

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes of the whole model."""

_STALL_S = 30.0  # a download that brings nothing for so long is asked for again
_AT_ONCE = 4  # files
_PATIENCE = 3  # times as long for the second question: a slow line, or a name that had to be looked up
_LAST_PIECE_S = 2.0  # how long an interrupt waits for pieces that are on the way
_OF_OPEN_CLIP = re.compile(r"config\.json|(visual|textual)/\w[\w.+-]*")
_OF_TRANSFORMERS = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
_SAFE = re.compile(r"onnx/\w[\w.+-]*")
_FORBIDS = re.compile(r"(^|-)nc(-|$)|non-?commercial|research|amlr", re.IGNORECASE)  # cc-by-nc-4.0, apple-amlr
_log = logging.getLogger(__name__)
_FOR_OTHERS = (".armnn", ".rknn", ".md")  # the same weights for other runtimes
_ADVICE = f"use --model {BUNDLED}, which needs no network, or a model folder (--model ./folder), or try again"


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

    A hub that does not answer within `answer_s` seconds counts as unreachable. Models are looked for in `hf_cache`, the
    folder of `hf download`, too.
    """

    endpoint: str = "https://huggingface.co"
    cache: Path = field(default_factory=default_cache)
    offline: bool = False
    token: str | None = field(default=None, repr=False)
    answer_s: float = 3.0
    progress: Progress | None = field(default=None, compare=False)
    hf_cache: Path | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """The hub as the environment describes it, with the variables of Sightline and of `huggingface_hub`."""
        given = {name: value for name, value in os.environ.items() if value}
        hf_home = Path(given.get("HF_HOME") or default_cache().parent / "huggingface").expanduser()
        token_file = Path(given.get("HF_TOKEN_PATH") or hf_home / "token").expanduser()
        token = given.get("HF_TOKEN")
        if token is None:
            with suppress(OSError):  # no `hf auth login`, or a home that this user may not look into
                token = token_file.read_text("utf-8", "replace").strip() or None
        switches = [given.get(name, "").lower() for name in ("SIGHTLINE_OFFLINE", "HF_HUB_OFFLINE")]
        return cls(
            endpoint=given.get("HF_ENDPOINT", "https://huggingface.co"),
            cache=Path(given["SIGHTLINE_CACHE"]).expanduser() if "SIGHTLINE_CACHE" in given else default_cache(),
            offline=any(switch not in ("", "0", "false", "no") for switch in switches),
            token=token,
            hf_cache=Path(given.get("HF_HUB_CACHE") or hf_home / "hub").expanduser(),
        )

    def __post_init__(self) -> None:
        if not self.endpoint.startswith(("https://", "http://")):
            raise errors.UsageError(f"the hub is {self.endpoint!r}, expected an address such as https://huggingface.co")

    def folder(self, model: str) -> Path | None:
        """The model's folder if it is on this disk, complete. A model is `owner/name`, `@revision`, `:precision`.

        The last two may be left out: `main`, and the finest precision of the transformers.js layout.
        """
        folder = self._folder(model)
        return folder if folder.is_dir() else self._in_hf_cache(model)

    def has_begun(self, model: str) -> bool:
        """Whether a part of the model is on this disk."""
        folder = self._folder(model)
        return any(folder.parent.glob(f"{folder.name}.part-*"))

    def fetch(self, model: str) -> Path:
        """The model's folder, fetched if it is not on this disk.

        Several files come at once, the picture tower first. An interrupted fetch goes on where it stopped. Raises
        `HubUnreachable`, `ModelNotFound`, `ModelDamaged` (a file is not what the hub says it is) or another
        `EncoderError` (the disk has no room).
        """
        if folder := self.folder(model):
            return folder
        listing = self.files(model)
        folder = self._folder(model)
        unfinished = folder.with_name(f"{folder.name}.part-{listing.commit[:12]}")
        try:
            with _alone(folder):
                if not folder.is_dir():  # another process may have fetched it meanwhile
                    self._fetch(_parts(model)[0], listing, unfinished)
                    unfinished.rename(folder)
        except OSError as error:
            raise errors.EncoderError(
                f"{self.cache} cannot be written ({error.strerror or error}), expected room for the model: "
                "free some space, or choose another folder with SIGHTLINE_CACHE"
            ) from error
        for stale in folder.parent.glob(f"{folder.name}.part-*"):  # of an earlier commit
            shutil.rmtree(stale, ignore_errors=True)
        return folder

    def remove(self, model: str) -> int:
        """Take a model off this disk, unfinished downloads too; gives the bytes that were freed."""
        folder = self._folder(model)
        freed = 0
        for one in [folder, *folder.parent.glob(f"{folder.name}.part-*")]:
            freed += sum(path.stat().st_size for path in one.rglob("*") if path.is_file())
            shutil.rmtree(one, ignore_errors=True)
        return freed

    def files(self, model: str) -> Listing:
        """What a model consists of; raises `HubUnreachable` or `ModelNotFound`."""
        repository, revision, precision = _parts(model)
        answer = self.ask(repository, f"/revision/{quote(revision, safe='')}?blobs=true")
        try:
            every = {file.path: file for file in map(_file, answer["siblings"])}
            commit, licence = answer.get("sha", revision), (answer.get("cardData") or {}).get("license")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise errors.HubUnreachable(
                f"{self.endpoint} does not answer like a Hugging Face hub: {_ADVICE}"
            ) from error
        needed = [path for path in every if _OF_OPEN_CLIP.fullmatch(path) and not path.endswith(_FOR_OTHERS)]
        if not {"config.json", "visual/model.onnx"} <= every.keys():
            if not {"config.json", "preprocessor_config.json"} <= every.keys():
                raise errors.ModelNotFound(
                    f"{model} on {self.endpoint} holds no model in the open_clip ONNX layout or that of "
                    "transformers.js, expected config.json with visual/ and textual/, or preprocessor_config.json and "
                    "onnx/: choose another (sightline models lists some)"
                )
            from sightline.encoders.layout import graphs_of

            graphs = tuple(graph for graph in graphs_of(every, precision, model) if graph)
            safe = [path for path in every if path in _OF_TRANSFORMERS or _SAFE.fullmatch(path)]
            needed = [path for path in safe if path.startswith((*_OF_TRANSFORMERS, *graphs))]
        is_listed = any(entry.repository == repository for entry in catalog().values())  # these say it themselves
        if not is_listed and forbids_commercial_use(licence):
            _log.warning("the licence of %s, %s, forbids commercial use", repository, licence)
        return Listing(commit, tuple(every[path] for path in needed))

    def ask(self, repository: str, what: str = "") -> Any:
        """What the hub's API says of a repository; raises `HubUnreachable` or `ModelNotFound`.

        A hub that does not answer within `answer_s` is asked once more with three times as long.
        """
        from sightline.web.client import fetch_json

        if self.offline:
            raise errors.HubUnreachable(f"offline mode is on: {_ADVICE}")
        url = f"{self._base}/api/models/{repository}{what}"
        try:
            try:
                return fetch_json(url, answer_s=self.answer_s, headers=self._headers)
            except errors.WebError as error:
                if error.status is not None or not error.reason.startswith("does not answer"):
                    raise
                with suppress(errors.WebError):
                    return fetch_json(url, answer_s=_PATIENCE * self.answer_s, headers=self._headers)
                raise
        except errors.WebError as error:
            if error.status in (401, 403, 404):
                raise errors.ModelNotFound(
                    f"{self.endpoint} has no model {repository!r} for you (status {error.status}): "
                    + _access(self.endpoint, repository)
                ) from error
            if error.status is not None:
                raise errors.HubBusy(f"{self.endpoint} {error.reason}: {_ADVICE} in a few minutes") from error
            raise errors.HubUnreachable(f"{self.endpoint} {error.reason}: {_ADVICE}") from error

    def _fetch(self, repository: str, listing: Listing, folder: Path) -> None:
        from sightline.web.client import HttpClient

        here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        free = shutil.disk_usage(self.cache).free
        if free < listing.size_bytes - here:
            raise errors.EncoderError(
                f"{self.cache} has {size(free)} free, expected {size(listing.size_bytes - here)} for {repository}: "
                "free some space, or choose another folder with SIGHTLINE_CACHE"
            )
        base_url = f"{self._base}/{repository}/resolve/{listing.commit}"
        client = HttpClient(read_s=_STALL_S, per_host=_AT_ONCE)
        transfer = _Transfer(client, base_url, self._headers, folder, listing.size_bytes, self.progress)
        texts = [file for file in listing.files if file.path.startswith(("textual/", "tokenizer", "onnx/text_model"))]
        try:
            transfer.run([file for file in listing.files if file not in texts])
            transfer.run(texts)
        except errors.WrongContent as error:
            for part in folder.rglob("*.part"):  # of files on the way, which whoever changed this one may have changed
                part.unlink(missing_ok=True)
            raise errors.ModelDamaged(
                f"{error}, run the same again; if that does not help, something between you and the hub changes files"
            ) from error
        except errors.WebError as error:
            if error.status in (401, 403, 404):
                raise errors.ModelNotFound(f"{error}: {_access(self.endpoint, repository)}") from error
            raise errors.HubUnreachable(
                f"{error}, got {transfer.done_bytes:,} of {listing.size_bytes:,} bytes: run the same again, it goes on "
                "from there"
            ) from error
        finally:
            client.close()

    def _in_hf_cache(self, model: str) -> Path | None:
        """The snapshot of the revision in the cache of `huggingface_hub`, if it is a whole model."""
        if self.hf_cache is None:
            return None
        repository, revision, precision = _parts(model)
        top = self.hf_cache / f"models--{repository.replace('/', '--')}"
        reference = top / "refs" / revision
        try:
            folder = top / "snapshots" / (reference.read_text("utf-8").strip() if reference.is_file() else revision)
            config = json.loads((folder / "config.json").read_text("utf-8"))
            if (folder / "visual").is_dir():
                needed = ["visual/model.onnx", "visual/preprocess_cfg.json"]
                needed += ["textual/model.onnx", "textual/tokenizer.json"] if "text_cfg" in config else []
            else:
                from sightline.encoders.layout import graphs_of

                graphs = graphs_of([f"onnx/{path.name}" for path in (folder / "onnx").iterdir()], precision, model)
                needed = [*_OF_TRANSFORMERS, *(graph for graph in graphs if graph)]
        except (OSError, ValueError, errors.ModelNotFound):
            return None
        is_whole = all((folder / name).is_file() for name in needed) and not any(top.glob("blobs/*.incomplete"))
        return folder if is_whole else None

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def _base(self) -> str:
        return self.endpoint.rstrip("/")

    def _folder(self, model: str) -> Path:
        repository, revision, precision = _parts(model)
        pinned = [part for part in ("" if revision == "main" else revision, precision) if part]
        return self.cache / "models" / "--".join([*repository.split("/"), *(part.replace("/", "-") for part in pinned)])


class _Transfer:
    """Several files of a model at once. Its threads end with the process: an interrupt need not wait for a server."""

    def __init__(
        self,
        client: "HttpClient",
        base_url: str,
        headers: Mapping[str, str],
        folder: Path,
        size_bytes: int,
        progress: Progress | None,
    ) -> None:
        self._client, self._base_url, self._headers, self._folder = client, base_url, headers, folder
        self._size_bytes, self._progress = size_bytes, progress
        self.done_bytes, self._lock, self._is_over = 0, threading.Lock(), threading.Event()

    def run(self, files: Sequence[RemoteFile]) -> None:
        """Download these files; raises what the first one that fails raises."""
        waiting, outcomes = SimpleQueue[RemoteFile](), SimpleQueue[BaseException | None]()
        for file in files:
            waiting.put(file)
        threads = [
            threading.Thread(target=self._work, args=(waiting, outcomes), daemon=True, name="sightline-hub")
            for _ in range(min(_AT_ONCE, len(files)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in files:
                if (error := outcomes.get()) is not None:
                    raise error
        except BaseException:
            self._is_over.set()
            for thread in threads:
                thread.join(_LAST_PIECE_S)
            raise

    def _work(self, waiting: "SimpleQueue[RemoteFile]", outcomes: "SimpleQueue[BaseException | None]") -> None:
        with suppress(Empty):
            while not self._is_over.is_set():
                file = waiting.get_nowait()
                try:
                    self._download(file)
                    outcomes.put(None)
                except BaseException as error:  # handed to the thread that waits
                    outcomes.put(error)

    def _download(self, file: RemoteFile) -> None:
        target = self._folder / file.path
        if target.is_file():  # verified before it got its name
            self._count(file.size_bytes)
            return
        expected = Expected(file.size_bytes, file.sha256, file.git_sha1)
        url = f"{self._base_url}/{file.path}"
        download(self._client, url, target, expected, headers=self._headers, on_bytes=self._count)

    def _count(self, new_bytes: int) -> None:
        if self._is_over.is_set():
            raise InterruptedError("another file of the model failed")
        with self._lock:
            self.done_bytes += new_bytes
            if self._progress:
                self._progress(self.done_bytes, self._size_bytes)


def is_here(entry: CatalogEntry, hub: Hub) -> bool:
    """Whether a model of the catalog can be used without the network."""
    if entry.kind == "bundled":
        return (bundled_folder(entry.name) / "config.json").is_file()
    return entry.kind != "hub" or hub.folder(entry.repository) is not None


def _access(endpoint: str, repository: str) -> str:
    return (
        f"check the name; if the model is not public, ask for access at {endpoint.rstrip('/')}/{repository} and log in "
        "(hf auth login, or HF_TOKEN)"
    )


def _file(sibling: dict[str, object]) -> RemoteFile:
    large = sibling.get("lfs")
    sha256 = large.get("sha256", "") if isinstance(large, dict) else ""
    return RemoteFile(str(sibling["rfilename"]), int(str(sibling["size"])), sha256, str(sibling.get("blobId") or ""))


def forbids_commercial_use(licence: Any) -> bool:
    """Whether a licence, as the card of a model names it, is not for everybody."""
    return bool(_FORBIDS.search(str(licence or "")))


def _parts(model: str) -> tuple[str, str, str]:
    """`owner/name@revision:precision` -> its parts; raises `UsageError`."""
    match = re.fullmatch(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<precision>[\w+]+))?", model)
    if match is None or ".." in model:
        raise errors.UsageError(f"the model is {model!r}, expected owner/name, owner/name@revision or owner/name:int8")
    return match["repository"], match["revision"] or "main", match["precision"] or ""


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
