"""Calls to a running Vespa application turned into answers, or into errors that say what to do."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import httpr
from requests.exceptions import HTTPError
from vespa.application import Vespa, VespaSync
from vespa.exceptions import VespaError

from sightline.chunks import chunks
from sightline.errors import StoreError, StoreForbidden, StoreFull
from sightline.stores.retries import persist
from sightline.stores.url import Address

WORKERS = 16
"""Writes in flight: /document/v1 takes one document per request, and Vespa answers 429 when they are too many."""

_AT_ONCE = 1024  # documents handed to the workers together, which bounds the memory
_PASSING = (408, 429, 502, 503, 504)  # too much at once, starting, restarting or too slow: worth another try
_TIMEOUT_S = 60
_SETTINGS: Mapping[str, Any] = {
    "timeout": f"{_TIMEOUT_S}s",  # Vespa's own half a second gives what it has by then
    "ranking.softtimeout.enable": False,  # all or an error, never a part
    "sorting.degrading": False,  # else sorting counts, and finds, a part only
    "dispatch.topKProbability": 1.0,  # several nodes: each is asked for as many as are wanted
    "presentation.format.tensors": "short",
}

T = TypeVar("T")
D = TypeVar("D")


class Degraded(Exception):
    """An answer from a part of the nodes."""


class Client:
    """pyvespa's synchronous session, kept open; safe in many threads. `patience_s` is for a server that is away."""

    def __init__(self, address: Address, patience_s: float) -> None:
        self.address, self._patience_s = address, patience_s
        is_safe = address.is_on("tls") or "cert" in address.options
        app = Vespa(
            f"{'https' if is_safe else 'http'}://{_host(address)}",
            port=address.port or (443 if is_safe else 8080),
            cert=address.options.get("cert"),
            key=address.options.get("cert_key"),
            vespa_cloud_secret_token=address.key or None,
        )
        # No retries of its own: it knows no patience. Compression costs more than it saves but on long ways.
        compress = "auto" if is_safe else False
        session = VespaSync(app, pool_maxsize=WORKERS, compress=compress, num_retries_429=0)
        self._session: Any = session.__enter__()  # type: ignore[no-untyped-call]
        self._workers = ThreadPoolExecutor(WORKERS, "sightline-vespa")
        self._is_closed = False

    def query(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The root of the answer to a query, from all nodes."""
        return self._persist(lambda: _whole(self._session.query(body={**_SETTINGS, **body}).json))

    def get(self, schema: str, name: str) -> Mapping[str, Any] | None:
        """The fields of a document, or None."""
        return self._persist(lambda: self.try_get(schema, name))

    def try_get(self, schema: str, name: str) -> Mapping[str, Any] | None:
        """The same without patience: raises whatever the client raises."""
        answer = self._session.get_data(schema, name, namespace=schema)
        fields: Mapping[str, Any] | None = answer.json.get("fields") if answer.status_code == 200 else None
        return fields

    def put(self, schema: str, documents: Iterable[D], encode: Callable[[D], tuple[str, Mapping[str, Any]]]) -> None:
        """Write documents, each as a name and its fields, which the workers make; returns when all are durable."""

        def write(document: D) -> None:
            name, fields = encode(document)
            self._persist(lambda: self._session.feed_data_point(schema, name, dict(fields), namespace=schema))

        self._each(write, documents)

    def remove(self, schema: str, names: Iterable[str]) -> None:
        """Remove documents; returns when that is durable."""
        self._each(lambda name: self._persist(lambda: self._session.delete_data(schema, name, namespace=schema)), names)

    def close(self) -> None:
        """Finish what is under way and close the connections."""
        if not self._is_closed:
            self._is_closed = True
            self._workers.shutdown()
            self._session.__exit__(None, None, None)

    def _each(self, do: Callable[[D], Any], documents: Iterable[D]) -> None:
        self._check_open()
        for few in chunks(documents, _AT_ONCE):
            try:
                futures = [self._workers.submit(do, document) for document in few]
            except RuntimeError:  # closed meanwhile by another thread
                self._check_open()
                raise
            done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
            for future in waiting:  # one failed: those under way end, the others never begin
                future.cancel()
            wait(waiting)
            for future in done:
                future.result()

    def _persist(self, call: Callable[[], T]) -> T:
        self._check_open()
        try:
            return persist(call, is_passing=is_passing, what=self.address.text, patience_s=self._patience_s)
        except (VespaError, HTTPError, httpr.HTTPError) as error:
            raise refusal(self.address.text, error) from error

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreError(f"{self.address.text} was closed, expected an open store: open it again")


def is_passing(error: Exception) -> bool:
    """Whether the same call may do better in a moment."""
    return isinstance(error, httpr.RequestError | Degraded) or status_of(error) in _PASSING


def is_away(error: Exception) -> bool:
    """Whether nobody answers at all."""
    return isinstance(error, httpr.RequestError)


def status_of(error: BaseException) -> int:
    """The HTTP status behind an error of pyvespa; 0 without one."""
    for one in (error, error.__cause__):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return 0


def refusal(what: str, error: Exception) -> StoreError:
    """Our error for one that does not pass."""
    status, text = status_of(error), str(error)[:300]
    if status in (401, 403):
        return StoreForbidden(
            f"{what} refuses the credentials ({status}), expected a token in the URL (vespa://:TOKEN@host/name), a "
            "key_file, or cert and cert_key: give those of the application"
        )
    if status == 507:
        return StoreFull(
            f"{what} has no room for more (507: {text}), expected memory and disk below Vespa's limits: add nodes or "
            "memory, then run the same again; what was acknowledged is kept"
        )
    return StoreError(f"{what} refused a call ({status}: {text}), expected it to pass: look into Vespa's log")


def _whole(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    root: Mapping[str, Any] = answer["root"]
    if root.get("errors"):
        raise VespaError(root["errors"])
    coverage = root.get("coverage", {})
    if coverage.get("degraded") or not coverage.get("full", True):
        raise Degraded(f"only {coverage.get('coverage')} % of the documents were searched")
    return root


def _host(address: Address) -> str:
    return f"[{address.host}]" if ":" in address.host else address.host or "localhost"
