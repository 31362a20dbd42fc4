"""Notes written into a collection of their own, and read back."""

from collections.abc import Mapping

from sightline.filters.documents import load_note
from sightline.stores.milvus.connection import Connection
from sightline.stores.milvus.filters import quoted
from sightline.stores.milvus.place import Place
from sightline.stores.milvus.reading import Reader
from sightline.stores.milvus.rows import note_id, note_row
from sightline.stores.milvus.writing import delete_ids, write_rows
from sightline.types import Note


def read_notes(reader: Reader, kind: str) -> dict[str, Note]:
    """The notes of a kind by key, with all that any process has written."""
    pages = reader.pages(reader.place.notes, f"kind == {quoted(kind)}", ["id", "name", "document"], "Strong")
    return {row["name"]: load_note(row["document"]) for page in pages for row in page}


def write_notes(connection: Connection, place: Place, kind: str, notes: Mapping[str, Note | None]) -> None:
    """Write notes, replacing those of the same key; None removes one."""
    write_rows(
        connection, place.notes, [note_row(kind, name, note) for name, note in notes.items() if note is not None]
    )
    delete_ids(connection, place.notes, [note_id(kind, name) for name, note in notes.items() if note is None])
