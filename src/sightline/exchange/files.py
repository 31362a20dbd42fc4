"""An index in files: written as Parquet or a folder, and read from those or from the layout of clip-retrieval."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.base import load_encoder
from sightline.encoders.catalog import catalog
from sightline.encoders.hub import Hub
from sightline.errors import IndexMismatch, SourceError, UsageError, needing, summary
from sightline.files import replacing
from sightline.filters.documents import dump_payload, load_payload
from sightline.index import Index
from sightline.sources.rows import Row, field_of, open_rows, value_of
from sightline.stores.base import Store, open_store
from sightline.stores.url import StoreUrl
from sightline.types import Payload, Record, Value, Vectors, chunks, now, record_id

BATCH_RECORDS = 4096
IDENTITY, RECORDS, VECTORS = "index.json", "records.jsonl", "vectors.npy"
PREFIX = "payload."
"""Stands before the names of payload fields in Parquet, so that none is taken for id, uri or vector."""

_KINDS = {bool: "bool", int: "int64", float: "float64", str: "string"}
_URIS = ("uri", "url", "image_url", "image_path", "path", "filename")
_VECTORS = ("vector", "embedding", "image_embedding", "emb")

Progress = Callable[[int], None]


def write_parquet(store: Store, path: Path, on_progress: Progress = lambda _: None) -> int:
    """Columns id, uri, vector (a list of `dim` float32) and one for each payload field; gives the number of records.

    A field that holds several kinds of values is a column of JSON texts. The file's metadata says which model made the
    vectors. The store is read twice, with constant memory: once for the columns. Raises `ExtraMissing` without pyarrow.
    """
    with needing("Parquet", "parquet"):
        import pyarrow
        from pyarrow import parquet
    columns, written = _columns(store), 0
    schema = _schema(pyarrow, columns, store)
    with _in_place_of(path) as partial_path, parquet.ParquetWriter(partial_path, schema, compression="zstd") as writer:
        for few in chunks(store.scan(), BATCH_RECORDS):
            writer.write_batch(_batch(pyarrow, schema, columns, few))
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
            for record in few:
                names, payload = f'"id":{json.dumps(record.id)},"uri":{json.dumps(record.uri)}', record.payload
                records.write(f'{{{names},"payload":{dump_payload(payload)}}}\n')
            written += len(few)
            on_progress(written)
        vectors.seek(0)
        _npy_header(vectors, written, store.dim)
    with _in_place_of(folder / IDENTITY) as path:
        path.write_text(json.dumps(_identity(store), indent=2), "utf-8")
    return written


@dataclass(frozen=True, slots=True)
class Saved:
    """Vectors in files: how long they are, which model made them if the files say so, and their records."""

    dim: int
    records: Callable[[], Iterator[Record]]
    identity: Mapping[str, Any] = field(default_factory=dict)


def load(
    path: Path,
    url: str | StoreUrl,
    *,
    model: str | None = None,
    hub: Hub | None = None,
    on_progress: Progress = lambda _: None,
) -> int:
    """Write the vectors in files into the index of that URL, created where it does not exist, and return how many.

    Files that Sightline did not write do not say which model made them: `model` must. Raises `IndexMismatch` if the
    index holds another model's vectors, `UsageError` if the model is not given or makes vectors of another length.
    """
    saved, url = open_saved(path), StoreUrl(url)
    store = _store_for(saved, path, url, model, hub)
    written = 0
    try:  # a server shows files that such records name only below its own folders
        store.write_notes("imported", {path.absolute().as_uri(): {"when": now()}})
        for few in chunks(saved.records(), BATCH_RECORDS):
            store.upsert(few)
            written += len(few)
            on_progress(written)
    finally:
        store.close()
    return written


def open_saved(path: Path) -> Saved:
    """A Parquet file with vectors, a folder that Sightline wrote, or a folder in the layout of clip-retrieval.

    That layout is img_emb/img_emb_0.npy with metadata/metadata_0.parquet and so on. Memory is constant. Vectors are
    scaled to length 1; those that have no direction are left out. Raises `SourceError` for anything else.
    """
    if path.is_file() and path.name.lower().endswith(".parquet"):
        return _parquet(path)
    if (path / VECTORS).is_file():
        return _folder(path)
    if found := sorted((path / "img_emb").glob("*.npy"), key=_number):
        return _clip_retrieval(path, found)
    raise SourceError(
        f"{path} has no vectors in a known format, expected a Parquet file, a folder with {VECTORS} and {RECORDS}, or "
        "one with img_emb/ and metadata/: check the path"
    )


def _identity(store: Store) -> dict[str, Any]:
    return {**store.notes("index").get("index", {}), "dim": store.dim}


def _npy_header(file: IO[bytes], rows: int, dim: int) -> None:
    """NumPy leaves room in it for a first dimension that grows."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call,unused-ignore]


