"""Qdrant, on a server, in a cluster or in a folder, as a store."""

from typing import TYPE_CHECKING

from sightline.errors import ExtraMissing
from sightline.stores.url import StoreUrl

if TYPE_CHECKING:
    from sightline.stores.qdrant.store import QdrantStore


def open_url(url: StoreUrl, *, dim: int | None = None) -> "QdrantStore":
    """The store in a collection of Qdrant, created if `dim` is given and nothing is there.

    `qdrant://:key@host:6333/collection?option=value`, or `qdrant:///folder?collection=name` for its local mode.
    """
    try:
        from sightline.stores.qdrant.store import QdrantStore
    except ImportError as error:
        if not (error.name or "").startswith(("qdrant_client", "grpc")):
            raise
        raise ExtraMissing(
            f"a qdrant: URL needs qdrant-client, which is not installed or does not load ({error}): "
            "pip install 'sightline[qdrant]'"
        ) from error
    return QdrantStore(url, dim)
