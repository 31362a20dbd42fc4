"""Pictures that come in: uploads that are indexed, pictures to search by that are kept for a while, URLs to fetch."""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

from sightline.errors import AddressRefused, SourceError, WebError
from sightline.files import DiskCache, replacing
from sightline.images.decode import decode, opened
from sightline.images.read import thumbnail
from sightline.index import Index
from sightline.server.answers import Problem, overloaded
from sightline.server.settings import Limits
from sightline.sources.files import path_of
from sightline.sources.folder import open_path
from sightline.sources.web import normal_url
from sightline.types import Record, record_id
from sightline.web.addresses import AddressGuard

QUERY_PREFIX = "q-"
"""How the ids of query pictures begin."""

_SUFFIXES = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif"}
_QUERY_ID = re.compile(r"q-[0-9a-f]{40}")
_QUERY_SIDE = 640  # more than any model of the catalog sees
_QUERY_LIMIT_BYTES = 60 << 20  # about 1,000 of them
_MARK = ".new"
_ABANDONED_S = 3600.0
_MOST_FETCHED = 8  # at once
_ADVICE = "download the picture and send its bytes"


def suffix_of(data: bytes, max_megapixels: float) -> str:
    """The suffix for the bytes of a picture file; `ImageError` if they are no picture that can be decoded."""
    with opened(data, max_megapixels) as file:
        kind = str(file.format).lower()
        decode(file, (64, 64))
    return _SUFFIXES.get(kind, kind)


def add_uploads(uploads: Sequence[tuple[bytes, str]], folder: Path, index: Index) -> list[Record]:
    """Store and index pictures, each bytes and a suffix; returns when files and records are on the disk.

    The names that they came with are ignored. Known content is not stored again.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    paths = [_stored(data, suffix, folder) for data, suffix in uploads]
    index.add([item for path in paths for item in open_path(path)])
    ids = [record_id(path.as_uri()) for path in paths]
    records = {record.id: record for record in index.store.fetch(ids)}
    if missing := [identity for identity in ids if identity not in records]:
        raise Problem(422, f"{len(missing)} of {len(ids)} pictures could not be indexed: see /api/failures")
    for path in paths:
        _mark(path).unlink(missing_ok=True)
    return [records[identity] for identity in ids]


def remove_abandoned(folder: Path, index: Index) -> None:
    """Remove the files of uploads that ended between file and record: nobody was told that they are kept."""
    for mark in folder.glob(f"*/.*{_MARK}"):
        path = mark.with_name(mark.name.removeprefix(".").removesuffix(_MARK))
        with suppress(OSError):
            if time.time() - mark.stat().st_mtime > _ABANDONED_S:  # else another process may be at it
                if not index.store.fetch([record_id(path.as_uri())]):
                    path.unlink(missing_ok=True)
                mark.unlink()


def remove_picture(record: Record, folder: Path | None, index: Index) -> None:
    """Take a picture out of the index; its file goes too if it was uploaded."""
    index.remove([record.id])
    try:
        path = path_of(record.uri)
    except SourceError:
        return
    # A record from elsewhere may name anything: neither `..` nor a link leads out of the folder.
    if folder is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        path.unlink(missing_ok=True)


def _stored(data: bytes, suffix: str, folder: Path) -> Path:
    name = hashlib.sha256(data).hexdigest()
    path = folder / name[:2] / f"{name}.{suffix}"
    if path.exists():
        return path
    path.parent.mkdir(0o700, exist_ok=True)
    _mark(path).touch(0o600)
    private = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with replacing(path) as part, os.fdopen(os.open(part, private, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if os.name == "posix":  # else the name may be lost, though the bytes are safe
        for directory in (path.parent, folder):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    return path


def _mark(path: Path) -> Path:
    """A name that stands beside an upload until its record is written."""
    return path.with_name(f".{path.name}{_MARK}")


class QueryPictures:
    """A folder of small copies of pictures to search by, named by their content; the oldest are forgotten.

    Their ids let the address of a search name them.
    """

    def __init__(self, folder: Path) -> None:
        self._kept = DiskCache(folder, limit_bytes=_QUERY_LIMIT_BYTES, check_every=50)

    def add(self, data: bytes, max_megapixels: float) -> tuple[str, tuple[int, int]]:
        """The id and the size of a picture's small copy; `ImageError` if it is none."""
        small = thumbnail(data, _QUERY_SIDE, limit_megapixels=max_megapixels)
        identity = QUERY_PREFIX + hashlib.sha256(small).hexdigest()[:40]
        self._kept.put(f"{identity}.webp", small)
        with Image.open(BytesIO(small)) as image:
            return identity, image.size

    def read(self, identity: str) -> bytes:
        """The small copy as WebP."""
        data = self._kept.get(f"{identity}.webp") if _QUERY_ID.fullmatch(identity) else None
        if data is not None:
            return data
        raise Problem(404, f"there is no query picture {identity[:60]!r} any more: drop or paste the picture again")


