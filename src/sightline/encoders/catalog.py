"""The models that can be used by name, as catalog.toml lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

BUNDLED = "mini"
"""The model that comes with the package."""

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model that can be used by name.

    `size_mb` is what is downloaded, or what lies in the package. `image_size` is the side in pixels of what the model
    sees. `coco_recall_at_1` is text-to-image recall at 1 on the 5,000 COCO pictures, in percent, as published at
    `source`; None where nobody has published it. `image_gflops` is the arithmetic that one picture costs, from which
    the speed of a model can be estimated that is not on this disk.
    """

    name: str
    summary: str
    dim: int
    image_size: int
    size_mb: int
    licence: str
    languages: str
    kind: Literal["hub", "bundled", "pixels", "colour"] = "hub"
    repository: str = ""
    recommended: bool = False
    coco_recall_at_1: float | None = None
    source: str = ""
    image_gflops: float | None = None
    allows_commercial_use: bool = True


@cache
def catalog() -> Mapping[str, CatalogEntry]:
    """Every entry by name, in the order of the file: best first within a family."""
    import tomllib

    tables = tomllib.loads((_HERE / "catalog.toml").read_text("utf-8"))
    return MappingProxyType({name: CatalogEntry(name=name, **table) for name, table in tables.items()})


def bundled_folder(name: str) -> Path:
    """Where a model of kind `bundled` lies."""
    return _HERE / name
