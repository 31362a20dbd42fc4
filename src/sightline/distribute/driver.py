"""Run an index on a Ray cluster from this machine, which walks the source and looks up what changed."""

from __future__ import annotations

import contextlib
import logging
import pickle
import platform
import socket
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import sightline
from sightline.distribute.worker import Chunk, Plan, chunks
from sightline.encoders.base import Encoder
from sightline.encoders.hub import Hub
from sightline.errors import ClusterError, ExtraMissing, SightlineError, UsageError, summary
from sightline.files import default_cache
from sightline.ingest import BatchResult, Options, Run, Summary
from sightline.sources.files import path_of
from sightline.stores.base import Store
from sightline.stores.url import StoreUrl
from sightline.types import Failure, Item, now

_EXAMPLE = "ray://head:10001?workers=8&cpus=2"
_KNOCK_S = 5.0
_ASK_S = 300.0  # for the cluster to start one small task
_LOOK_S = 1.0
_PORT = 10001


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster that fills the index at `url`, by `workers` (0: as many as it has room for) of `cpus` each."""

    host: str
    port: int
    url: StoreUrl
    hub: Hub = field(default_factory=Hub.from_environment, repr=False)
    workers: int = 0
    cpus: int = 1
    gpus: int = 0

    def ingest(
        self, items: Iterable[Item], encoder: Encoder, store: Store, *, options: Options, seen: set[str]
    ) -> Summary:
        """As `ingest.ingest`, on the cluster; its `options.workers` is not used.

        Raises `ExtraMissing` without Ray and `ClusterError`, or what a worker met, with the name of its host.
        """
        run = Run(store, options, seen)
        with _connected(self.host, self.port) as ray:
            run.take(BatchResult())
            offered = chunks(run.changed(items), run.failed_before)
            first = next(offered, None)
            if first is not None:
                _drive(ray, self._plan(ray, items, options), chain([first], offered), run)
        run.finish([])
        return run.summary

    def _plan(self, ray: Any, items: Iterable[Item], options: Options) -> Plan:
        resources = ray.cluster_resources()
        room = int(resources.get("CPU", 0)) // self.cpus
        if self.gpus:
            room = min(room, int(resources.get("GPU", 0)) // self.gpus)
        if room < max(1, self.workers):
            raise ClusterError(
                f"the cluster at {self.host}:{self.port} has {resources.get('CPU', 0):g} CPUs and "
                f"{resources.get('GPU', 0):g} GPUs, expected room for {max(1, self.workers)} workers of "
                f"{self.cpus} CPUs and {self.gpus} GPUs: ask for fewer, or add nodes"
            )
        root = str(getattr(items, "root", ""))
        place = path_of(root) if root.startswith("file:///") and "#" not in root else None
        return Plan(
            url=self.url,
            hub=replace(self.hub, progress=None),
            is_cache_chosen=self.hub.cache != default_cache(),
            workers=self.workers or room,
            cpus=self.cpus,
            gpus=self.gpus,
            limit_megapixels=options.limit_megapixels,
            place=str(place) if place is not None and place.is_dir() else None,
        )


def open_cluster(address: str, url: str | StoreUrl, hub: Hub | None = None) -> Cluster:
    """The cluster of an address, for the index at a URL; raises `UsageError` if either cannot be.

    An index in a folder is refused: other hosts cannot write to it, and on this one threads are faster.
    """
    parts, url = urlsplit(address), StoreUrl(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(given.keys() - {"workers", "cpus", "gpus"})
    try:
        port = parts.port or _PORT
        numbers = {name: int(text) for name, text in given.items()}
    except ValueError as error:
        raise UsageError(f"{address} is not a cluster ({error}), expected one like {_EXAMPLE}: correct it") from error
    if parts.scheme != "ray" or not parts.hostname or unknown or min(numbers.values(), default=1) < 0:
        raise UsageError(
            f"{address} is not a cluster, expected a number of threads, or one like {_EXAMPLE}: correct it"
        )
    if not url.is_remote:
        raise UsageError(
            f"{url} is on this machine alone, expected a server that every node of {address} can write to, such as "
            "postgresql://host/database: index into one, and copy it with `sightline copy` where a folder is wanted"
        )
    workers, cpus = numbers.get("workers", 0), max(1, numbers.get("cpus", 1))
    return Cluster(parts.hostname, port, url, hub or Hub.from_environment(), workers, cpus, numbers.get("gpus", 0))


@contextlib.contextmanager
def _connected(host: str, port: int) -> Iterator[Any]:
    """Ray, connected to the cluster; left as it was if this process is connected already."""
    try:
        import ray
        import ray.data
        import ray.util.client
    except ImportError as error:
        raise ExtraMissing(
            f"a ray:// address needs Ray with its client, which is not installed ({error}): "
            "pip install 'sightline[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    where, logger = f"ray://{host}:{port}", logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its advice and reports stay out of the terminal; what goes wrong is raised, too
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"ray\.")
            _connect(ray, where, host, port)
            try:
                yield ray
            finally:
                ray.shutdown()
    finally:
        logger.setLevel(level)


def _connect(ray: Any, where: str, host: str, port: int) -> None:
    """Connect, and refuse a cluster that lacks this version of Sightline."""
    try:
        socket.create_connection((host, port), _KNOCK_S).close()  # Ray itself would try for half a minute
    except OSError as error:
        raise ClusterError(
            f"{where} does not answer ({error.strerror or error}), expected the head of a Ray cluster: check host and "
            f"port, and that `ray start --head --ray-client-server-port={port}` runs there"
        ) from error
    # The head starts a process for each client, by a fork beside gRPC's threads: some crash there, or soon after.
    for is_last in (False, False, True):
        try:
            ray.init(where, log_to_driver=False, logging_level="CRITICAL")
        except Exception as error:  # grpc's errors, ConnectionError, RuntimeError for another version: no common base
            if isinstance(error, ConnectionAbortedError) and not is_last:
                continue
            raise ClusterError(
                f"{where} cannot be used ({summary(error)}), expected the port for clients of a Ray {ray.__version__} "
                f"with Python {platform.python_version()}, as here: check the port, and install the same on both sides"
            ) from error
        try:
            there = ray.get(ray.remote(num_cpus=0)(_version).remote(), timeout=_ASK_S)
        except Exception as error:
            ray.shutdown()
            if _is_lost(error) and not is_last:
                continue
            raise ClusterError(
                f"{where} cannot run Sightline ({summary(error)}): it must be installed on each node, "
                f"pip install 'sightline[ray]=={sightline.__version__}' there"
            ) from error
        if there != sightline.__version__:  # what travels there must be understood
            ray.shutdown()
            raise ClusterError(
                f"{where} has Sightline {there}, expected {sightline.__version__} as here: "
                "install the same on each node"
            )
        return


def _is_lost(error: Exception) -> bool:
    """Whether the connection ended, rather than a task of it."""
    import grpc

    return isinstance(error, ConnectionError | grpc.RpcError)


def _version() -> str:
    return sightline.__version__


def _drive(ray: Any, plan: Plan, offered: Iterable[Chunk], run: Run) -> None:
    """Give chunks to an actor on the cluster as it has room, wait for the end, and note what ended its workers.

    With the actor end all workers, whatever happens here.
    """
    from sightline.distribute.coordinator import Coordinator

    coordinator = ray.remote(num_cpus=0, max_concurrency=8)(Coordinator).remote(plan)
    try:
        running = coordinator.run.remote()
        for chunk in offered:
            data, is_taken = _packed(ray, chunk), False
            while not is_taken and not _has_ended(ray, running):
                is_taken, done = ray.get(coordinator.offer.remote(chunk.number, data))
                _show(run, done)
            if not is_taken:
                break
        ray.get(coordinator.close.remote())
        while not _has_ended(ray, running, _LOOK_S):
            _show(run, ray.get(coordinator.done.remote()))
        outcome = ray.get(running)
    except SightlineError:
        raise
    except Exception as error:  # whatever Ray raises for a node or an actor that is gone
        raise ClusterError(
            f"the cluster stopped ({summary(error)}): what is done is kept; see the logs of Ray on its head "
            "node, and run the same command to go on"
        ) from error
    finally:
        with contextlib.suppress(Exception):  # it may be gone with its node
            ray.kill(coordinator)
    _show(run, outcome.done)
    reason = "each worker that tried it died: expected a picture that fits its memory; look at it, or leave it out"
    run.take(BatchResult(failures=[(Failure(item.uri, "encode", reason, now()), item) for item in outcome.deadly]))
    if outcome.error is not None:
        run.commit()
        raise outcome.error


def _packed(ray: Any, chunk: Chunk) -> bytes:
    try:
        return bytes(ray.cloudpickle.dumps(chunk))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise UsageError(
            f"{chunk.items[0].uri} cannot be sent to another host ({summary(error)}), expected pictures in files, "
            "in a table, in a plain tar or zip, or on the web: unpack them, or index them with threads (--workers 8)"
        ) from error


def _show(run: Run, done: Summary) -> None:
    """Bring the run's counts up to what the cluster has done."""
    now = run.summary
    more = {name: getattr(done, name) - getattr(now, name) for name in ("encoded", "reused", "failed")}
    run.count(**more)
    run.take(BatchResult())  # shows it


def _has_ended(ray: Any, running: Any, wait_s: float = 0.0) -> bool:
    ended, _ = ray.wait([running], timeout=wait_s)
    return bool(ended)
