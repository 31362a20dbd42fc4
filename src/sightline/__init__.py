"""Find pictures by meaning: `sightline.open("photos.index").search("a red car")`."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from sightline.encoders.base import Encoder
    from sightline.encoders.hub import Hub
    from sightline.errors import SightlineError
    from sightline.index import Index
    from sightline.ingest import Options, Summary
    from sightline.query import Term
    from sightline.results import Hits
    from sightline.stores.url import StoreUrl
    from sightline.types import Hit, Item, Record

__version__ = "0.1.0"

_HOMES = {  # imported at first use: `import sightline` alone takes milliseconds
    "Encoder": "encoders.base",
    "Hit": "types",
    "Hits": "results",
    "Hub": "encoders.hub",
    "Index": "index",
    "Item": "types",
    "Options": "ingest",
    "Record": "types",
    "SightlineError": "errors",
    "Summary": "ingest",
    "Term": "query",
}
__all__ = [
    "Encoder",
    "Hit",
    "Hits",
    "Hub",
    "Index",
    "Item",
    "Options",
    "Record",
    "SightlineError",
    "Summary",
    "Term",
    "open",
]


def open(
    url: "str | Path | StoreUrl" = "photos.index", *, model: "str | Encoder | None" = None, hub: "Hub | None" = None
) -> "Index":
    """Open an index by URL: a folder, or `memory:`; it is created by the first `add` if it does not exist.

    `model` is a name (`sightline models` lists them), a folder with a model in it, or an encoder of your own; without
    one an index is opened with the model that built it, and a new one gets the recommended or the bundled model.
    """
    from sightline.index import Index

    return Index(url, model=model, hub=hub)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sightline' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    return getattr(import_module(f"sightline.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