def _columns(store: Store) -> dict[str, str]:
    """The kind of each payload field: that of its values, `json` if they differ."""
    kinds = dict[str, set[str]]()
    for record in store.scan():
        for name, value in record.payload.items():
            kind = _KINDS.get(type(value), "list" if isinstance(value, list) else "time")
            kinds.setdefault(name, set()).add(kind)
    merged = {name: {"float64"} if found == {"int64", "float64"} else found for name, found in kinds.items()}
    return {name: next(iter(found)) if len(found) == 1 else "json" for name, found in sorted(merged.items())}


def _schema(arrow: Any, columns: dict[str, str], store: Store) -> Any:
    types = {kind: getattr(arrow, kind if kind != "bool" else "bool_")() for kind in _KINDS.values()}
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


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A name to write to, which takes the place of the file when all is written; `UsageError` where it cannot be."""
    try:
        with replacing(path) as part:
            yield part
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UsageError(f"cannot write {path} ({reason}): choose another place") from error


def _folder(path: Path) -> Saved:
    vectors = _mapped(path / VECTORS)
    file = path / IDENTITY
    identity = _parsed(file.read_bytes(), file) if file.is_file() else {}

    def rows() -> Iterator[tuple[str, Payload]]:
        with (path / RECORDS).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = load_payload(line)
                    yield str(row["uri"]), row["payload"]  # type: ignore[misc]
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise SourceError(
                        f"line {number} of {path / RECORDS} is not a valid record ({summary(error)}), expected "
                        "JSON with uri and payload: write it again"
                    ) from error

    return Saved(vectors.shape[1], lambda: _joined(path, vectors, rows()), identity)


def _parsed(text: bytes, file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise SourceError(
            f"what {file} says of its model cannot be read ({summary(error)}), expected JSON: write it again"
        ) from error


def _clip_retrieval(path: Path, files: list[Path]) -> Saved:
    """`image_path` is as clip-retrieval found it; a `url` is the better name, for it can be fetched."""
    pairs = [(file, path / "metadata" / f"metadata_{_number(file)}.parquet") for file in files]
    if missing := next((table for _, table in pairs if not table.is_file()), None):
        raise SourceError(
            f"{missing} does not exist, expected the metadata of {path}: run clip-retrieval with metadata"
        )

    def parts() -> Iterator[Iterator[Record]]:
        for file, table in pairs:
            rows = ((_uri(row, path), _payload(row)) for row in open_rows(table).walk())
            yield _joined(file, _mapped(file), rows)

    return Saved(_mapped(files[0]).shape[1], lambda: chain.from_iterable(parts()))


def _parquet(path: Path) -> Saved:
    table = open_rows(path)  # says what is wrong with it
    from pyarrow import parquet

    schema = parquet.read_schema(path)
    column = next((name for name in _VECTORS if name in table.columns), None)
    if column is None or not set(_URIS) & set(table.columns):
        raise SourceError(
            f"{path} has the columns {', '.join(table.columns)}, expected a vector ({', '.join(_VECTORS)}) and a URI "
            f"or path ({', '.join(_URIS)}): rename them"
        )
    identity = _parsed((schema.metadata or {}).get(b"sightline", b"{}"), path)
    kinds = {name: (schema.field(name).metadata or {}).get(b"kind", b"").decode() for name in table.columns}

    def written(row: Row) -> dict[str, Value]:  # as it was given to `write_parquet`
        given = {name.removeprefix(PREFIX): cell for name, cell in row.items() if name.startswith(PREFIX)}
        is_json = {name: kinds[PREFIX + name] == "json" for name in given}
        return {
            name: load_payload(cell)[""] if is_json[name] else cell for name, cell in given.items() if cell is not None
        }

    def records() -> Iterator[Record]:
        for few in chunks(table.walk(), BATCH_RECORDS):
            vectors = np.asarray([row.pop(column) for row in few], np.float32)  # -> (n, dim)
            known = [written(row) if identity else _payload(row) for row in few]
            yield from _records(zip((_uri(row, path.parent) for row in few), known, strict=True), vectors)

    dim = identity.get("dim") or len(next(iter(table.walk()), {column: ()})[column])
    return Saved(int(dim), records, identity)


def _joined(path: Path, vectors: NDArray[Any], rows: Iterator[tuple[str, Payload]]) -> Iterator[Record]:
    begin = 0
    for few in chunks(rows, BATCH_RECORDS):
        piece = np.asarray(vectors[begin : begin + len(few)], np.float32)
        begin += len(few)
        if len(piece) < len(few):
            break
        yield from _records(iter(few), piece)
    if begin != len(vectors):
        raise SourceError(
            f"{path} has {len(vectors):,} vectors, expected as many as records ({begin:,} or more): write it again"
        )


def _records(rows: Iterator[tuple[str, Payload]], vectors: Vectors) -> Iterator[Record]:
    norms = np.linalg.norm(vectors, axis=1)  # (n, dim) -> (n,)
    for (uri, payload), vector, norm in zip(rows, vectors, norms, strict=True):
        if np.isfinite(norm) and norm > 0:
            yield Record(record_id(uri), uri, vector / norm, payload)


def _mapped(path: Path) -> NDArray[Any]:
    try:
        vectors: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} is not a NumPy file ({error}): write it again") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise SourceError(
            f"{path} holds {vectors.dtype} of shape {vectors.shape}, expected vectors, (n, dim): check it"
        )
    return vectors


def _uri(row: Row, folder: Path) -> str:
    """The URL or path of a row as a URI; relative paths start from the folder."""
    text = next((str(row[name]) for name in _URIS if row.get(name)), "")
    if "://" in text:
        return text if text.isascii() else quote(text, safe="/:?#[]@!$&'()*+,;=%~-._")
    return (folder / text).absolute().as_uri()


def _payload(row: Row) -> dict[str, Value]:
    values = {field_of(name): value_of(cell) for name, cell in row.items() if name not in (*_VECTORS, *_URIS[:3])}
    return {name: value for name, value in values.items() if value is not None}


def _number(path: Path) -> int:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0


def _store_for(saved: Saved, path: Path, url: StoreUrl, model: str | None, hub: Hub | None) -> Store:
    identity = {name: value for name, value in saved.identity.items() if name != "dim"}
    if not saved.identity:
        if model is None:
            raise UsageError(f"{path} does not say which model made its vectors: give --model")
        encoder = load_encoder(model, hub=hub)
        if encoder.dim != saved.dim:
            raise UsageError(
                f"{path} has vectors of {saved.dim} dimensions and {model!r} makes {encoder.dim}, expected the model "
                "that made them: give another --model"
            )
        with Index(url, model=encoder) as index:
            index.add([])  # makes it if it is not there
    elif (maker := str(saved.identity.get("load"))) not in (*catalog(), model):
        raise UsageError(
            f"{path} names the model {maker!r}, expected one of those that sightline models lists: if you trust it, "
            f"give --model {maker}"
        )
    store = open_store(url, dim=saved.dim)
    there = store.notes("index").get("index", {})
    if identity and there and there.get("encoder") != identity.get("encoder"):
        store.close()
        raise IndexMismatch(
            f"{url} was built with {there.get('encoder')!r}, not {identity.get('encoder')!r}, expected the same model: "
            "import into a new index"
        )
    if identity and not there:
        store.write_notes("index", {"index": identity})
    return store
