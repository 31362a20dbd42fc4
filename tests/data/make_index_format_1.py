"""Writes the folder index-format-1 beside it: later versions must go on opening what this format's first one wrote."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from tests.records import plain_record

from sightline.stores.local.store import LocalStore

FOLDER = Path(__file__).with_name("index-format-1")


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    store = LocalStore(FOLDER, dim=20)
    taken = datetime(2024, 5, 1, 12, tzinfo=UTC)
    store.upsert([plain_record(n, 20, caption=f"picture {n}", tags=["a", "ü"], taken=taken) for n in range(10)])
    store.upsert([plain_record(3, 20, caption="replaced", sha256="abc", flag=True, ratio=0.5)])
    store.delete([plain_record(7, 20).id])
    store.write_notes("index", {"identity": {"model": "mini"}})
    store.close()
    (FOLDER / "writer.json").unlink()  # names the machine


if __name__ == "__main__":
    main()
