"""A file on the web into a file on this disk, gone on with where an earlier attempt stopped, and checked."""

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sightline.datasets.recipes import File
from sightline.errors import SourceError
from sightline.sources.connections import Connections, told
from sightline.text import size

_TRIES = 4  # in a row that bring nothing
_TRIES_AT_FIRST = 2  # before anything has come: where there is no network, that should be said soon
_CONNECT_S = 5.0
_PAUSE_S = 0.5
_CHUNK_BYTES = 1 << 20
_HEADERS = {"User-Agent": "sightline"}
_ELSEWHERE = "try again where there is a network, or name a mirror with --mirror"


def fetch(file: File, folder: Path, *, base_url: str | None = None, on_bytes: Callable[[int], None]) -> Path:
    """The file in that folder, fetched unless it is there; `base_url` takes the place of all of its URL but the name.

    Raises `SourceError`: what has come so far stays for the next attempt, what has another checksum does not.
    """
    target = folder / file.local_name
    if target.is_file():
        return target
    url = f"{base_url.rstrip('/')}/{file.local_name}" if base_url else file.url
    part = target.with_name(f"{target.name}.part")
    _persist(url, part, on_bytes)
    _verify(url, part, file.sha256)
    part.replace(target)
    return target


def _persist(url: str, part: Path, on_bytes: Callable[[int], None]) -> None:
    import urllib3

    tries = 0
    retries = urllib3.Retry(None, connect=0, read=0, status=0, other=0, redirect=5)  # the loop goes on from where it is
    timeout = urllib3.Timeout(_CONNECT_S, 30)
    with closing(Connections(headers=_HEADERS, timeout=timeout, retries=retries)) as connections:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                return _append(connections, url, part, on_bytes)
            except urllib3.exceptions.HTTPError as error:
                tries = 0 if part.exists() and part.stat().st_size > before else tries + 1
                if tries == (_TRIES if before else _TRIES_AT_FIRST):
                    raise SourceError(
                        f"{url} could not be fetched ({_reason(error)}), expected an answer: "
                        + (f"{size(before)} are here, run the same again to go on" if before else _ELSEWHERE)
                    ) from error
            time.sleep(_PAUSE_S * tries)


def _reason(error: Exception) -> str:
    return told(getattr(error, "reason", None) or error)[:200] or type(error).__name__


def _append(connections: Connections, url: str, part: Path, on_bytes: Callable[[int], None]) -> None:
    start = part.stat().st_size if part.exists() else 0
    response = connections.get(url, headers={"Range": f"bytes={start}-", **_HEADERS} if start else None)
    try:
        if start and response.status == 416:  # nothing is left
            return
        if response.status not in (200, 206):
            raise SourceError(f"{url} answers {response.status}, expected a file: it may have moved, see its page")
        part.parent.mkdir(parents=True, exist_ok=True)  # not before there is something to put into it
        with part.open("ab" if response.status == 206 else "wb") as file:
            for chunk in response.stream(_CHUNK_BYTES):
                file.write(chunk)
                on_bytes(len(chunk))
    finally:
        response.close()


def _verify(url: str, part: Path, sha256: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and found != sha256:
        part.unlink()
        raise SourceError(f"{url} has the sha256 {found}, expected {sha256}: it was removed, run the same again")
