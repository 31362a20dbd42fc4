"""PostgreSQL with pgvector as a store: the table of an index, its filters as SQL, its neighbours by HNSW."""

from typing import TYPE_CHECKING

from sightline.errors import ExtraMissing
from sightline.stores.url import StoreUrl

if TYPE_CHECKING:
    from sightline.stores.pgvector.store import PgvectorStore


def open_url(url: StoreUrl, *, dim: int | None = None) -> "PgvectorStore":
    """The index in a table that a postgresql: URL names, created if `dim` is given and nothing is there."""
    try:
        from sightline.stores.pgvector.store import PgvectorStore
    except ImportError as error:
        if not (error.name or "psycopg").startswith("psycopg"):
            raise
        raise ExtraMissing(
            f"a postgresql: URL needs psycopg, which is not installed or does not load ({error}): "
            "pip install 'sightline[pgvector]'"
        ) from error
    return PgvectorStore(url, dim)
