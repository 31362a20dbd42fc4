"""The protocol of an encoder, and loading one by its name."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sightline.errors import EncoderError, HubBusy, HubUnreachable, IndexMismatch, ModelNotFound

if TYPE_CHECKING:
    from PIL.Image import Image

    from sightline.encoders.catalog import CatalogEntry
    from sightline.encoders.hub import Hub
    from sightline.encoders.torch.towers import Towers
    from sightline.types import Pixels, Vectors

AUTO = "auto"
"""The name that `choose_model` replaces by the best model at hand."""

ON_HUB = "hub:"
"""What the name of a repository of ONNX graphs begins with: `hub:owner/name@revision:precision`."""

FAMILIES: Mapping[str, tuple[str, str]] = {
    "open_clip": ("open_clip:load", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
    "hf": ("transformers:load", "hf:openai/clip-vit-base-patch32"),
    "dinov2": ("transformers:load_dinov2", "dinov2:base"),
    "timm": ("timm:load", "timm:resnet50"),
    "simclr": ("timm:load_simclr", "simclr:./checkpoint.ckpt"),
    "st": ("transformers:load_sentence_transformer", "st:clip-ViT-B-32"),
}
"""Models of other libraries, run in torch: the word before the colon of a name -> the loader in `encoders/torch/`, as
`file:function`, and an example."""

_FAMILY = re.compile(r"[A-Za-z][\w-]+:.+")  # one letter alone is a drive of Windows
_log = logging.getLogger(__name__)
_HEAD_BYTES = 8 << 20
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
    """The encoder of that name: from the catalog, a hub, a family, a model folder, a plug-in, or the best for `auto`.

    `hub:owner/name` is any repository of ONNX graphs; a family is another word before a colon: see `FAMILIES`. A
    catalog name wins over a folder of the same name; `./name` always means the folder. `threads` and `provider` are for
    `OnnxEncoder`, `provider` for families too. Raises `ModelNotFound`, `ModelDamaged`, `HubUnreachable`, `UsageError`,
    or `ExtraMissing` where a family's library lacks.
    """
    from sightline.encoders.catalog import bundled_folder, catalog

    if name == AUTO:
        name = choose_model(name, hub).name
    entry = catalog().get(name)
    if name.startswith(ON_HUB):
        from sightline.encoders.onnx import OnnxEncoder

        model = name.removeprefix(ON_HUB)
        folder, precision = _hub(hub).fetch(model), model.partition(":")[2]
        return OnnxEncoder(folder, name=name, threads=threads, provider=provider, precision=precision)
    if entry is None and is_of_family(name):
        return _of_family(name, _hub(hub), provider)
    if entry is None and not is_folder(name):
        return _plugin(name)
    if entry is not None and entry.kind in ("pixels", "colour"):
        from sightline.encoders.baselines import ColourEncoder, PixelsEncoder

        return PixelsEncoder() if entry.kind == "pixels" else ColourEncoder()
    from sightline.encoders.onnx import OnnxEncoder

    if entry is None:
        return OnnxEncoder(Path(name).expanduser(), threads=threads, provider=provider)
    folder = bundled_folder(name) if entry.kind == "bundled" else _fetched(entry, _hub(hub))
    return OnnxEncoder(folder, name=name, threads=threads, provider=provider)


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


def is_of_family(name: str) -> bool:
    """Whether a name is written as one of `FAMILIES`: `timm:resnet50`, even if misspelt, and no folder of that name."""
    return _FAMILY.fullmatch(name) is not None and not Path(name).exists()


def loader(family: str) -> Callable[..., Towers]:
    """The function `load(rest, hub, base)` of a family, its library imported."""
    from importlib import import_module

    file, _, function = FAMILIES[family][0].partition(":")
    load: Callable[..., Towers] = getattr(import_module(f"sightline.encoders.torch.{file}"), function)
    return load


def licence_note(entry: CatalogEntry) -> str:
    """What has to be said before a model comes that not everybody may use."""
    return f"the licence of {entry.name}, {entry.licence}, forbids commercial use"


def _fetched(entry: CatalogEntry, hub: Hub) -> Path:
    if not entry.allows_commercial_use and hub.folder(entry.repository) is None:
        _log.warning("%s", licence_note(entry))
    folder = hub.fetch(entry.repository)
    if entry.repository.endswith("__openai") and has_other_activation(folder / "textual" / "model.onnx"):
        _log.warning(
            "%s was exported with another activation (GELU) than OpenAI trained it with (QuickGELU), and finds less: "
            "use laion-b32, or hub:Xenova/clip-vit-base-patch32",
            entry.name,
        )
    return folder


def has_other_activation(graph: Path) -> bool:
    """Whether the graph of a CLIP by OpenAI has GELU's operator, Erf, and not Sigmoid, which QuickGELU consists of.

    The operators stand before the weights in the file; before each name stand the number of its field and its length.
    """
    with graph.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return b"\x22\x03Erf" in head and b"\x22\x07Sigmoid" not in head


def _hub(hub: Hub | None) -> Hub:
    from sightline.encoders.hub import Hub

    return hub or Hub.from_environment()


def _of_family(name: str, hub: Hub, provider: str | None) -> Encoder:
    """On a GPU where torch finds one, unless `provider` is `cpu`."""
    from importlib import import_module

    family, _, rest = name.partition(":")
    if family not in FAMILIES:
        raise ModelNotFound(
            f"there is no family of models {family!r} as in {name!r}: expected one of "
            f"{', '.join(example for _, example in FAMILIES.values())}; {_advice(family.lower(), FAMILIES)}"
        )
    from sightline.encoders.torch import needed

    needed("torch")
    encoder_module = import_module("sightline.encoders.torch.encoder")
    encoder: Encoder = encoder_module.TorchEncoder(loader(family)(rest, hub), provider)
    return encoder


def _plugin(name: str) -> Encoder:
    from importlib.metadata import entry_points

    from sightline.encoders.catalog import catalog

    for plugin in entry_points(group=_PLUGINS, name=name):
        encoder: Encoder = plugin.load()()
        return encoder
    known = [AUTO, *catalog(), *entry_points(group=_PLUGINS).names]
    families = ", ".join(["hub:owner/name", *(example for _, example in FAMILIES.values())])
    raise ModelNotFound(
        f"there is no model {name!r}: expected one of {', '.join(known)}, or a model folder, or one of another "
        f"library ({families}); {_advice(name, known)}"
    )


def _advice(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else "a folder is written ./name"


def check_identity(url: object, encoder: Encoder, identity: Mapping[str, Any], hub: Hub | None) -> None:
    """Refuse a model that gives pictures other vectors; its name and its text tower may be others.

    `identity` is the note that the index keeps of its builder. Raises `IndexMismatch`.
    """
    built_with, fingerprint = identity.get("encoder", encoder.name), identity.get("fingerprint")
    if encoder.name == built_with and encoder.fingerprint == (fingerprint or encoder.fingerprint):
        return
    pictures = identity.get("pictures")
    if not pictures:  # built before these were written down: the builder is asked, if it is on this disk and unchanged
        from sightline.encoders.hub import Hub

        with suppress(EncoderError):
            builder = load_encoder(str(identity.get("load")), hub=replace(hub or Hub.from_environment(), offline=True))
            pictures = picture_fingerprint(builder) if builder.fingerprint == fingerprint else None
    if pictures and picture_fingerprint(encoder) == pictures:
        return
    if encoder.name != built_with:
        raise IndexMismatch(
            f"{url} was built with {built_with!r}, not {encoder.name!r}: "
            f"open it with --model {built_with}, or build a new index"
        )
    build = f"build a new index with `sightline index FOLDER --index NEW --model {encoder.name}`"
    raise IndexMismatch(
        f"{url} was built with other weights of {encoder.name!r} ({fingerprint}, now "
        f"{encoder.fingerprint}), which give other vectors: {build}, or use the model files it was built with"
    )
