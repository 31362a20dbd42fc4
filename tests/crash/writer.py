"""Writes to an index without end and says after each call that it returned: the process that the crash tests kill."""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.records import plain_record

from sightline.stores.base import Store
from sightline.stores.local.store import LocalStore

DIM = 8
_IDS = 1500


def calls(seed: int) -> Iterator[Callable[[Store], object]]:
    """The same calls for the same seed: mostly upserts that replace, so that compaction comes often."""
    source = random.Random(seed)
    for number in range(1_000_000):
        if source.random() < 0.15:
            gone = [plain_record(source.randrange(_IDS), DIM).id for _ in range(40)]
            yield lambda store, gone=gone: store.delete(gone)  # type: ignore[misc]
        else:
            first, count = source.randrange(_IDS), source.choice([1, 50, 400])
            records = [plain_record(n % _IDS, DIM, call=number, caption=f"n{n}") for n in range(first, first + count)]
            yield lambda store, records=records: store.upsert(records)  # type: ignore[misc]


def main() -> None:
    folder, seed, done = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    store = LocalStore(folder, DIM)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    for number, call in enumerate(calls(seed)):
        if number >= done:
            call(store)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
