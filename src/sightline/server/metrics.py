"""Counters, histograms and gauges of one process, in the text format of Prometheus."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_GAUGES = {
    "sightline_queue_depth": "Queries that wait for the model.",
    "sightline_index_pictures": "Pictures in the index.",
    "sightline_index_failures": "Pictures that could not be indexed.",
    "sightline_index_bytes": "What the index takes on the disk.",
}

disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside each counter that nobody asked for


class Metrics:
    """What a server counts and times, each with its labels; gauges are asked for when they are read."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "sightline_requests", "Requests by method, route and status.", labels, registry=registry
        )
        self.refused = Counter(
            "sightline_refused", "Requests refused: too many waited or came.", ("why",), registry=registry
        )
        stages = "Time spent by stage: encode, search, thumbnail, upload, request."
        self.stages = Histogram("sightline_stage_seconds", stages, ("stage",), registry=registry, buckets=_BOUNDS_S)

    def text(self, gauges: Iterable[tuple[str, str, float | None]]) -> bytes:
        """Everything in the text format. `gauges` are names, indexes and values; one without a value is left out."""
        current = CollectorRegistry()
        made = {name: Gauge(name, text, ("index",), registry=current) for name, text in _GAUGES.items()}
        for name, index, value in gauges:
            if value is not None:
                made[name].labels(index).set(value)
        return generate_latest(self._registry) + generate_latest(current)
