"""A file on the web downloaded to this disk: resumed where an earlier attempt stopped, and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.errors import WrongContent

if TYPE_CHECKING:
    import urllib3

    from sightline.web.client import HttpClient, Retries

PATIENCE_S = 150.0
"""How long a download that brings nothing is tried again."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a file before it comes: git's SHA-1 of the blob, a SHA-256, or nothing."""

    size_bytes: int | None = None
    sha256: str = ""
    git_sha1: str = ""


def download(
    client: HttpClient,
    url: str,
    target: Path,
    expected: Expected,
    *,
    headers: Mapping[str, str] | None = None,
    first_patience_s: float | None = None,
    on_bytes: Callable[[int], None],
) -> None:
    """Fetch a file to `target`; what has come so far lies beside it, in TARGET.part, for the next attempt.

    `first_patience_s` is how long to try while nothing at all has come, if that is another time. `on_bytes` is called
    with the size of each piece, below zero when the server starts over. Raises `WebError`, `WrongContent`, leaving
    nothing, or an `OSError` of the disk.
    """
    from urllib3.exceptions import HTTPError, ProtocolError

    from sightline.web.client import give_back

    part = target.with_name(f"{target.name}.part")
    on_bytes(_size(part))
    retries = _patience(PATIENCE_S if first_patience_s is None or _size(part) else first_patience_s)
    while (start := _size(part)) != expected.size_bytes:
        sent = {**(headers or {}), **({"Range": f"bytes={start}-"} if start else {})}
        response = client.open(url, headers=sent, retries=retries)
        try:
            if start and response.status == 416:  # nothing is left
                break
            _append(url, response, part, on_bytes)
            if expected.size_bytes in (None, _size(part)):
                break
            raise ProtocolError("closed early")
        except HTTPError as error:
            if _size(part) > start:
                retries = _patience(PATIENCE_S)
            if not retries.wait(url, error):
                raise client.error(url, error) from error
        finally:
            give_back(response)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()  # of nothing at all
    _verify(url, part, expected)
    part.replace(target)


def _patience(within_s: float) -> Retries:
    from sightline.web.client import Retries

    return Retries(within_s=within_s, pause_s=1.0, longest_wait_s=300.0)


def _append(url: str, response: urllib3.BaseHTTPResponse, part: Path, on_bytes: Callable[[int], None]) -> None:
    from sightline.web.client import refused

    if response.status not in (200, 206):
        raise refused(url, response.status)
    part.parent.mkdir(parents=True, exist_ok=True)  # not before there is something to put into it
    if response.status == 200:
        on_bytes(-_size(part))
    with part.open("ab" if response.status == 206 else "wb") as file:
        while chunk := response.read1(_CHUNK_BYTES):
            file.write(chunk)
            on_bytes(len(chunk))


def _verify(url: str, part: Path, expected: Expected) -> None:
    kind, announced = ("sha256", expected.sha256) if expected.sha256 else ("sha1", expected.git_sha1)
    digest = hashlib.new(kind)
    if kind == "sha1":
        digest.update(f"blob {_size(part)}\0".encode())  # how git hashes a file
    with part.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    if announced and digest.hexdigest() != announced:
        part.unlink()
        raise WrongContent(url, f"has the {kind} {digest.hexdigest()}, expected {announced}: it was removed")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
