"""The local Qdrant server with Qdrant's own segments behind it: those of qdrant-edge-py, the embedded Qdrant.

Storage, payload indexes, filters and quantised search are the server's own code; routes, cluster and strict mode are
not. Two things are bent, both the Python binding's: a shard cannot be without vectors, so notes get one that no point
has, and true and false are kept as text, because the binding filters by 1 for true.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client.http import models
from tests.engines.qdrant import Engine, Json, Server, done

_KINDS = {"keyword": "Keyword", "float": "Float", "bool": "Keyword", "datetime": "Datetime"}


def start() -> tuple[str, Callable[[], None]]:
    """A running server's URL and what stops it."""
    edge = pytest.importorskip("qdrant_edge", reason="qdrant-edge-py, Qdrant's own segments, is not installed")
    server = Server(engine=EdgeEngine(edge))
    return server.url, server.stop


class EdgeEngine(Engine):
    """The calls of `Engine`, done by shards of qdrant-edge."""

    def __init__(self, edge: Any) -> None:
        super().__init__()
        self._edge = edge
        self._shards: dict[str, tuple[Any, Path]] = {}

    def _create(self, name: str, request: models.CreateCollection) -> bool:
        edge, vectors = self._edge, request.vectors
        made = super()._create(name, request)
        int8 = edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile=0.99, always_ram=True)
        params: Any = {"none": edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)}
        if isinstance(vectors, models.VectorParams):
            params = edge.EdgeVectorParams(size=vectors.size, distance=edge.Distance.Dot, quantization_config=int8)
        memory = Path("/dev/shm")
        folder = Path(tempfile.mkdtemp(prefix="sightline-edge-", dir=memory if memory.is_dir() else None))
        self._shards[name] = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=params)), folder
        return made

    def _drop(self, name: str, request: None) -> bool:
        shard, folder = self._shards.pop(name)
        shard.close()
        shutil.rmtree(folder)
        return super()._drop(name, request)

    def _index(self, name: str, request: models.CreateFieldIndex) -> models.UpdateResult:
        super()._index(name, request)
        kind = _KINDS[self.indexes[name][request.field_name].data_type.value]
        schema = getattr(self._edge.PayloadSchemaType, kind)
        return self._update_shard(name, self._edge.UpdateOperation.create_field_index(request.field_name, schema))

    def _upsert(self, name: str, request: models.PointsList) -> models.UpdateResult:
        points = [self._edge.Point(point.id, point.vector, _textual(point.payload or {})) for point in request.points]
        return self._update_shard(name, self._edge.UpdateOperation.upsert_points(points))

    def _remove(self, name: str, request: models.PointIdsList) -> models.UpdateResult:
        return self._update_shard(name, self._edge.UpdateOperation.delete_points(list(request.points)))

    def _retrieve(self, name: str, request: models.PointRequest) -> list[models.Record]:
        found = self._shards[name][0].retrieve(list(request.ids), with_payload=True, with_vector=True)
        return [_record(point) for point in found]

    def _scroll(self, name: str, request: models.ScrollRequest) -> models.ScrollResult:
        points, after = self._shards[name][0].scroll(
            self._edge.ScrollRequest(
                offset=request.offset,
                limit=request.limit,
                filter=self._filter(request.filter),
                with_payload=True,
                with_vector=bool(request.with_vector),
            )
        )
        next_page = None if after is None else str(after)
        return models.ScrollResult(points=[_record(point) for point in points], next_page_offset=next_page)

    def _count(self, name: str, request: models.CountRequest) -> models.CountResult:
        asked = self._edge.CountRequest(filter=self._filter(request.filter), exact=True)
        return models.CountResult(count=self._shards[name][0].count(asked))

    def _query(self, name: str, request: models.QueryRequestBatch) -> list[models.QueryResponse]:
        return [models.QueryResponse(points=self._nearest(name, one)) for one in request.searches]

    def _nearest(self, name: str, one: models.QueryRequest) -> list[models.ScoredPoint]:
        vector: Any = one.query.nearest if isinstance(one.query, models.NearestQuery) else one.query
        found = self._shards[name][0].query(
            self._edge.QueryRequest(
                query=self._edge.Query.Nearest(vector),
                filter=self._filter(one.filter),
                limit=one.limit,
                params=self._params(one.params or models.SearchParams()),
                with_payload=True,
            )
        )
        return [models.ScoredPoint(id=str(p.id), version=0, score=p.score, payload=p.payload) for p in found]

    def _params(self, given: models.SearchParams) -> Any:
        quantised = given.quantization or models.QuantizationSearchParams()
        return self._edge.SearchParams(
            hnsw_ef=given.hnsw_ef,
            exact=bool(given.exact),
            quantization=self._edge.QuantizationSearchParams(
                ignore=bool(quantised.ignore), rescore=quantised.rescore, oversampling=quantised.oversampling
            ),
        )

    def _filter(self, given: models.Filter | None) -> Any:
        if given is None:
            return None
        parts: Json = {name: getattr(given, name) for name in ("must", "should", "must_not")}
        return self._edge.Filter(
            **{name: [self._condition(one) for one in part] for name, part in parts.items() if part is not None}
        )

    def _condition(self, given: Any) -> Any:
        match given:
            case models.Filter():
                return self._filter(given)
            case models.HasIdCondition():
                return self._edge.HasIdCondition(set(given.has_id))
            case models.FieldCondition(match=models.MatchValue(value=value)):
                return self._edge.FieldCondition(given.key, match=self._edge.MatchValue(_textual(value)))
            case models.FieldCondition(match=models.MatchAny(any=values)):
                return self._edge.FieldCondition(given.key, match=self._edge.MatchAny(list(values)))
        bounds = {name: getattr(given.range, name) for name in ("gt", "gte", "lt", "lte")}
        if isinstance(given.range, models.DatetimeRange):
            bounds = {name: bound and bound.isoformat() for name, bound in bounds.items()}
            return self._edge.FieldCondition(given.key, range=self._edge.RangeDateTime(**bounds))
        return self._edge.FieldCondition(given.key, range=self._edge.RangeFloat(**bounds))

    def _update_shard(self, name: str, operation: Any) -> models.UpdateResult:
        self._shards[name][0].update(operation)
        return done()


def _record(point: Any) -> models.Record:
    return models.Record(id=str(point.id), payload=point.payload, vector=point.vector or None)


def _textual(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: one if name == "is_dropping" else _textual(one) for name, one in value.items()}
    return str(value) if isinstance(value, bool) else value
