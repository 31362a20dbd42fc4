"""Counts and durations turned into the text that Prometheus reads."""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of every histogram, in seconds."""

_HELP = {
    "sightline_requests_total": "Requests by method, route and status.",
    "sightline_refused_total": "Requests refused because too many waited or came.",
    "sightline_stage_seconds": "Time spent by stage: encode, search, thumbnail, upload, request.",
    "sightline_queue_depth": "Queries that wait for the model.",
    "sightline_index_pictures": "Pictures in the index.",
    "sightline_index_failures": "Pictures that could not be indexed.",
    "sightline_index_bytes": "What the index takes on the disk.",
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms of one process, safe in many threads; gauges are asked for when they are read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: Counter[tuple[str, Labels]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()

    def count(self, name: str, **labels: str) -> None:
        """Add one."""
        with self._lock:
            self._counters[name, tuple(labels.items())] += 1

    def observe(self, stage: str, seconds: float) -> None:
        """Add a duration to a stage's histogram."""
        with self._lock:
            self._buckets.setdefault(stage, [0] * (len(BOUNDS_S) + 1))[bisect_left(BOUNDS_S, seconds)] += 1
            self._sums[stage] += seconds  # type: ignore[assignment]

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the duration of what happens inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(stage, time.perf_counter() - began)

    def text(self, gauges: Iterable[tuple[str, Mapping[str, str], float | None]]) -> str:
        """Everything in Prometheus' text format, version 0.0.4; a gauge without a value is left out."""
        with self._lock:
            lines = [(name, labels, "", float(value)) for (name, labels), value in self._counters.items()]
            for stage in self._buckets:
                lines += self._histogram(stage)
        for gauge, found, number in gauges:
            if number is not None:
                lines.append((gauge, tuple(found.items()), "", number))
        out, described = list[str](), set[str]()
        for name, labels, suffix, value in sorted(lines, key=lambda line: line[0]):
            if name not in described:
                described.add(name)
                out += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} {_type(name)}"]
            shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
            out.append(f"{name}{suffix}{{{shown}}} {value:.12g}" if shown else f"{name}{suffix} {value:.12g}")
        return "\n".join(out) + "\n"

    def _histogram(self, stage: str) -> list[tuple[str, Labels, str, float]]:
        name, total = "sightline_stage_seconds", 0
        lines = list[tuple[str, Labels, str, float]]()
        for bound, count in zip((*BOUNDS_S, "+Inf"), self._buckets[stage], strict=True):
            total += count
            lines.append((name, (("stage", stage), ("le", str(bound))), "_bucket", float(total)))
        lines.append((name, (("stage", stage),), "_sum", float(self._sums[stage])))
        return [*lines, (name, (("stage", stage),), "_count", float(total))]


def _type(name: str) -> str:
    return "counter" if name.endswith("_total") else "histogram" if name.endswith("_seconds") else "gauge"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
