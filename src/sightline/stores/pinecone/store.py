"""The store in Pinecone, through the official client: serverless or pods, one namespace for each index of pictures."""

from collections.abc import Iterator, Mapping, Sequence

from sightline.errors import ExtraMissing, StoreError, StoreNotFound
from sightline.filters.where import And, Node, matches, parse_where
from sightline.stores.checks import check_records, check_search
from sightline.stores.url import StoreUrl
from sightline.types import Hit, Note, Record, Vectors, Where

try:
    from sightline.stores.pinecone.connection import Connection
    from sightline.stores.pinecone.entries import entries_of, key_of, record_of
    from sightline.stores.pinecone.filters import push
    from sightline.stores.pinecone.notes import read_notes, write_notes
    from sightline.stores.pinecone.opening import connect
    from sightline.stores.pinecone.reading import fetch, walk
    from sightline.stores.pinecone.searching import nearest
    from sightline.stores.pinecone.writing import delete, upsert
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "pinecone":
        raise
    raise ExtraMissing(
        "Pinecone needs its client, which is not installed: pip install 'sightline[pinecone]'"
    ) from error

_MARKER = "store"  # the kind of note, and its key, that says that the namespace is ours
_FORMAT = 1


def open_url(url: StoreUrl, *, dim: int | None = None) -> "PineconeStore":
    """The store of `pinecone://:KEY@host/index?namespace=...`; created if `dim` is given and nothing is there.

    Raises `StoreNotFound`, `StoreForbidden`, `StoreUnreachable`, `DimensionMismatch`, or `StoreError` for an index or a
    namespace that holds something else.
    """
    connection = connect(url, dim=dim)
    try:
        _claim(connection, is_new_welcome=dim is not None)
    except BaseException:
        connection.close()
        raise
    return PineconeStore(connection)


def _claim(connection: Connection, *, is_new_welcome: bool) -> None:
    """Make sure that the namespace is ours, or make it so if it is empty."""
    found = read_notes(connection, _MARKER).get(_MARKER)
    where = f"the namespace {connection.namespace!r} of {connection.address.text}"
    if found is not None:
        if found.get("format") != _FORMAT:
            raise StoreError(f"{where} has the format {found.get('format')!r}, expected {_FORMAT}: update Sightline")
        return
    if connection.counts().get(connection.namespace):
        raise StoreError(
            f"{where} holds records that Sightline did not write, expected its own or none: name another namespace"
        )
    if not is_new_welcome:
        raise StoreNotFound(f"{where} is empty, expected an index of pictures: index something first")
    write_notes(connection, _MARKER, {_MARKER: {"format": _FORMAT, "dim": connection.dim}})


class PineconeStore:
    """Keeps records in one namespace of a Pinecone index and lets Pinecone find and filter them."""

    def __init__(self, connection: Connection) -> None:
        self.dim = connection.dim
        self._connection = connection

    def upsert(self, records: Sequence[Record]) -> None:
        """Write records, replacing those of the same id; returns when they are in Pinecone's log and reads see them."""
        self._connection.check_open()
        entries = entries_of(records, check_records(records, self.dim))
        if entries:
            upsert(self._connection, self._connection.namespace, entries)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove records; gives how many were there."""
        self._connection.check_open()
        return delete(self._connection, self._connection.namespace, map(key_of, ids))

    def search(self, vectors: Vectors, k: int, where: Where | None = None, offset: int = 0) -> list[list[Hit]]:
        """(q, dim) -> for each query the hits from `offset` to `offset + k`, best first; at most the best 10,000."""
        queries = check_search(vectors, k, offset, self.dim)
        node = self._node(where)
        return self._connection.each(
            lambda query: nearest(self._connection, query, node, k=k, offset=offset), list(queries)
        )

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """The records of those ids that exist, in the order asked."""
        self._connection.check_open()
        keys = [key_of(name) for name in ids]
        found = fetch(self._connection, self._connection.namespace, keys)
        return [record_of(found[key]) for key in keys if key in found]

    def scan(self, where: Where | None = None) -> Iterator[Record]:
        """Every record that matches, in order of id; few by the filter, many by walking the namespace."""
        node = self._node(where)
        return self._scan(node)

    def count(self, where: Where | None = None) -> int:
        """How many records match: by Pinecone's own counts where its filter is exact, else by looking at each."""
        node, connection = self._node(where), self._connection
        pushed = push(node)
        if pushed.filter is None and pushed.is_exact:
            return connection.counts().get(connection.namespace, 0)
        counted = self._counted(pushed.filter) if pushed.filter and pushed.is_exact else None
        return sum(1 for _ in self._scan(node)) if counted is None else counted

    def notes(self, kind: str) -> dict[str, Note]:
        """The notes of a kind by key."""
        self._connection.check_open()
        return read_notes(self._connection, kind)

    def write_notes(self, kind: str, notes: Mapping[str, Note | None]) -> None:
        """Write notes, replacing those of the same key; None removes one."""
        self._connection.check_open()
        write_notes(self._connection, kind, notes)

    def drop(self) -> None:
        """Remove the records and notes, and the index too if Sightline made it and nothing else is in it; close."""
        self._connection.drop()

    def close(self) -> None:
        """Give back the connections; further calls raise `StoreError`."""
        self._connection.close()

    def _node(self, where: Where | None) -> Node:
        node = parse_where(where or {})
        self._connection.check_open()
        return node

    def _scan(self, node: Node) -> Iterator[Record]:
        for entry in walk(self._connection, self._connection.namespace, push(node).filter):
            record = record_of(entry)
            if node == And(()) or matches(record.payload, node):
                yield record

    def _counted(self, pushed: Mapping[str, object]) -> int | None:
        """How many entries pass Pinecone's filter, if Pinecone says so."""
        connection = self._connection
        if not connection.is_serverless:
            stats = connection.call(lambda: connection.index.describe_index_stats(filter=pushed))
            return (
                stats.namespaces[connection.namespace].vector_count if connection.namespace in stats.namespaces else 0
            )
        answer = connection.read(  # a dry run: nothing is set
            lambda: connection.index.update(
                filter=pushed, set_metadata={"counted": True}, namespace=connection.namespace, dry_run=True
            ),
            None,
        )
        return answer.matched_records if answer is not None else 0
