"""Saved vectors into an index of the model that made them."""

from collections.abc import Callable
from pathlib import Path

from sightline.chunks import chunks
from sightline.encoders.base import load_encoder
from sightline.encoders.hub import Hub
from sightline.errors import IndexMismatch, UsageError
from sightline.exchange.read import Saved, open_saved
from sightline.exchange.write import BATCH_RECORDS
from sightline.index import Index
from sightline.stores.base import Store, open_store
from sightline.stores.url import StoreUrl


def load(
    path: Path,
    url: str | StoreUrl,
    *,
    model: str | None = None,
    hub: Hub | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Write the vectors in files into the index of that URL, made when it is not there; gives how many.

    Files that Sightline did not write do not say which model made them: `model` must. Raises `IndexMismatch` if the
    index holds another model's vectors, `UsageError` if the model is not told or gives vectors of another length.
    """
    saved, url = open_saved(path), StoreUrl(url)
    store = _store_for(saved, path, url, model, hub)
    written = 0
    try:
        for few in chunks(saved.records(), BATCH_RECORDS):
            store.upsert(few)
            written += len(few)
            on_progress(written)
    finally:
        store.close()
    return written


def _store_for(saved: Saved, path: Path, url: StoreUrl, model: str | None, hub: Hub | None) -> Store:
    if not saved.identity:
        _make(saved, path, url, model, hub)
    store = open_store(url, dim=saved.dim)
    there = store.notes("index").get("index", {})
    identity = {name: value for name, value in saved.identity.items() if name != "dim"}
    if identity and there and there.get("encoder") != identity.get("encoder"):
        store.close()
        raise IndexMismatch(
            f"{url} was built with {there.get('encoder')!r}, not {identity.get('encoder')!r}, expected the same model: "
            "import into a new index"
        )
    if identity and not there:
        store.write_notes("index", {"index": identity})
    return store


def _make(saved: Saved, path: Path, url: StoreUrl, model: str | None, hub: Hub | None) -> None:
    """An index of the model that the user names, if it is not there."""
    if model is None:
        raise UsageError(f"{path} does not say which model made its vectors, expected its name: give --model")
    encoder = load_encoder(model, hub=hub)
    if encoder.dim != saved.dim:
        raise UsageError(
            f"{path} has vectors of {saved.dim} dimensions and {model!r} makes {encoder.dim}, expected the model that "
            "made them: give another --model"
        )
    with Index(url, model=encoder) as index:
        index.add([])
