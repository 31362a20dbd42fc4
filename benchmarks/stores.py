"""Each server store: loading beside the vendor's own bulk path, recall and latency at its default width beside ours.

python -m benchmarks stores [--rows 20000] [--dim 512] [--engine pgvector] [--json FILE]
"""

import argparse
import gc
import json
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from tests.clip_like import ClipLike
from tests.engines import engine_url

from sightline.calibration.tuning import exact_scores, recall, tune
from sightline.exchange.copy import BATCH_RECORDS, copy_records, verify
from sightline.stores.base import Droppable, Store, Tunable, open_store
from sightline.stores.milvus.schema import record_rows
from sightline.types import Record, Value, Vectors, record_id

K, QUERIES = 10, 100


@dataclass(frozen=True)
class Engine:
    """An engine to measure. `bulk` loads vectors as the vendor's documents show it and gives records/s.

    `bulk_alike` does so into all the columns and indexes that our collection has, for filters, where `bulk` has fewer.
    """

    name: str
    url: str
    server: str = ""
    bulk: Callable[[str, Sequence[Record]], float] | None = None
    bulk_alike: Callable[[str, Sequence[Record]], float] | None = None

    def url_at(self, folder: Path) -> str:
        server = engine_url(self.server) if self.server else ""
        return self.url.format(engine=server, folder=folder)


