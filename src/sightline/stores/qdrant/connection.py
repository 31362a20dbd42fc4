"""Calls to Qdrant: made through its official client, again while the server is away, and failing with our errors."""

import json
import logging
import socket
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from sightline.errors import StoreBusy, StoreError, StoreForbidden, StoreFull, StoreNotFound
from sightline.stores.qdrant.settings import Settings
from sightline.stores.retries import persist

T = TypeVar("T")

_PROBE_S = 1.0  # for the gRPC port to answer; a firewall that drops packets costs this once per opening
_PASSING_STATUS = (408, 429, 502, 503, 504)
_PASSING_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
)
_RECONNECTING = {  # else a server that is back is missed for a second at least, and for two minutes at most
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 5000,
}
_FORBIDDEN = (401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_MISSING = (404, grpc.StatusCode.NOT_FOUND)
_THERE = (409, grpc.StatusCode.ALREADY_EXISTS)
_FULL = 507
_log = logging.getLogger(__name__)


class Refused(StoreError):
    """The server refused one call by a rule of its own: a limit of strict mode, or a collection that exists."""


class _Away(Exception):
    """The server does not answer now; its words fit a message, where the client prints whole traces."""


class Connection:
    """A client of one server or folder, for many threads."""

    def __init__(self, settings: Settings) -> None:
        self.is_local = bool(settings.folder)
        self._settings = settings
        self._what = f"Qdrant at {settings.folder or settings.address.text}"
        self._client: QdrantClient | None = None
        self._is_closed = False
        self._lock = threading.RLock()  # local mode is not made for threads
        self._client = self._again(lambda: _local(settings) if self.is_local else _remote(settings))

    def ask(self, call: Callable[[QdrantClient], T]) -> T:
        """What the call gives; it is made again while the server is away, so it must be safe to repeat."""
        client = self.opened()
        if not self.is_local:
            return self._again(lambda: call(client))
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # local mode warns of its size, for which the docs have a page
            return self._again(lambda: call(client))

    def opened(self) -> QdrantClient:
        """The client; `StoreError` once it was closed."""
        if self._client is None:
            raise StoreError(f"{self._what} was closed, expected an open store: open it again")
        return self._client

    def close(self) -> None:
        """Give back the connections; further calls raise `StoreError`."""
        with self._lock:
            client, self._client, self._is_closed = self._client, None, True
            if client is not None:
                client.close()

    def _again(self, call: Callable[[], T]) -> T:
        def attempt() -> T:
            try:
                return call()
            except Exception as error:
                if _is_passing(error):
                    raise _Away(_words_of(error)) from error
                raise

        what, patience_s = self._what, self._settings.patience_s
        try:
            return persist(attempt, is_passing=lambda error: isinstance(error, _Away), what=what, patience_s=patience_s)
        except StoreError:
            raise
        except (UnexpectedResponse, ResponseHandlingException, grpc.RpcError) as error:
            raise _translated(error, what) from error
        except (ValueError, RuntimeError, OSError) as error:
            if self._is_closed:  # by another thread, meanwhile
                self.opened()
            raise _translated_other(error, what, is_local=self.is_local) from error


def _remote(settings: Settings) -> QdrantClient:
    """A client that speaks gRPC if that port answers, and REST otherwise."""
    address = settings.address
    if address.key and not settings.is_tls:
        _log.warning("the key for %s travels unencrypted: add tls=true if the server has it", address.text)
    if settings.is_grpc and _listens(address.host, settings.grpc_port):
        client = _client(settings, prefer_grpc=True)
        try:
            client.info()
        except grpc.RpcError as error:
            _log.info("port %d of %s speaks no gRPC (%s): using REST", settings.grpc_port, address.host, error)
            client.close()
        else:
            return client
    client = _client(settings, prefer_grpc=False)
    client.info()
    return client


def _client(settings: Settings, *, prefer_grpc: bool) -> QdrantClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the unencrypted key, which is logged
        return QdrantClient(
            host=f"[{settings.address.host}]" if ":" in settings.address.host else settings.address.host,
            port=settings.port,
            grpc_port=settings.grpc_port,
            prefer_grpc=prefer_grpc,
            https=settings.is_tls,
            api_key=settings.address.key or None,
            timeout=settings.timeout_s,
            check_compatibility=False,  # it asks in a thread of its own and warns
            grpc_options=_RECONNECTING,
        )


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), _PROBE_S):
            return True
    except OSError:
        return False


def _local(settings: Settings) -> QdrantClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return QdrantClient(path=settings.folder, force_disable_check_same_thread=True)


def _is_passing(error: Exception) -> bool:
    if isinstance(error, ResponseHandlingException):
        return isinstance(error.source, httpx.TransportError)
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _PASSING_STATUS
    if isinstance(error, grpc.RpcError):
        return _code_of(error) in _PASSING_CODES and "larger than max" not in _words_of(error)
    return isinstance(error, ResourceExhaustedResponse)  # a rate limit of strict mode


def _code_of(error: Exception) -> Any:
    """The HTTP status or gRPC code."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code
    return error.code() if hasattr(error, "code") else None


def _words_of(error: Exception) -> str:
    """What the server said."""
    if isinstance(error, UnexpectedResponse):
        try:
            return str(json.loads(error.content)["status"]["error"])
        except (ValueError, KeyError, TypeError):
            return error.content.decode("utf-8", "replace").strip()[:300] or error.reason_phrase
    if isinstance(error, ResponseHandlingException):
        return str(error.source).strip().split("\n", 1)[0] or type(error.source).__name__
    return str(error.details()) if hasattr(error, "details") else str(error)


def _translated(error: Exception, what: str) -> StoreError:
    code, words = _code_of(error), _words_of(error)
    if code in _THERE or "Help:" in words:  # strict mode ends its refusals with "Help:"
        return Refused(
            f"{what} refused: {words}; expected a request within its limits: ask for less, or raise the limit"
        )
    if code in _FORBIDDEN:
        return StoreForbidden(
            f"{what} refuses the credentials ({words}), expected a key that may read and write this collection: "
            "give it as the URL's password, qdrant://:KEY@host:6333/name, or by key_file="
        )
    if code in _MISSING:
        return StoreNotFound(f"{what} lost a collection ({words}), expected it to stay while it is open: open it again")
    if code == _FULL or "No space left" in words:
        return StoreFull(f"{what} has no room ({words}), expected some: enlarge its disk or memory, then repeat")
    return StoreError(f"{what} failed: {words}; expected a running Qdrant 1.12 or newer: look into its log")


def _translated_other(error: Exception, what: str, *, is_local: bool) -> StoreError:
    """What the client itself raises: in local mode everything, else where an answer cannot be understood."""
    if not is_local:
        return StoreError(f"{what} gave an answer that is not Qdrant's ({error}), expected a running Qdrant: check it")
    if "already accessed" in str(error):
        return StoreBusy(f"{what} is open in another process, expected one at a time: close it there, or use a server")
    if "already exists" in str(error):
        return Refused(f"{what} refused: {error}")
    return StoreError(f"{what} failed: {error}; expected a folder of the client's local mode: name another folder")
