"""Calls of Pinecone's client turned into calls that persist, with our errors, and that wait for what they wrote."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, TypeVar

from pinecone import Pinecone
from pinecone.errors import exceptions as errors

from sightline.errors import StoreError, StoreForbidden, StoreNotFound
from sightline.stores.pinecone.entries import one_hot
from sightline.stores.retries import PATIENCE_S, persist
from sightline.stores.url import Address

TAG = {"made-by": "sightline"}
"""On an index that may go when its last namespace goes."""

_NAMESPACE = "sightline"
_NOTES = "-notes"  # behind the namespace of the records
_GONE_S = 120
_VISIBLE_S = 30
_AT_ONCE = 8  # requests under way for one call
_THREADS = "sightline-pinecone"

T = TypeVar("T")
V = TypeVar("V")
_log = logging.getLogger(__name__)


class Connection:
    """One open index: the client's handle for its records, the namespaces, and how calls are made."""

    def __init__(self, address: Address, client: Pinecone, model: Any, *, dim: int, host: str) -> None:
        self.address, self.dim = address, dim
        self.is_serverless = not hasattr(model.deployment, "pod_type")
        self.namespace = namespace_of(address)
        self.notes_namespace = self.namespace + _NOTES
        self.any_vector = one_hot(dim)
        self.index = client.index(host=host)
        self._client = client
        self._is_ours = (model.tags or {}).items() >= TAG.items()
        self._visible_s = address.number("visible_s", _VISIBLE_S)
        self._pool = ThreadPoolExecutor(_AT_ONCE, _THREADS)
        self._closed = False

    def call(self, function: Callable[[], T]) -> T:
        """What a call of the client gives, tried again while the service is away; its errors as ours.

        `StoreNotFound` stands for Pinecone's 404.
        """
        self.check_open()
        try:
            return reach(self.address, function)
        except RuntimeError:
            self.check_open()  # closed by another thread in the middle
            raise

    def read(self, function: Callable[[], T], empty: T) -> T:
        """As `call`, but `empty` where the namespace does not exist, as none does before its first write."""
        try:
            return self.call(function)
        except StoreNotFound:
            self.counts()  # raises if the index itself is gone
            return empty

    def each(self, function: Callable[[V], T], values: Iterable[V]) -> list[T]:
        """The function's results for all values, in order, several at a time."""
        values = list(values)
        is_inner = threading.current_thread().name.startswith(_THREADS)  # one that waits for others would lock them out
        if len(values) < 2 or is_inner:
            return [function(value) for value in values]
        self.check_open()
        try:
            return list(self._pool.map(function, values))
        except (RuntimeError, CancelledError):
            self.check_open()  # closed by another thread in the middle
            raise

    def wait_until(self, seen: Callable[[], bool], what: str) -> None:
        """Return when a write is `seen`, or with a warning after the time that the URL allows for it."""
        until, pause_s = time.monotonic() + self._visible_s, 0.02
        while self._visible_s and not seen():
            if time.monotonic() > until:
                _log.warning("%s: %s is kept but not seen after %d s", self.address.text, what, self._visible_s)
                return
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    def counts(self) -> dict[str, int]:
        """How many entries each namespace has, by `describe_index_stats`."""
        stats = self.call(lambda: self.index.describe_index_stats())
        return {name: summary.vector_count for name, summary in stats.namespaces.items()}

    def drop(self) -> None:
        """Empty both namespaces, remove the index if we made it and nothing else is in it, and close."""
        try:
            self._drop()
        finally:
            self.close()

    def check_open(self) -> None:
        """Raise `StoreError` after `close`."""
        if self._closed:
            raise StoreError(f"the store {self.address.text} was closed: open it again")

    def close(self) -> None:
        """Give back the connections."""
        if not self._closed:
            self._closed = True
            self._pool.shutdown(cancel_futures=True)
            self.index.close()
            self._client.close()

    def _drop(self) -> None:
        for name in (self.namespace, self.notes_namespace):
            try:
                self.call(lambda name=name: self.index.delete(delete_all=True, namespace=name))  # type: ignore[misc]
            except StoreNotFound:
                _log.debug("%s has no namespace %s", self.address.text, name)
        others = {name for name, count in self.counts().items() if count} - {self.namespace, self.notes_namespace}
        if self._is_ours and not others:
            try:
                self.call(lambda: self._client.indexes.delete(self.address.name, timeout=_GONE_S))
            except StoreNotFound:
                _log.debug("%s is gone", self.address.text)


def namespace_of(address: Address) -> str:
    """The namespace of the records that a URL names."""
    return address.options.get("namespace", _NAMESPACE)


def reach(address: Address, function: Callable[[], T]) -> T:
    """What a call of the client gives, tried again while it fails in passing; Pinecone's errors as ours."""
    patience_s = address.number("patience_s", int(PATIENCE_S))
    try:
        return persist(function, is_passing=_is_passing, what=address.text, patience_s=patience_s)
    except (errors.UnauthorizedError, errors.ForbiddenError) as error:
        raise StoreForbidden(
            f"{address.text} refuses the key or what it may do ({error.message}), expected a key of this project with "
            "the right to it: write it as pinecone://:KEY@..., or name its file with key_file"
        ) from error
    except errors.NotFoundError as error:
        raise StoreNotFound(
            f"{address.text} does not find what was asked for ({error.message}), expected the index to stay: look "
            "whether it was removed"
        ) from error
    except errors.PineconeError as error:
        raise StoreError(
            f"{address.text} refused a call ({error.message}), expected it to be taken: look at what Pinecone says"
        ) from error


def _is_passing(error: Exception) -> bool:
    passing = (errors.PineconeConnectionError, errors.PineconeTimeoutError, errors.RateLimitError, errors.ServiceError)
    return isinstance(error, passing) or (isinstance(error, errors.ApiError) and error.status_code == 408)
