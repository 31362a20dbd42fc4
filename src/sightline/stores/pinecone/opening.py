"""A URL turned into an open Pinecone index, which is created when it is missing."""

import re
import time
from collections.abc import Sequence
from typing import Any

from pinecone import Pinecone
from pinecone.errors import exceptions as errors

from sightline.errors import DimensionMismatch, StoreError, StoreForbidden, StoreNotFound, UsageError
from sightline.stores.checks import check_dim
from sightline.stores.pinecone.connection import TAG, Connection, namespace_of, reach
from sightline.stores.url import Address, StoreUrl, parse_address

OPTIONS = (
    "namespace",
    "cloud",
    "region",
    "environment",
    "pod_type",
    "replicas",
    "shards",
    "tls",
    "patience_s",
    "visible_s",
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?")
_SERVICE = "api.pinecone.io"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_METRICS = ("dotproduct", "cosine")  # the same for unit vectors; Pinecone's cosine divides once more
_TIMEOUT_S = 30
_READY_S = 300.0  # pods take minutes


def connect(url: StoreUrl, *, dim: int | None) -> Connection:
    """The index that a URL names, created if `dim` is given and it is missing; raises as `open_store` does."""
    address = parse_address(url, OPTIONS)
    _check_names(address)
    client = _client(address)
    try:
        model = _described(address, client)
        if model is None:
            if dim is None:
                raise StoreNotFound(
                    f"{address.text} has no index {address.name!r}, expected one that exists: index something first, "
                    "or correct the name"
                )
            model = _created(address, client, dim)
        model = _ready(address, client, model)
        found_dim = _dim(address, model)
        if dim is not None and dim != found_dim:
            raise DimensionMismatch(
                f"{address.text} holds vectors of {found_dim} dimensions, expected {dim}: open it with the model "
                "it was built with, or name another index"
            )
        return Connection(address, client, model, dim=found_dim, host=_host(address, model.host))
    except BaseException:
        client.close()
        raise


def _check_names(address: Address) -> None:
    if not _NAME.fullmatch(address.name):
        raise UsageError(
            f"the index {address.name!r} of {address.text} is no name for Pinecone, expected up to 45 small letters, "
            "digits and hyphens inside: rename it"
        )
    namespace = namespace_of(address)
    if not namespace or not namespace.isascii() or not namespace.isprintable() or len(namespace) > 500:
        raise UsageError(
            f"the namespace {namespace!r} of {address.text} is no name for Pinecone, expected 1 to 500 visible ASCII "
            "characters: rename it"
        )


def _client(address: Address) -> Pinecone:
    scheme = "https" if _is_encrypted(address) else "http"
    port = f":{address.port}" if address.port is not None else ""
    timeout_s = min(_TIMEOUT_S, max(1, address.number("patience_s", _TIMEOUT_S)))
    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        return Pinecone(address.key or None, host=f"{scheme}://{host or _SERVICE}{port}", timeout=timeout_s)
    except errors.PineconeValueError as error:
        raise StoreForbidden(
            f"{address.text} has no usable key ({error.message}), expected one: write it as pinecone://:KEY@..., or "
            "name its file with key_file"
        ) from error


def _described(address: Address, client: Pinecone) -> Any:
    try:
        return reach(address, lambda: client.indexes.describe(address.name))
    except StoreNotFound:
        return None


def _created(address: Address, client: Pinecone, dim: int) -> Any:
    check_dim(dim)

    def create() -> Any:
        try:
            return client.indexes.create(
                name=address.name,
                dimension=dim,  # an index for vectors, as `upsert` and `query` want it, and not one for documents
                metric="dotproduct",
                deployment=_deployment(address),
                tags=TAG,
                timeout=-1,
            )
        except errors.ConflictError:  # made at the same time by another process, or by a call whose answer was lost
            return client.indexes.describe(address.name)

    return reach(address, create)


def _deployment(address: Address) -> dict[str, Any]:
    options = address.options
    if "environment" in options:
        return {
            "deployment_type": "pod",
            "environment": options["environment"],
            "pod_type": options.get("pod_type", "p1.x1"),
            "replicas": address.number("replicas", 1),
            "shards": address.number("shards", 1),
        }
    cloud, region = options.get("cloud", "aws"), options.get("region", "us-east-1")
    return {"deployment_type": "managed", "cloud": cloud, "region": region}


def _ready(address: Address, client: Pinecone, model: Any) -> Any:
    until, pause_s = time.monotonic() + _READY_S, 0.1
    while not model.status.ready or not model.host:
        if model.status.state in ("InitializationFailed", "Terminating", "Disabled") or time.monotonic() > until:
            raise StoreError(
                f"the index of {address.text} is {model.status.state!r}, expected it to become ready within "
                f"{_READY_S:.0f} s: look at it in Pinecone's console"
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 5.0)
        model = reach(address, lambda: client.indexes.describe(address.name))
    return model


def _dim(address: Address, model: Any) -> int:
    """The length of the index's vectors; `StoreError` if they are not as Sightline needs them."""
    dense: Sequence[Any] = [field for field in model.schema.fields.values() if hasattr(field, "dimension")]
    if len(dense) != 1 or dense[0].metric not in _METRICS:
        found = ", ".join(f"{name}: {type(field).__name__}" for name, field in model.schema.fields.items())
        metrics = ", ".join(str(field.metric) for field in dense)
        raise StoreError(
            f"the index of {address.text} was made for something else ({found}; metric {metrics or 'none'}), expected "
            "one dense vector with the metric dotproduct or cosine: name another index"
        )
    return int(dense[0].dimension)


def _host(address: Address, host: str) -> str:
    """Where the records are. The client takes the host for https, which a local server may not speak."""
    return host if _is_encrypted(address) else f"http://{host.removeprefix('https://')}"


def _is_encrypted(address: Address) -> bool:
    return address.is_on("tls") if "tls" in address.options else address.host not in _LOCAL
