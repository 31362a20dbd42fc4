"""Load a model of another library by a name such as `timm:resnet50`; torch is imported only then."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.errors import ModelNotFound

if TYPE_CHECKING:
    from sightline.encoders.base import Encoder
    from sightline.encoders.hub import Hub
    from sightline.encoders.torch.towers import Towers

FAMILIES: Mapping[str, tuple[str, str]] = {
    "open_clip": ("open_clip:load", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
    "hf": ("transformers:load", "hf:openai/clip-vit-base-patch32"),
    "dinov2": ("transformers:load_dinov2", "dinov2:base"),
    "timm": ("timm:load", "timm:resnet50"),
    "simclr": ("timm:load_simclr", "simclr:./checkpoint.ckpt"),
    "st": ("transformers:load_sentence_transformer", "st:clip-ViT-B-32"),
}
"""The word before the colon -> the loader in `encoders/torch/`, as `file:function`, and an example."""

_FAMILY = re.compile(r"(?P<family>[A-Za-z][\w-]+):(?P<rest>.+)")  # one letter alone is a drive of Windows


def is_of_family(name: str) -> bool:
    """Whether a name is written as one of a family: `timm:resnet50`, even if misspelt, and no folder of that name."""
    return _FAMILY.fullmatch(name) is not None and not Path(name).exists()


def open_of_family(name: str, hub: Hub, provider: str | None = None) -> Encoder:
    """The encoder of such a name, on a GPU where torch finds one, unless `provider` is `cpu`.

    Raises `ModelNotFound`, `ModelDamaged`, `HubUnreachable`, or `ExtraMissing` if torch or the library is not there.
    """
    match = _FAMILY.fullmatch(name)
    family, rest = (match["family"], match["rest"]) if match else ("", name)
    if family not in FAMILIES:
        near = get_close_matches(family.lower(), FAMILIES, n=2, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else "a folder is written ./name"
        raise ModelNotFound(
            f"there is no family of models {family!r} as in {name!r}: expected one of "
            f"{', '.join(example for _, example in FAMILIES.values())}; {advice}"
        )
    from importlib import import_module

    from sightline.encoders.torch import needed

    needed("torch")
    encoder_module = import_module("sightline.encoders.torch.encoder")
    encoder: Encoder = encoder_module.TorchEncoder(loader(family)(rest, hub), provider)
    return encoder


def loader(family: str) -> Callable[..., Towers]:
    """The function `load(rest, hub, base)` of a family, its library imported."""
    from importlib import import_module

    file, _, function = FAMILIES[family][0].partition(":")
    load: Callable[..., Towers] = getattr(import_module(f"sightline.encoders.torch.{file}"), function)
    return load
