"""A URL turned into a JSON value within a few seconds, or into a verified file however often the line breaks."""

import errno
import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from sightline.errors import HubUnreachable, ModelDamaged

if TYPE_CHECKING:
    import ssl

_STALL_S = 30.0  # a download that brings nothing for so long is asked for again
_TRIES = 4  # in a row that bring nothing
_PAUSE_S = 0.5
_CHUNK_BYTES = 1 << 20
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository: large ones come with their SHA-256, small ones with git's SHA-1 of the blob."""

    path: str
    size_bytes: int
    sha256: str = ""
    blob: str = ""


def fetch_json(url: str, *, token: str | None, answer_s: float) -> Any:
    """The JSON at a URL; raises an `OSError` (`TimeoutError` after so many seconds in all) or a `ValueError`.

    The time limit holds for looking up the name, connecting and reading together, which a socket's timeout does not.
    """
    outcome: SimpleQueue[tuple[bytes, Exception | None]] = SimpleQueue()

    def ask() -> None:
        try:
            with _open(url, token, answer_s) as response:
                outcome.put((response.read(), None))
        except Exception as error:  # handed to the thread that waits
            outcome.put((b"", error))

    threading.Thread(target=ask, daemon=True, name="sightline-hub").start()
    try:
        data, error = outcome.get(timeout=answer_s)
    except Empty:
        raise TimeoutError(f"no answer within {answer_s:g} s") from None
    if error is not None:
        raise error
    return json.loads(data)


def download(url: str, target: Path, file: RemoteFile, *, token: str | None, on_bytes: Callable[[int], None]) -> None:
    """Fetch a file to `target`, going on where an earlier attempt stopped, and see that it is the right one.

    Raises `HubUnreachable`, leaving what has come so far for the next attempt, `ModelDamaged`, leaving nothing, or an
    `OSError` of the disk.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    on_bytes(part.stat().st_size)
    tries = 0
    while (before := part.stat().st_size) < file.size_bytes:
        try:
            _append(url, part, token, on_bytes)
            trouble: Exception = ConnectionError("the connection was closed early")
        except Exception as error:  # network errors share no base class but this
            trouble = error
        if isinstance(trouble, OSError) and trouble.errno in _DISK and not hasattr(trouble, "reason"):
            raise trouble
        tries = 0 if part.stat().st_size > before else tries + 1
        if tries == _TRIES:
            raise HubUnreachable(
                f"{url} could not be fetched ({reason(trouble)}), got {before:,} of {file.size_bytes:,} bytes: "
                "run the same again, it goes on from there"
            ) from trouble
        time.sleep(_PAUSE_S * tries)
    _verify(part, file, url)
    part.replace(target)


def reason(error: Exception) -> str:
    """What went wrong on the network, in a few words."""
    inner = getattr(error, "reason", None)
    code = getattr(error, "code", None)
    if code is not None:
        return f"status {code} {inner or ''}".strip()
    text = str(inner if isinstance(inner, Exception | str) else error)
    return text or type(error).__name__


def _open(url: str, token: str | None, timeout_s: float, start: int = 0) -> Any:
    from urllib.error import HTTPError
    from urllib.request import HTTPSHandler, Request, build_opener

    request = Request(url, headers={"User-Agent": "sightline"})
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # not for the servers it is sent on to
    if start:
        request.add_header("Range", f"bytes={start}-")
    handlers = [HTTPSHandler(context=_certificates())] if url.startswith("https:") else []
    try:
        return build_opener(*handlers).open(request, timeout=timeout_s)
    except HTTPError as error:
        error.close()  # it holds the connection
        raise


@cache  # 30 ms to make, and a model may have a hundred files
def _certificates() -> "ssl.SSLContext":
    """The system's certificates; Python on a Mac may have none of its own, then those that pip's packages brought."""
    import ssl

    context = ssl.create_default_context()
    if not context.get_ca_certs():
        try:
            import certifi
        except ImportError:
            return context
        context.load_verify_locations(certifi.where())
    return context


def _append(url: str, part: Path, token: str | None, on_bytes: Callable[[int], None]) -> None:
    start = part.stat().st_size
    with _open(url, token, _STALL_S, start) as response:
        if start and response.status != 206:
            on_bytes(-start)
        with part.open("ab" if response.status == 206 else "wb") as file:
            while chunk := response.read1(_CHUNK_BYTES):
                file.write(chunk)
                on_bytes(len(chunk))


def _verify(part: Path, file: RemoteFile, url: str) -> None:
    kind, expected = ("sha256", file.sha256) if file.sha256 else ("sha1", file.blob)
    digest = hashlib.new(kind)
    if kind == "sha1":
        digest.update(f"blob {file.size_bytes}\0".encode())  # how git hashes a file
    with part.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    if expected and digest.hexdigest() != expected:
        part.unlink()
        raise ModelDamaged(
            f"{url} has the {kind} {digest.hexdigest()}, expected {expected}: it was removed, run the same again; "
            "if that does not help, something between you and the hub changes files"
        )
