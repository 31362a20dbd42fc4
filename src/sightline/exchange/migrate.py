"""An index in one store turned into the same index in another, and the proof that it is the same."""

from collections.abc import Callable

from sightline.calibration.exact import sample_pictures
from sightline.calibration.phrases import sample_queries
from sightline.errors import EncoderError, IndexMismatch
from sightline.exchange.copying import Copied, Options, copy_records
from sightline.exchange.verifying import Verdict, verify
from sightline.index import Index
from sightline.stores.base import open_store
from sightline.stores.url import StoreUrl
from sightline.types import FAILURE, Vectors

_KINDS = ("index", "root", FAILURE)  # the notes that make an index; what a store measured of itself stays behind


def copy(
    source: Index, url: str | StoreUrl, *, prune: bool = False, on_progress: Callable[[Copied], None] = lambda _: None
) -> Copied:
    """Write the records and notes of an index into the store of that URL, made when it is not there.

    Memory stays constant; an interrupted copy goes on when it is started again. With `prune` pictures that the source
    no longer has are removed. Raises `IndexMismatch` if another model's pictures are there.
    """
    url = StoreUrl(url)
    target = open_store(url, dim=source.store.dim)
    try:
        identity, there = source.store.notes("index"), target.notes("index")
        if there and _model(there) != _model(identity):
            raise IndexMismatch(
                f"{url} was built with {_model(there)[0]!r}, not {_model(identity)[0]!r}, expected the same model: "
                "copy into a new index"
            )
        target.write_notes("index", dict(identity))
        copied = copy_records(source.store, target, Options(prune, on_progress))
        for kind in _KINDS:
            kept, old = source.store.notes(kind), target.notes(kind)
            target.write_notes(kind, {**dict.fromkeys(old), **kept})
    finally:
        target.close()
    return copied


def compare(source: Index, target: Index, *, sample: int = 200) -> Verdict:
    """Compare all records of two indexes, and their answers to `sample` text and picture queries.

    Without the model on this machine the text queries are left out.
    """
    return verify(source.store, target.store, _queries(source, sample))


def _queries(index: Index, sample: int) -> dict[str, Vectors]:
    try:
        return sample_queries(index.store, index.encoder, sample)
    except EncoderError:
        pictures = sample_pictures(index.store, sample)
        return {"image": pictures} if len(pictures) else {}


def _model(notes: dict[str, dict[str, object]]) -> tuple[object, object]:
    identity = notes.get("index", {})
    return identity.get("encoder"), identity.get("pictures") or identity.get("fingerprint")
