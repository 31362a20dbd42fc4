"""What a worker on a node of the cluster does: index chunks of items with a model of its own."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.distribute.plan import Chunk, Plan
from sightline.encoders.hub import default_cache
from sightline.errors import ClusterError, SightlineError, SourceError
from sightline.index import Index
from sightline.ingest import Options, Summary, ingest

if TYPE_CHECKING:
    import pyarrow


class Worker:
    """One actor: a model and a connection to the store, opened with the first chunk and kept.

    It commits what it did itself and answers with the counts alone. Errors are answers, too: what Ray sees of a worker
    is only whether it lives.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._index: Index | None = None

    def __call__(self, table: pyarrow.Table) -> Iterator[pyarrow.Table]:
        """Rows of a chunk (pickled) -> rows of its number and its answer (pickled)."""
        import pyarrow

        for data in table["chunk"].to_pylist():
            chunk = pickle.loads(data)
            answer = pickle.dumps(self.answer(chunk))
            yield pyarrow.table({"number": [chunk.number], "answer": [answer]})

    def answer(self, chunk: Chunk) -> Summary | SightlineError:
        """What became of a chunk, or why nothing did."""
        where = socket.gethostname()
        try:
            return self._work(chunk)
        except SightlineError as error:
            return type(error)(f"on {where}: {error}")
        except Exception as error:  # a fault of this program or of a library: it must not look like a dead worker
            return ClusterError(f"a worker on {where} failed ({type(error).__name__}: {error}), expected it to go on")

    def _work(self, chunk: Chunk) -> Summary:
        plan, index = self._plan, self._opened()
        options = Options(
            workers=plan.cpus,
            limit_megapixels=plan.limit_megapixels,
            retry=True,  # the driver has left out what need not be tried again
            failed_before=chunk.failed_before,
        )
        return ingest(chunk.items, index.encoder, index.store, options=options, seen=set())

    def _opened(self) -> Index:
        """The index, whose model is checked to be the one that it was built with."""
        if self._index is None:
            plan = self._plan
            if plan.place is not None and not Path(plan.place).exists():
                raise SourceError(
                    f"{plan.place} is not there, expected each node of the cluster to see the pictures by the same "
                    "path: mount them there"
                )
            hub = plan.hub if plan.is_cache_chosen else replace(plan.hub, cache=default_cache())
            index = Index(plan.url, hub=hub)
            index.encoder  # noqa: B018  loads it
            self._index = index
        return self._index
