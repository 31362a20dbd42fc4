"""Export an index: as a Parquet file, or as a folder with vectors.npy and records.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from sightline.errors import ExtraMissing, UsageError
from sightline.files import replacing
from sightline.filters.documents import dump_payload
from sightline.stores.base import Store
from sightline.types import Record, Value, chunks

BATCH_RECORDS = 4096
IDENTITY, RECORDS, VECTORS = "index.json", "records.jsonl", "vectors.npy"
PREFIX = "payload."
"""Stands before the names of payload fields in Parquet, so that none is taken for id, uri or vector."""

KINDS = {bool: "bool", int: "int64", float: "float64", str: "string"}

Progress = Callable[[int], None]
T = TypeVar("T")


def write_parquet(store: Store, path: Path, on_progress: Progress = lambda _: None) -> int:
    """Columns id, uri, vector (a list of `dim` float32) and one for each payload field; gives the number of records.

    A field that holds several kinds of values is a column of JSON texts. The file's metadata says which model made the
    vectors. The store is read twice, with constant memory: once for the columns. Raises `ExtraMissing` without pyarrow.
    """
    arrow, parquet = _arrow()
    columns = _columns(store)
    schema = _schema(arrow, columns, store)
    written = 0
    with _in_place_of(path) as partial_path, parquet.ParquetWriter(partial_path, schema, compression="zstd") as writer:
        for few in chunks(store.scan(), BATCH_RECORDS):
            writer.write_batch(_batch(arrow, schema, columns, few))
            written += len(few)
            on_progress(written)
    return written


def write_folder(store: Store, folder: Path, on_progress: Progress = lambda _: None) -> int:
    """vectors.npy, float32 of shape (n, dim); records.jsonl with id, uri and payload, line by line the same records.

    index.json says which model made the vectors. Memory is constant. Raises `UsageError` where other files are.
    """
    if folder.exists() and (
        not folder.is_dir() or {path.name for path in folder.iterdir()} - {IDENTITY, RECORDS, VECTORS}
    ):
        raise UsageError(f"{folder} exists already: choose a new name or an empty folder")
    written = 0
    with (
        _in_place_of(folder / VECTORS) as npy,
        _in_place_of(folder / RECORDS) as lines,
        npy.open("wb") as vectors,
        lines.open("w", encoding="utf-8") as records,
    ):
        _npy_header(vectors, 0, store.dim)
        for few in chunks(store.scan(), BATCH_RECORDS):
            vectors.write(np.stack([record.vector for record in few]).astype("<f4").tobytes())
            records.writelines(_line(record) for record in few)
            written += len(few)
            on_progress(written)
        vectors.seek(0)
        _npy_header(vectors, written, store.dim)
    with _in_place_of(folder / IDENTITY) as path:
        path.write_text(json.dumps(_identity(store), indent=2), "utf-8")
    return written


def _identity(store: Store) -> dict[str, Any]:
    return {**store.notes("index").get("index", {}), "dim": store.dim}


def _line(record: Record) -> str:
    return f'{{"id":{json.dumps(record.id)},"uri":{json.dumps(record.uri)},"payload":{dump_payload(record.payload)}}}\n'


def _npy_header(file: IO[bytes], rows: int, dim: int) -> None:
    """NumPy leaves room in it for a first dimension that grows."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call,unused-ignore]


def _columns(store: Store) -> dict[str, str]:
    """The kind of each payload field: that of its values, `json` if they differ."""
    kinds = dict[str, set[str]]()
    for record in store.scan():
        for name, value in record.payload.items():
            kinds.setdefault(name, set()).add(_kind(value))
    merged = {name: {"float64"} if found == {"int64", "float64"} else found for name, found in kinds.items()}
    return {name: next(iter(found)) if len(found) == 1 else "json" for name, found in sorted(merged.items())}


def _kind(value: Value) -> str:
    return KINDS.get(type(value), "list" if isinstance(value, list) else "time")


def _schema(arrow: Any, columns: dict[str, str], store: Store) -> Any:
    types = {kind: getattr(arrow, kind if kind != "bool" else "bool_")() for kind in KINDS.values()}
    types |= {"json": arrow.string(), "list": arrow.list_(arrow.string()), "time": arrow.timestamp("us", "UTC")}
    fields = [arrow.field("id", arrow.string()), arrow.field("uri", arrow.string())]
    fields.append(arrow.field("vector", arrow.list_(arrow.float32(), store.dim)))
    fields += [arrow.field(PREFIX + name, types[kind], metadata={"kind": kind}) for name, kind in columns.items()]
    return arrow.schema(fields, metadata={"sightline": json.dumps(_identity(store))})


def _batch(arrow: Any, schema: Any, columns: dict[str, str], few: Sequence[Record]) -> Any:
    vectors = np.stack([record.vector for record in few]).astype(np.float32)
    arrays = [arrow.array([record.id for record in few]), arrow.array([record.uri for record in few])]
    arrays.append(arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.ravel()), vectors.shape[1]))
    for name, kind in columns.items():
        values = [record.payload.get(name) for record in few]
        if kind == "json":
            cells: list[Any] = [None if value is None else dump_payload({"": value}) for value in values]
        else:
            cells = values
        arrays.append(arrow.array(cells, schema.field(PREFIX + name).type))
    return arrow.RecordBatch.from_arrays(arrays, schema=schema)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ExtraMissing(
            "Parquet needs 'pyarrow', which is not installed: pip install 'sightline[parquet]'"
        ) from error
    return pyarrow, parquet


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A name to write to, which takes the place of the file when all is written; `UsageError` where it cannot be."""
    try:
        with replacing(path) as part:
            yield part
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UsageError(f"cannot write {path} ({reason}): choose another place") from error
