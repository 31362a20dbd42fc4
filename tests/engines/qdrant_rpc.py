"""The local Qdrant server's other port: its engine behind the gRPC services of the published .proto files."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.http import models
from tests.engines.qdrant import Engine, Problem

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


def serve(engine: Engine, port: int) -> Any:
    """A running gRPC server."""
    server = grpc.server(
        ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
    )
    wire.add_QdrantServicer_to_server(_Root(), server)  # type: ignore[no-untyped-call]
    wire.add_CollectionsServicer_to_server(_Collections(engine), server)  # type: ignore[no-untyped-call]
    wire.add_PointsServicer_to_server(_Points(engine), server)  # type: ignore[no-untyped-call]
    for _ in range(50):  # a stopped server frees its port a moment later
        try:
            if server.add_insecure_port(f"127.0.0.1:{port}"):
                break
        except RuntimeError:
            time.sleep(0.02)
    server.start()
    return server


def _do(engine: Engine, context: Any, call: str, name: str, request: Any, **options: Any) -> Any:
    try:
        engine.check_key(dict(context.invocation_metadata()).get("api-key"))
        return engine.do(call, name, request, options)
    except Problem as problem:
        context.set_trailing_metadata([(name.lower(), value) for name, value in problem.headers.items()])
        context.abort(_CODES[problem.status], problem.message)


class _Root(wire.QdrantServicer):
    def HealthCheck(self, request: Any, context: Any) -> Any:
        return wire.HealthCheckReply(title="qdrant - vector search engine", version="1.16.0")


class _Collections(wire.CollectionsServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def CollectionExists(self, request: Any, context: Any) -> Any:
        result = _do(self._engine, context, "exists", request.collection_name, None)
        return wire.CollectionExistsResponse(result=wire.CollectionExists(exists=result.exists))

    def Get(self, request: Any, context: Any) -> Any:
        info = _do(self._engine, context, "info", request.collection_name, None)
        return wire.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    def Create(self, request: Any, context: Any) -> Any:
        given: dict[str, Any] = {}
        if request.HasField("vectors_config"):
            given["vectors"] = GrpcToRest.convert_vectors_config(request.vectors_config)
        if request.HasField("hnsw_config"):
            given["hnsw_config"] = GrpcToRest.convert_hnsw_config_diff(request.hnsw_config)
        if request.HasField("quantization_config"):
            given["quantization_config"] = GrpcToRest.convert_quantization_config(request.quantization_config)
        for field in ("shard_number", "replication_factor", "write_consistency_factor", "on_disk_payload"):
            if request.HasField(field):
                given[field] = getattr(request, field)
        body = models.CreateCollection(**given)
        result = _do(self._engine, context, "create", request.collection_name, body)
        return wire.CollectionOperationResponse(result=result)

    def Delete(self, request: Any, context: Any) -> Any:
        result = _do(self._engine, context, "drop", request.collection_name, None)
        return wire.CollectionOperationResponse(result=result)


class _Points(wire.PointsServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        schema = {0: "keyword", 1: "integer", 2: "float", 4: "text", 5: "bool", 6: "datetime"}[request.field_type]
        body = models.CreateFieldIndex(field_name=request.field_name, field_schema=models.PayloadSchemaType(schema))
        return self._updated(_do(self._engine, context, "index", request.collection_name, body, wait=request.wait))

    def Upsert(self, request: Any, context: Any) -> Any:
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        body, options = models.PointsList(points=points), _write_options(request)
        return self._updated(_do(self._engine, context, "upsert", request.collection_name, body, **options))

    def Delete(self, request: Any, context: Any) -> Any:
        body, options = GrpcToRest.convert_points_selector(request.points), _write_options(request)
        return self._updated(_do(self._engine, context, "remove", request.collection_name, body, **options))

    def Get(self, request: Any, context: Any) -> Any:
        ids = [GrpcToRest.convert_point_id(one) for one in request.ids]
        body = models.PointRequest(ids=ids, **_shown(request))
        found = _do(self._engine, context, "retrieve", request.collection_name, body)
        return wire.GetResponse(result=[_record(point) for point in found])

    def Scroll(self, request: Any, context: Any) -> Any:
        body = models.ScrollRequest(
            filter=_filter(request),
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            **_shown(request),
        )
        found = _do(self._engine, context, "scroll", request.collection_name, body)
        after = found.next_page_offset
        return wire.ScrollResponse(
            result=[_record(point) for point in found.points],
            next_page_offset=None if after is None else RestToGrpc.convert_extended_point_id(after),
        )

    def Count(self, request: Any, context: Any) -> Any:
        body = models.CountRequest(filter=_filter(request), exact=request.exact)
        result = _do(self._engine, context, "count", request.collection_name, body)
        return wire.CountResponse(result=wire.CountResult(count=result.count))

    def QueryBatch(self, request: Any, context: Any) -> Any:
        searches = [GrpcToRest.convert_query_points(one) for one in request.query_points]
        body = models.QueryRequestBatch(searches=searches)
        answers = _do(self._engine, context, "query", request.collection_name, body)
        results = [[RestToGrpc.convert_scored_point(point) for point in answer.points] for answer in answers]
        return wire.QueryBatchResponse(result=[wire.BatchResult(result=points) for points in results])

    def _updated(self, result: models.UpdateResult) -> Any:
        return wire.PointsOperationResponse(result=RestToGrpc.convert_update_result(result))


def _filter(request: Any) -> models.Filter | None:
    return GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None


def _shown(request: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if request.HasField("with_payload"):
        shown["with_payload"] = GrpcToRest.convert_with_payload_interface(request.with_payload)
    if request.HasField("with_vectors"):
        shown["with_vector"] = GrpcToRest.convert_with_vectors_selector(request.with_vectors)
    return shown


def _write_options(request: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"wait": str(request.wait).lower()}
    if request.HasField("ordering"):
        options["ordering"] = GrpcToRest.convert_write_ordering(request.ordering).value
    return options


def _record(point: models.Record) -> Any:
    return RestToGrpc.convert_record(point.model_copy(update={"payload": point.payload or {}}))
