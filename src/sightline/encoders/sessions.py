"""ONNX Runtime sessions on the processor that the user chose, loaded when they are first needed."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from sightline.errors import EncoderError, ModelDamaged, UsageError, summary

Session: TypeAlias = Any
"""An onnxruntime.InferenceSession; the package has no types."""

G = TypeVar("G")

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "'onnxruntime-gpu[cuda,cudnn]'"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime, on a Mac"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
}
"""What a user calls a processor -> what onnxruntime calls it, and the package that brings it."""

_log = logging.getLogger(__name__)
_FATAL = 4  # onnxruntime prints everything below this on stderr; its errors reach us as exceptions anyway


def choose_provider(name: str | None) -> str:
    """The processor to run on: the one asked for, else CUDA where the installed runtime has it, else the CPU."""
    import onnxruntime

    has = {short for short, (long, _) in PROVIDERS.items() if long in onnxruntime.get_available_providers()}
    if name is None:
        return "cuda" if "cuda" in has else "cpu"
    if name not in PROVIDERS:
        raise UsageError(
            f"the provider is {name!r}, expected one of {', '.join(PROVIDERS)}: leave it out to use the CPU"
        )
    if name not in has:
        raise EncoderError(
            f"the installed onnxruntime {onnxruntime.__version__} has no {name!r}, only {', '.join(sorted(has))}: "
            f"pip install {PROVIDERS[name][1]}, in place of the onnxruntime that is installed"
        )
    return name


def open_session(
    graph: Path, provider: str, threads: int, model: bytes | None = None, *, is_brief: bool = False
) -> Session:
    """Load a graph with so many threads of its own, on the CPU if the processor fails; raises `ModelDamaged`.

    `model` is what `mapped.without_weights` gives of it. With `is_brief` the weights of that are used as they lie in
    the file and not packed first, which takes seconds and as much memory again, and makes each run a third faster.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    # Threads that spin while they wait take the cores from whoever shares them: one picture of an int8 ViT-B/32 beside
    # two busy processes takes 41 ms with spinning and 24 ms without, on two cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if model is not None:
        place = str(graph.resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", place)
        options.add_session_config_entry("session.disable_prepacking", str(int(is_brief)))
    wanted, package = PROVIDERS[provider]
    try:
        if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
        session = onnxruntime.InferenceSession(
            model or str(graph), options, providers=list({wanted: 0, "CPUExecutionProvider": 0})
        )
    except Exception as error:  # onnxruntime's exceptions share no base class but this
        if model is not None:  # a runtime that cannot map it (before 1.20), or a damaged graph
            return open_session(graph, provider, threads)
        raise ModelDamaged(
            f"{graph} cannot be loaded by onnxruntime {onnxruntime.__version__} ({summary(error)}), "
            "expected a graph with its weights beside it: fetch the model again, or pip install -U onnxruntime"
        ) from error
    if wanted not in session.get_providers():
        _log.warning("%s could not be started, %s runs on the CPU: pip install %s", provider, graph, package)
    return session


def all_threads() -> int:
    """How many threads this process may run at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LazySession(Generic[G]):
    """One tower, which `load` opens with so many threads when it is first used, and told whether that is for one input.

    Many workers that each bring a batch want one shared session with a single thread inside, a person who waits for one
    picture wants all threads: 67 against 55 pictures/s, and 19 against 29 ms, for an int8 ViT-B/32 on two cores. So
    there are two sessions, but what is loaded already also serves single inputs, rather than loading the weights twice.
    With a thread count of one's own, or on a GPU, one session serves all.
    """

    def __init__(self, load: Callable[[int, bool], G], provider: str, threads: int | None) -> None:
        self._load, self._threads = load, threads or all_threads()
        self._is_shared = threads is not None or provider != "cpu" or self._threads == 1
        self._lock = threading.Lock()
        self._throughput: G | None = None
        self._latency: G | None = None

    def throughput_session(self) -> G:
        """For workers that bring batches."""
        with self._lock:
            if self._throughput is None:
                self._throughput = self._load(self._threads if self._is_shared else 1, False)
            return self._throughput

    def latency_session(self, *, is_brief: bool = True) -> G:
        """For a query, which somebody waits for; `is_brief` says that few runs are likely to follow."""
        with self._lock:
            if (ready := self._latency or self._throughput) is None:
                ready = self._latency = self._load(self._threads, is_brief)
                if self._is_shared:
                    self._throughput = ready
            return ready

    def unload(self) -> None:
        """Forget the sessions; their memory is given back when the last run in flight ends."""
        with self._lock:
            self._throughput = self._latency = None
