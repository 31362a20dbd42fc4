"""A client of Milvus whose calls are tried again while the server is away, and whose errors become ours."""

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sightline.errors import ExtraMissing, SightlineError, StoreBusy, StoreError, StoreForbidden, StoreNotFound
from sightline.stores.milvus.place import Place
from sightline.stores.retries import persist

T = TypeVar("T")

_FORBIDDEN = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
# https://github.com/milvus-io/milvus/blob/master/pkg/util/merr/errors.go: not ready, unavailable, too many requests,
# not loaded (yet), no replica, channel or node at the moment: all pass when a server has started or nodes have moved.
_PASSING_CODES = (1, 2, 4, 8, 101, 103, 401, 500, 503, 901, 902, 904)
_PASSING_WORDS = re.compile("not ready|unavailable|not loaded|recovering|no available|not healthy|node.*offline", re.I)
_SHORTEST_WAIT_S = 1.0
_FIRST_WITH_UPSERT_IN_PARTITIONS = _FIRST_WITH_ARRAY_INDEXES = (2, 4)

_lite_lock = threading.Lock()
_lite_users: Counter[Path] = Counter()  # Lite runs in this process, once for each file, until its last user leaves
_lite_writers: dict[Path, threading.Lock] = {}


class Connection:
    """Milvus at a place. `writing` is held while something is written, and of a Lite file while it is read."""

    def __init__(self, place: Place) -> None:
        self._place, self._is_closed = place, False
        self.unsealed_rows: Counter[str] = Counter()
        self._timeout_s = max(_SHORTEST_WAIT_S, place.patience_s)
        self.is_lite = place.file is not None
        self.client: Any = _lite_client(place.file) if place.file else None
        self.writing: Any = _lite_writers.setdefault(place.file, threading.Lock()) if place.file else _NoLock()
        try:
            if self.client is None:
                self.client = self._persist(self._connected)
            self.version = str(self.call("get_server_version"))
        except BaseException:
            self.close()
            raise
        self.is_lite = "lite-" in self.version or self.is_lite  # 2.3.5-lite is a server, milvus_lite-3.2.2 is Lite
        numbers = tuple(map(int, re.findall(r"\d+", self.version)[:2]))
        self.has_array_indexes = not self.is_lite and numbers >= _FIRST_WITH_ARRAY_INDEXES
        self.text_index = "INVERTED" if self.is_lite or self.has_array_indexes else "Trie"
        self.can_upsert_partitions = self.is_lite or numbers >= _FIRST_WITH_UPSERT_IN_PARTITIONS

    def call(self, method: str, *given: Any, **options: Any) -> Any:
        """What a method of the client gives, which must be safe to repeat.

        Raises `StoreUnreachable`, `StoreForbidden` and `StoreError`.
        """
        self.check_open()
        action = getattr(self.client, method)
        options = {"timeout": self._timeout_s, **options}
        return self._persist(lambda: action(*given, **options))

    def check_open(self) -> None:
        """Raise `StoreError` after `close`."""
        if self._is_closed:
            raise StoreError(f"{self._place.text} was closed: open it again")

    def close(self) -> None:
        """Give back the connection; the last one of a Lite file closes it."""
        if self._is_closed:
            return
        self._is_closed = True
        if self.client is not None:
            self.client.close()
        if self._place.file and self.client is not None:
            _leave_lite(self._place.file)

    def _connected(self) -> Any:
        client = _client_class()
        place = self._place
        tls = {"server_pem_path": place.ca_file} if place.ca_file else {}
        return client(
            uri=place.uri,
            token=place.token,
            db_name=place.database,
            timeout=self._timeout_s,
            dedicated=True,  # shared ones mix up databases, and are never closed
            **tls,
        )

    def _persist(self, action: Callable[[], T]) -> T:
        place = self._place
        try:
            return persist(action, is_passing=_is_passing, what=place.text, patience_s=place.patience_s)
        except SightlineError:
            raise
        except Exception as error:
            raise translated(error, place.text) from error


def translated(error: Exception, what: str) -> StoreError:
    """An error of the client as one of ours."""
    statuses = set(_statuses(error))
    words = _message(error)
    if statuses & set(_FORBIDDEN):
        return StoreForbidden(
            f"{what} refuses the credentials ({words}), expected the user and key of an account that may use it: "
            "correct user:key@ in the URL, or key_file"
        )
    if getattr(error, "code", None) == 100:
        return StoreNotFound(f"{what} is gone ({words}), expected its collections: index again, or restore them")
    return StoreError(f"{what} refuses a call ({words}), expected it to work: look at the server's log")


def _is_passing(error: Exception) -> bool:
    statuses = set(_statuses(error))
    if statuses & set(_FORBIDDEN):
        return False
    code = getattr(error, "code", None)
    if statuses & set(_AWAY) or (isinstance(code, int) and code in _PASSING_CODES):
        return True
    return bool(code == 65535 and _PASSING_WORDS.search(_message(error)))


def _statuses(error: BaseException) -> Iterator[str]:
    """The names of the gRPC statuses in an error and in what caused it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:  # the client raises errors from themselves
            continue
        seen.add(id(one))
        code = getattr(one, "code", None)
        status = code() if callable(code) else code
        if not isinstance(status, int) and (name := getattr(status, "name", "")):
            yield str(name)
        pending += [one.__cause__, one.__context__]


def _message(error: Exception) -> str:
    details = getattr(error, "details", None)
    words = getattr(error, "message", None) or (details() if callable(details) else "") or str(error)
    return str(words).strip().split("\n", 1)[0][:300] or type(error).__name__


def _client_class() -> Any:
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise ExtraMissing(
            f"the package {error.name!r} is not installed, an index in Milvus needs it: pip install 'sightline[milvus]'"
        ) from error
    # It logs each error with its trace to the terminal, those that are tried again and those that we raise, too.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return MilvusClient


def _lite_client(file: Path) -> Any:
    client = _client_class()
    try:
        import milvus_lite  # noqa: F401
    except ImportError as error:
        raise ExtraMissing(
            "the package 'milvus_lite' is not installed, an index in a file needs it: pip install 'sightline[milvus]'"
        ) from error
    logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)
    if _is_news not in logging.getLogger("grpc._server").filters:
        logging.getLogger("grpc._server").addFilter(_is_news)
    with _lite_lock:
        try:
            opened = client(uri=str(file.absolute()), dedicated=True)
        except Exception as error:
            if _is_held(file):
                raise StoreBusy(
                    f"{file} is open in another process, expected none: Milvus Lite serves one at a time, so close it "
                    "there, or use a server"
                ) from error
            raise StoreError(f"{file} cannot be opened by Milvus Lite ({_message(error)}): restore a backup") from error
        _lite_users[file] += 1
    return opened


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the log is more than the trace of a call that Lite does not know and the client can miss."""
    return not (record.exc_info and isinstance(record.exc_info[1], NotImplementedError))


def _leave_lite(file: Path) -> None:
    from milvus_lite.server_manager import server_manager_instance

    with _lite_lock:
        _lite_users[file] -= 1
        if _lite_users[file] == 0:
            server_manager_instance.release_server(str(file.absolute()))


def _is_held(file: Path) -> bool:
    try:
        import fcntl

        with (file / "LOCK").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


class _NoLock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