class Fetcher:
    """Fetches a few pictures at once for whoever asks, with SSRF protection: from public addresses, within limits.

    When all places are taken, whoever holds the most of them gives the oldest back to somebody who holds fewer.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running = dict[str, list[asyncio.Task[bytes]]]()  # by client, the oldest first
        self._threads = ThreadPoolExecutor(4 * _MOST_FETCHED, "sightline-urls")  # a look-up of a name cannot be ended

    async def fetch(self, urls: Sequence[str], client: str) -> list[bytes]:
        """The bytes behind URLs; a `Problem` if one may not be asked, does not answer, or gives too much.

        One after the other, and all within the time for one.
        """
        until = time.monotonic() + self._limits.total_s
        return [await self._fetch(url, client, until - time.monotonic()) for url in urls]

    async def _fetch(self, url: str, client: str, left_s: float) -> bytes:
        shown = re.sub(r"[?#].*", "", url, flags=re.DOTALL)[:200]  # a query may hold a secret
        if not _may_be_asked(url):
            raise Problem(422, f"the URL is {shown!r}, expected http:// or https://, a host, and no password")
        own = self._running.get(client, [])
        if sum(map(len, self._running.values())) >= _MOST_FETCHED:
            most = max(self._running.values(), key=len)
            if len(most) <= len(own) + 1:
                raise overloaded(f"{_MOST_FETCHED} URLs are fetched already: try again in a moment")
            self._forget(most[0])
        task = asyncio.create_task(self._fetched(url, shown, left_s))
        self._running.setdefault(client, []).append(task)
        task.add_done_callback(self._forget)
        try:
            return await task
        except asyncio.CancelledError:
            if (asking := asyncio.current_task()) and asking.cancelling():  # the client has gone
                task.cancel()
                raise
            raise overloaded("others ask for URLs, and you have asked for many: try again in a moment") from None

    def _forget(self, task: "asyncio.Task[bytes]") -> None:
        task.cancel()
        for client, tasks in list(self._running.items()):
            if task in tasks:
                tasks.remove(task)
                if not tasks:
                    del self._running[client]

    async def _fetched(self, url: str, shown: str, left_s: float) -> bytes:
        guard = AddressGuard(self._limits.may_reach)
        job = asyncio.get_running_loop().run_in_executor(self._threads, self._get, normal_url(url), guard)
        job.add_done_callback(lambda job: job.cancelled() or job.exception())  # seen, also where nobody waits any more
        try:
            async with asyncio.timeout(left_s):
                return await asyncio.shield(job)
        except TimeoutError as error:
            raise Problem(422, f"{shown} takes more than {self._limits.total_s:g} s: {_ADVICE}") from error
        except AddressRefused as error:
            raise Problem(403, f"{shown} {error.reason}: {_ADVICE}") from error
        except WebError as error:
            raise Problem(422, f"{shown} {error.reason}: {_ADVICE}") from error
        finally:
            guard.abort()  # the thread ends soon, whatever the server does
            job.cancel()  # one that has not begun

    def _get(self, url: str, guard: AddressGuard) -> bytes:
        from sightline.web.client import HttpClient

        client = HttpClient(headers={"Accept": "image/*"}, read_s=self._limits.total_s, guard=guard)
        try:
            return client.fetch(url, most_bytes=self._limits.size_bytes).data
        finally:
            client.close()


def _may_be_asked(url: str) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url)
        return bool(parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0)
    return False