def main() -> None:
    options = parse()
    data = ClipLike(options.rows, options.dim)
    results = []
    for engine in ENGINES:
        if options.engine in (None, engine.name):
            try:
                results.append(measure(engine, data))
            except pytest.skip.Exception as reason:
                print(f"{engine.name}: not measured ({reason})", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2), "utf-8")
    print(json.dumps(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--engine", choices=[engine.name for engine in ENGINES])
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(engine: Engine, data: ClipLike) -> dict[str, Any]:
    with TemporaryDirectory(prefix="sightline-bench-") as scratch:
        source = open_store(str(Path(scratch) / "source.index"), dim=data.dim)
        records = list(made(data))
        for start in range(0, len(records), BATCH_RECORDS):
            source.upsert(records[start : start + BATCH_RECORDS])
        url = engine.url_at(Path(scratch))
        result: dict[str, Any] = {"engine": engine.name, "rows": data.rows, "dim": data.dim}
        if engine.bulk:
            result["vendor_bulk_per_s"] = engine.bulk(url, records)
        if engine.bulk_alike:
            result["vendor_bulk_alike_per_s"] = engine.bulk_alike(url, records)
        del records
        gc.collect()
        store = open_store(url, dim=data.dim)
        copied = copy_records(source, store)
        result["copy_per_s"] = copied.written / copied.seconds
        queries = {"text": data.text_queries(QUERIES), "image": data.image_queries(QUERIES)}
        result |= widths(store, queries)
        result["verified"] = verify(source, store, queries).to_dict()["same"]
        assert isinstance(store, Droppable)
        store.drop()
        source.close()
    show(result)
    return result


def made(data: ClipLike) -> Any:
    number = 0
    for chunk in data.chunks():
        for vector in chunk:
            uri = f"file:///pictures/{number}.jpg"
            payload: dict[str, Value] = {
                "name": f"{number}.jpg",
                "folders": ["file:///pictures"],
                "sha256": f"{number:064x}",
                "width": 640,
            }
            yield Record(record_id(uri), uri, vector, payload)
            number += 1


def widths(store: Store, queries: dict[str, Vectors]) -> dict[str, Any]:
    """Recall and median ms at the engine's default width and at the one that was chosen."""
    if not isinstance(store, Tunable):
        return {"width": None, "chosen": {kind: answers(store, some, None) for kind, some in queries.items()}}
    tuning = tune(store, queries)
    at = {
        name: {kind: answers(store, some, width) for kind, some in queries.items()}
        for name, width in (("default", tuning.default_width), ("chosen", tuning.width))
    }
    return {"width": tuning.width, "default_width": tuning.default_width, **at}


def answers(store: Store, queries: Vectors, width: int | None) -> dict[str, float]:
    truth = exact_scores(store, queries, K)
    found, spent = [], []
    for vector in queries:
        began = time.perf_counter()
        if width is None or not isinstance(store, Tunable):
            found += store.search(vector[None], K)
        else:
            found += store.search_at(vector[None], K, width)
        spent.append((time.perf_counter() - began) * 1e3)
    return {"recall@10": recall(found, truth), "p50_ms": float(np.median(spent))}


def show(result: dict[str, Any]) -> None:
    vendor = result.get("vendor_bulk_per_s")
    beside = f", the vendor's own bulk path {vendor:,.0f}/s ({result['copy_per_s'] / vendor:.2f})" if vendor else ""
    if alike := result.get("vendor_bulk_alike_per_s"):
        beside += f", that with the same columns {alike:,.0f}/s ({result['copy_per_s'] / alike:.2f})"
    print(f"\n{result['engine']}, {result['rows']:,} records: copied at {result['copy_per_s']:,.0f}/s{beside}")
    for name in ("default", "chosen"):
        for kind, found in result.get(name, {}).items():
            width = result["default_width"] if name == "default" else result["width"]
            print(f"  width {width}: {kind} queries, recall@10 {found['recall@10']:.3f}, {found['p50_ms']:.1f} ms")
    print(f"  verified: {result['verified']}", flush=True)


def per_second(records: Sequence[Record], load: Callable[[], None]) -> float:
    began = time.perf_counter()
    load()
    return len(records) / (time.perf_counter() - began)


def batches(records: Sequence[Any], size: int) -> Any:
    rest = iter(records)
    while few := list(islice(rest, size)):
        yield few


def pgvector_bulk(url: str, records: Sequence[Record]) -> float:
    """One binary COPY into a bare table and then the indexes, as pgvector's example of bulk loading has it.

    With the id and the payload that our table has, and an index of each.
    """
    import psycopg

    server, _, _ = url.partition("?")
    dim = len(records[0].vector)

    def load() -> None:
        connection.execute(f"CREATE TABLE bulk (id text, uri text, payload jsonb, embedding vector({dim}))".encode())
        with connection.cursor().copy("COPY bulk FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for record in records:
                vector = struct.pack(">HH", dim, 0) + record.vector.astype(">f4").tobytes()
                payload = b"\1" + json.dumps(dict(record.payload)).encode()  # version 1 of jsonb's binary form
                cells = (record.id.encode(), record.uri.encode(), payload, vector)
                copy.write(b"\0\4" + b"".join(struct.pack(">I", len(cell)) + cell for cell in cells))
            copy.write(b"\xff\xff")
        connection.execute("ALTER TABLE bulk ADD PRIMARY KEY (id)")
        connection.execute("CREATE INDEX ON bulk USING gin (payload)")
        connection.commit()

    with psycopg.connect(server) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        rate = per_second(records, load)
        connection.execute("DROP TABLE bulk")
        connection.commit()
    return rate


def milvus_bulk(url: str, records: Sequence[Record]) -> float:
    """Inserts of 1,000 dictionaries, as the client's quick start has it."""
    client = milvus_client(url)
    client.create_collection(
        "bulk", dimension=len(records[0].vector), id_type="string", max_length=64, metric_type="IP"
    )

    def load() -> None:
        for few in batches(records, 1000):
            client.insert("bulk", [{"id": r.id, "vector": r.vector.tolist(), "uri": r.uri, **r.payload} for r in few])

    rate = per_second(records, load)
    client.drop_collection("bulk")
    client.close()
    return rate


def milvus_bulk_alike(url: str, records: Sequence[Record]) -> float:
    """The same inserts, of rows that are ready, into a collection with the columns and indexes that ours has."""
    name = "alike"
    store = open_store(url.replace("bench", name), dim=len(records[0].vector))
    rows = record_rows(records, np.stack([record.vector for record in records]), "")
    client = milvus_client(url, f"{name}.db")
    if is_file(url):  # one process at a time, and no other client
        client.close()
        client = store._connection.client  # type: ignore[attr-defined]

    def load() -> None:
        for few in batches(rows, 1000):
            client.insert(name, few)

    rate = per_second(records, load)
    assert isinstance(store, Droppable)
    store.drop()
    return rate


def milvus_client(url: str, file: str = "bulk.db") -> Any:
    from pymilvus import MilvusClient

    if is_file(url):
        return MilvusClient(f"{url.removeprefix('milvus:').partition('?')[0]}.{file}")
    return MilvusClient("http://" + url.split("://")[1].split("/")[0])


def is_file(url: str) -> bool:
    return not url.startswith("milvus://")


def qdrant_bulk(url: str, records: Sequence[Record]) -> float:
    """`upload_points`, which the vendor's documents recommend for many points."""
    from qdrant_client import QdrantClient, models

    with TemporaryDirectory() as folder:
        client = QdrantClient(path=folder)
        client.create_collection("bulk", models.VectorParams(size=len(records[0].vector), distance=models.Distance.DOT))
        points = (models.PointStruct(id=r.id, vector=r.vector.tolist(), payload=dict(r.payload)) for r in records)
        rate = per_second(records, lambda: client.upload_points("bulk", points, batch_size=1000))
        client.close()
    del url
    return rate


ENGINES = [
    Engine("pgvector", "{engine}?table=bench", "pgvector", pgvector_bulk),
    Engine("milvus", "{engine}/bench", "milvus", milvus_bulk, milvus_bulk_alike),
    Engine("milvus lite", "milvus:{folder}/lite.db?collection=bench", bulk=milvus_bulk, bulk_alike=milvus_bulk_alike),
    Engine("qdrant local", "{engine}/bench", "qdrant_local", qdrant_bulk),
]


if __name__ == "__main__":
    main()
