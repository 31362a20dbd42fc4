"""The protocol of an encoder, and loading one by its name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sightline.errors import HubBusy, HubUnreachable, ModelNotFound

if TYPE_CHECKING:
    from PIL.Image import Image

    from sightline.encoders.catalog import CatalogEntry
    from sightline.encoders.hub import Hub
    from sightline.types import Pixels, Vectors

AUTO = "auto"
"""The name that `choose_model` replaces by the best model at hand."""

_log = logging.getLogger(__name__)
_PLUGINS = "sightline.encoders"  # the entry point group: each names a callable without arguments that gives an Encoder


class Encoder(Protocol):
    """Turns pictures and words into unit vectors of one space.

    Every method may be called from many threads at once.
    """

    name: str
    """Written into each index and compared when it is opened."""
    fingerprint: str
    """A short hash of weights and preprocessing: two encoders with the same one give the same vectors.

    An encoder may also have a `picture_fingerprint`, of what pictures go through alone: see the function of that name.
    """
    dim: int
    """The length of a vector."""
    image_size: int
    """The side in pixels that `preprocess` aims at: a picture may be decoded at reduced scale down to twice this."""
    batch_size: int
    """How many pictures a worker best gives to one call of `encode_images`."""

    def preprocess(self, image: Image) -> Pixels:
        """One upright RGB picture -> (3, height, width)."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        """(n, 3, height, width) -> (n, dim), rows of norm 1."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> (n, dim), rows of norm 1; an image-only encoder raises `TextNotSupported`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A model picked by `choose_model`; `reason` says why, and is empty where there was nothing to choose."""

    name: str
    reason: str


def load_encoder(
    name: str, *, hub: Hub | None = None, threads: int | None = None, provider: str | None = None
) -> Encoder:
    """The encoder of that name: from the catalog, a family, a model folder, a plug-in, or the best for `auto`.

    A family is the word before a colon, as in `timm:resnet50`: see `FAMILIES`. A catalog name wins over a folder of the
    same name; `./name` always means the folder. `threads` and `provider` are for `OnnxEncoder`, `provider` for families
    too. Raises `ModelNotFound`, `ModelDamaged`, `HubUnreachable`, or `ExtraMissing` where a family's library lacks.
    """
    from sightline.encoders.catalog import bundled_folder, catalog
    from sightline.encoders.families import is_of_family, open_of_family

    if name == AUTO:
        name = choose_model(name, hub).name
    entry = catalog().get(name)
    if entry is None and is_of_family(name):
        return open_of_family(name, _hub(hub), provider)
    if entry is None:
        return _open(Path(name).expanduser(), None, threads, provider) if is_folder(name) else _plugin(name)
    if entry.kind == "pixels":
        from sightline.encoders.pixels import PixelsEncoder

        return PixelsEncoder()
    if entry.kind == "colour":
        from sightline.encoders.colour import ColourEncoder

        return ColourEncoder()
    folder = bundled_folder(name) if entry.kind == "bundled" else _fetched(entry, _hub(hub))
    return _open(folder, name, threads, provider)


def picture_fingerprint(encoder: Encoder) -> str:
    """What an index is bound to: encoders with the same one give pictures the same vectors, if not texts.

    An encoder that does not tell its towers apart is taken as a whole, its name included.
    """
    return str(getattr(encoder, "picture_fingerprint", f"{encoder.name}-{encoder.fingerprint}"))


def choose_model(name: str, hub: Hub | None = None) -> Choice:
    """The model to use for a name that the user gave: itself, or for `auto` the best at hand.

    That is the recommended model if it is on this disk or its hub answers in time, else the bundled one. Where its
    download has begun, or the hub is only busy, that is an error: an index keeps the model that it is built with.
    """
    from sightline.encoders.catalog import BUNDLED, catalog

    if name != AUTO:
        return Choice(name, "")
    best = next(entry for entry in catalog().values() if entry.recommended)
    hub = _hub(hub)
    if hub.folder(best.repository):
        return Choice(best.name, "the recommended model, found on this disk")
    try:
        hub.files(best.repository)
    except HubBusy:
        raise
    except (HubUnreachable, ModelNotFound) as error:
        if hub.has_begun(best.repository) and not hub.offline:
            raise HubUnreachable(
                f"a part of {best.name} is on this disk and {error}; --model {best.name} goes on with it later"
            ) from error
        happened = str(error).partition(": ")[0]  # without the advice
        return Choice(BUNDLED, f"the bundled model; the recommended {best.name} is not on this disk and {happened}")
    return Choice(best.name, f"the recommended model, fetched once from {hub.endpoint} ({best.size_mb:,} MB)")


def is_folder(name: str) -> bool:
    """Whether a model name means a folder: it is written as a path, or a folder of that name exists."""
    return "/" in name or "\\" in name or name.startswith("~") or Path(name).is_dir()


def _fetched(entry: CatalogEntry, hub: Hub) -> Path:
    if not entry.allows_commercial_use and hub.folder(entry.repository) is None:
        _log.warning("%s", licence_note(entry))
    return hub.fetch(entry.repository)


def licence_note(entry: CatalogEntry) -> str:
    """What has to be said before a model comes that not everybody may use."""
    return f"the licence of {entry.name}, {entry.licence}, forbids commercial use"


def _open(folder: Path, name: str | None, threads: int | None, provider: str | None) -> Encoder:
    from sightline.encoders.onnx import OnnxEncoder

    return OnnxEncoder(folder, name=name, threads=threads, provider=provider)


def _hub(hub: Hub | None) -> Hub:
    from sightline.encoders.hub import Hub

    return hub or Hub.from_environment()


def _plugin(name: str) -> Encoder:
    from importlib.metadata import entry_points

    for plugin in entry_points(group=_PLUGINS, name=name):
        encoder: Encoder = plugin.load()()
        return encoder
    raise ModelNotFound(_not_found(name))


def _not_found(name: str) -> str:
    from difflib import get_close_matches
    from importlib.metadata import entry_points

    from sightline.encoders.catalog import catalog
    from sightline.encoders.families import FAMILIES

    known = [AUTO, *catalog(), *entry_points(group=_PLUGINS).names]
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    advice = f"did you mean {' or '.join(near)}?" if near else "a folder is written ./name"
    families = ", ".join(example for _, example in FAMILIES.values())
    return (
        f"there is no model {name!r}: expected one of {', '.join(known)}, or a model folder, or one of another "
        f"library ({families}); {advice}"
    )
