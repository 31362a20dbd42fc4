"""A URL turned into the store that it names, deployed first if nothing is there."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vespa.package import ApplicationPackage

from sightline.errors import DimensionMismatch, StoreError, StoreForbidden, StoreNotFound, StoreUnreachable, UsageError
from sightline.stores.checks import check_dim
from sightline.stores.retries import PATIENCE_S
from sightline.stores.url import Address, StoreUrl, parse_address
from sightline.stores.vespa.client import Client, is_away, is_passing, refusal, status_of
from sightline.stores.vespa.deploy import ConfigServer
from sightline.stores.vespa.package import EXPLORED, LINKS, NOTES, build, check_name
from sightline.stores.vespa.records import document_name, document_note, note_document
from sightline.stores.vespa.store import VespaStore

_OPTIONS = ("config_port", "cert", "cert_key", "tls", "exact", "patience_s", "start_s", "text_model", "links", "insert")
_CONFIG_PORT = 19071
_START_S = 300  # an application starts in about half a minute
_PAUSE_S = 0.2
_UNKNOWN_TYPE = 400  # the status for a document type that no schema defines
_MARK = "sightline"  # the kind of note, and its key, that says what an index is
_FORMAT = 1


def open_url(url: StoreUrl, *, dim: int | None = None) -> VespaStore:
    """The store of `vespa://host:8080/name`, deployed if `dim` is given and nothing is there.

    Raises `UsageError`, `StoreNotFound`, `DimensionMismatch`, `StoreForbidden`, `StoreUnreachable` or `StoreError`.
    """
    address = parse_address(url, _OPTIONS)
    check_name(address.name)
    if dim is not None:
        check_dim(dim)
    _check_files(address)
    patience_s = address.number("patience_s", round(PATIENCE_S))
    host = f"[{address.host}]" if ":" in address.host else address.host or "localhost"
    server = ConfigServer(f"http://{host}:{address.number('config_port', _CONFIG_PORT)}", patience_s)
    client = Client(address, patience_s)
    try:
        dim = _prepared(client, server, address, dim)
        return VespaStore(client, server, address.name, dim, is_exact=address.is_on("exact"))
    except BaseException:
        client.close()
        raise


def _check_files(address: Address) -> None:
    for option in ("cert", "cert_key"):
        if option in address.options and not Path(address.options[option]).is_file():
            raise UsageError(
                f"{option}={address.options[option]} of {address.text} is no file, expected a certificate or its "
                "key in PEM format: correct the path"
            )


def _prepared(client: Client, server: ConfigServer, address: Address, dim: int | None) -> int:
    """The dim of the index that is there, or is there now."""
    mark = _mark(client, server, address)
    if not mark and dim is None:
        raise StoreNotFound(f"{address.text} holds no index, expected one that was indexed: index something first")
    if mark is None:
        server.add(_package(address, dim or 0))
        mark = _started(client, address, dim or 0)
    elif not mark:
        mark = _claimed(client, address, dim or 0)
    if dim not in (None, mark["dim"]):
        raise DimensionMismatch(
            f"{address.text} holds vectors of {mark['dim']} dimensions, not {dim}: use the model it was built with, or "
            "another name"
        )
    return int(mark["dim"])


def _mark(client: Client, server: ConfigServer, address: Address) -> Mapping[str, Any] | None:
    """What an index says of itself: None if its schemas are not deployed, empty if they are new."""
    schema, name = address.name + NOTES, document_name(_MARK, _MARK)
    try:
        fields = client.try_get(schema, name)
    except Exception as error:
        if status_of(error) == _UNKNOWN_TYPE or (is_away(error) and server.is_empty()):
            return None  # Vespa does not listen before it has an application
        if not is_passing(error):
            raise refusal(address.text, error) from error
        fields = client.get(schema, name)
    return document_note(fields)[2] if fields and "record" in fields else {}


def _claimed(client: Client, address: Address, dim: int) -> Mapping[str, Any]:
    """The mark of an index whose schemas are new, once it is seen that they are ours and of this dim."""
    mark = {"dim": dim, "format": _FORMAT}
    nearest = "{targetHits: 1}nearestNeighbor(vector, q)"
    try:
        client.query(
            {
                "yql": f"select * from sources * where ({nearest}) limit 1",
                "presentation.summary": "short",
                "ranking.profile": "nearest",
                "model.restrict": address.name,
                "input.query(q)": [1.0] + [0.0] * (dim - 1),
            }
        )
        client.put(address.name + NOTES, [mark], lambda one: note_document(_MARK, _MARK, dict(one)))
    except StoreError as error:
        if isinstance(error, StoreForbidden | StoreUnreachable):
            raise
        raise StoreError(
            f"{address.text} holds schemas that are not Sightline's with {dim} dimensions ({error}), expected none or "
            "such as sightline.stores.vespa.application_package writes: choose another name"
        ) from error
    return mark


def _package(address: Address, dim: int) -> ApplicationPackage:
    text_model = address.options.get("text_model")
    return build(
        address.name,
        dim,
        text_model=Path(text_model).expanduser() if text_model else None,
        links=address.number("links", LINKS),
        explored=address.number("insert", EXPLORED),
    )


def _started(client: Client, address: Address, dim: int) -> Mapping[str, Any]:
    """The mark of an index that was deployed just now: until everything serves its schemas, calls fail in many ways."""
    start_s = address.number("start_s", _START_S)
    until = time.monotonic() + start_s
    while True:
        try:
            return _claimed(client, address, dim)
        except StoreForbidden:
            raise
        except StoreError as error:
            if time.monotonic() > until:
                raise StoreUnreachable(
                    f"{address.text} does not serve the application that was deployed {start_s} s ago ({error}), "
                    "expected it to start: look into Vespa's log, then run the same again"
                ) from error
        time.sleep(_PAUSE_S)
