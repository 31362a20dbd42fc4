"""`simclr:./checkpoint.ckpt` -> the ResNet that SimCLR trained, with its pooled features.

Papers: Chen et al. 2020, arXiv:2002.05709: what the encoder gives before the projection head finds better than what
comes after it (section 4.2). Layouts that are known: lightning-bolts (`encoder.`, `projection.`), Spijkervet's
(`encoder.`, `projector.`), sthalles's (`backbone.`), MoCo's (`encoder_q.`), and torchvision's own names.
"""

from pathlib import Path
from typing import Any

from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import Preprocessing
from sightline.encoders.torch.encoder import Towers
from sightline.encoders.torch.libraries import library, loading
from sightline.encoders.torch.weights import fit, read_state
from sightline.errors import ModelDamaged

_PREFIXES = ("encoder.", "backbone.", "encoder_q.", "online_network.encoder.", "")
_HEADS = ("fc.", "projection.", "projector.")
_FIRST = "conv1.weight"
_DEPTHS = {(False, 2): "resnet18", (False, 6): "resnet34", (True, 6): "resnet50", (True, 23): "resnet101"}
"""Whether its blocks have three convolutions, and how many blocks the third stage has -> the network."""


def load(rest: str, hub: Hub) -> Towers:
    """A checkpoint of SimCLR. Raises an `EncoderError` that names the keys which do not fit a ResNet."""
    timm = library("timm")
    path = Path(rest).expanduser().resolve()
    state = _of_encoder(read_state(path), path)
    architecture = _architecture(state, path)
    with loading(f"simclr:{path}"):
        model = timm.create_model(architecture, pretrained=False, num_classes=0)
        is_for_small = state[_FIRST].shape[-1] == 3
        if is_for_small:
            _without_reduction(model)
    fit(model, state, f"simclr:{path}", may_lack=False, unused=_HEADS)
    return Towers(f"simclr:{path}", f"simclr {architecture} {is_for_small}", model, _how(is_for_small), model)


def _of_encoder(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """The weights of the network alone, in torchvision's names."""
    prefix = next((one for one in _PREFIXES if one + _FIRST in state), None)
    if prefix is None:
        raise ModelDamaged(
            f"{path} holds no {_FIRST} but {', '.join(sorted(state)[:3])}, expected a ResNet below one of "
            f"{', '.join(one for one in _PREFIXES if one)} or on its own: save the encoder's state dict"
        )
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _architecture(state: dict[str, Any], path: Path) -> str:
    blocks = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("layer3.")), default=-1)
    has_three = "layer1.0.conv3.weight" in state
    if (has_three, blocks) not in _DEPTHS:
        raise ModelDamaged(
            f"{path} has {blocks} blocks in its third stage, expected one of {', '.join(_DEPTHS.values())}: "
            "other networks need a file of their own (docs/howto/encoder.md)"
        )
    return _DEPTHS[has_three, blocks]


def _without_reduction(model: Any) -> None:
    """For pictures of 32 pixels the first layer does not reduce and there is no pooling (section B.9 of the paper)."""
    import torch

    model.conv1 = torch.nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
    model.maxpool = torch.nn.Identity()


def _how(is_for_small: bool) -> Preprocessing:
    """As lightning-bolts evaluates: a tenth larger, then the middle; ImageNet's mean and deviation."""
    side = 32 if is_for_small else 224
    return Preprocessing(
        height=side,
        width=side,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        resample=2,  # bilinear, torchvision's default
        mode="shortest",
        fill=0,
        resized=int(1.1 * side),
    )
