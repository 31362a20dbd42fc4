"""Notes kept as entries of a namespace of their own, and back."""

from collections.abc import Mapping
from hashlib import sha256

from sightline.filters.documents import dump_note, load_note
from sightline.stores.pinecone.connection import Connection
from sightline.stores.pinecone.entries import MOST_METADATA_BYTES, Entry, entry, mark, too_large
from sightline.stores.pinecone.reading import walk
from sightline.stores.pinecone.writing import delete, upsert
from sightline.types import Note


def read_notes(connection: Connection, kind: str) -> dict[str, Note]:
    """The notes of a kind, by key in order."""
    entries = walk(connection, connection.notes_namespace, {"kind": {"$eq": kind}})
    found = [one.metadata for one in entries if one.metadata and one.metadata.get("kind") == kind]
    return {str(kept["key"]): load_note(kept["note"]) for kept in sorted(found, key=lambda kept: str(kept["key"]))}


def write_notes(connection: Connection, kind: str, notes: Mapping[str, Note | None]) -> None:
    """Write notes, replacing those of the same key; None removes one."""
    written = mark()
    entries = [_entry(connection, kind, key, note, written) for key, note in notes.items() if note is not None]
    if entries:
        upsert(connection, connection.notes_namespace, entries)
    removed = [_key(kind, key) for key, note in notes.items() if note is None]
    if removed:
        delete(connection, connection.notes_namespace, removed)


def _entry(connection: Connection, kind: str, key: str, note: Note, written: int) -> Entry:
    identity = _key(kind, key)
    kept = {"id": identity, "kind": kind, "key": key, "note": dump_note(note)}
    made = entry(identity, connection.any_vector, kept, written)
    if made.metadata_bytes > MOST_METADATA_BYTES:
        raise too_large(f"the note {key[:200]!r} of kind {kind!r}", made)
    return made


def _key(kind: str, key: str) -> str:
    return sha256(f"{len(kind)} {kind}{key}".encode()).hexdigest()
