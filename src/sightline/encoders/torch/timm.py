"""The picture models of timm, `timm:resnet50`, and the ResNets that SimCLR trained, `simclr:./checkpoint.ckpt`.

Their vectors are the pooled features, without the classifier or the projection head: what comes before SimCLR's finds
better than what comes after it (Chen et al. 2020, arXiv:2002.05709, section 4.2). Layouts of its checkpoints that are
known: lightning-bolts (`encoder.`, `projection.`), Spijkervet's (`encoder.`, `projector.`), sthalles's (`backbone.`),
MoCo's (`encoder_q.`), and torchvision's own names.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import RESAMPLING, Mode, Preprocessing
from sightline.encoders.torch.libraries import files_of, fit, is_path, library, loading, read_state, split_state
from sightline.encoders.torch.towers import Towers
from sightline.errors import EncoderError, ModelDamaged, ModelNotFound

_FILES = ("model.safetensors", "pytorch_model.bin")
_PREFIXES = ("encoder.", "backbone.", "encoder_q.", "online_network.encoder.", "")
_HEADS = ("fc.", "projection.", "projector.")
_FIRST = "conv1.weight"
_DEPTHS = {(False, 2): "resnet18", (False, 6): "resnet34", (True, 6): "resnet50", (True, 23): "resnet101"}
"""Whether its blocks have three convolutions, and how many blocks the third stage has -> the network."""


def load(rest: str, hub: Hub, base: Path = Path()) -> Towers:
    """`resnet50`, `resnet50.a1_in1k`, `resnet50@state.pt`, or `./folder` of timm; paths are relative to `base`.

    Raises an `EncoderError`.
    """
    timm = library("timm")
    model_name, state = split_state(rest, base)
    there: AbstractContextManager[None] = nullcontext()
    if is_path(model_name):
        model_name = f"local-dir:{(base / Path(model_name).expanduser()).resolve()}"
    else:
        _check_name(timm, model_name)
        published = timm.get_pretrained_cfg(model_name) if state is None else None
        if state is None and (published is None or not published.has_weights):
            raise ModelNotFound(
                f"timm publishes no weights of {model_name}, expected a file with some: name it "
                f"({model_name}@state.pt), or choose another (timm.list_pretrained())"
            )
        if published and published.hf_hub_id:  # timm itself fetches the others from where their authors put them
            files = [published.hf_hub_filename] if published.hf_hub_filename else list(_FILES)
            there = files_of(published.hf_hub_id, files, hub)
    with there, loading(f"timm:{model_name}"):
        model = timm.create_model(model_name, pretrained=state is None, num_classes=0)
    if state is not None:
        head = model.pretrained_cfg.get("classifier") or ()
        unused = [f"{name}." for name in ((head,) if isinstance(head, str) else head)]
        fit(model, read_state(state), f"timm:{model_name}@{state}", may_lack=False, unused=unused)
    elif not model_name.startswith("local-dir:"):
        model_name = f"{model_name.partition('.')[0]}.{model.pretrained_cfg['tag']}"  # the usual weights change
    name = f"timm:{model_name.removeprefix('local-dir:')}" + (f"@{state}" if state else "")
    architecture = f"timm {model.pretrained_cfg.get('architecture') or model_name.partition('.')[0]}"
    config = timm.data.resolve_model_data_config(model)
    return _towers(name, architecture, model.eval(), _preprocessing(config, name), timm.data.create_transform(**config))


def load_simclr(rest: str, hub: Hub, base: Path = Path()) -> Towers:
    """A checkpoint of SimCLR. Raises an `EncoderError` that names the keys which do not fit a ResNet."""
    timm = library("timm")
    path = (base / Path(rest).expanduser()).resolve()
    state = read_state(path)
    prefix = next((one for one in _PREFIXES if one + _FIRST in state), None)
    if prefix is None:
        raise ModelDamaged(
            f"{path} holds no {_FIRST} but {', '.join(sorted(state)[:3])}, expected a ResNet below one of "
            f"{', '.join(one for one in _PREFIXES if one)} or on its own: save the encoder's state dict"
        )
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    network = _network(state, path)
    is_for_small = state[_FIRST].shape[-1] == 3
    with loading(f"simclr:{path}"):
        model = timm.create_model(network, pretrained=False, num_classes=0)
        if is_for_small:
            # for pictures of 32 pixels the first layer does not reduce and there is no pooling (section B.9)
            model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
            model.maxpool = nn.Identity()
    fit(model, state, f"simclr:{path}", may_lack=False, unused=_HEADS)
    side = 32 if is_for_small else 224
    preprocessing = Preprocessing(  # as lightning-bolts evaluates: a tenth larger, then the middle
        height=side,
        width=side,
        mean=(0.485, 0.456, 0.406),  # of ImageNet
        std=(0.229, 0.224, 0.225),
        resample=RESAMPLING["bilinear"],  # torchvision's default
        mode="shortest",
        fill=0,
        resized=int(1.1 * side),
    )
    return _towers(f"simclr:{path}", f"simclr {network} {is_for_small}", model.eval(), preprocessing, None)


def _towers(
    name: str,
    architecture: str,
    model: nn.Module,
    preprocessing: Preprocessing,
    transform: Callable[..., Tensor] | None,
) -> Towers:
    return Towers(
        name=name,
        architecture=architecture,
        model=model,
        preprocessing=preprocessing,
        image=model,
        transform=transform,
        config={"vision_cfg": {"image_size": preprocessing.height}},
    )


def _check_name(timm: Any, base: str) -> None:
    architecture, _, tag = base.partition(".")
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.4)
        raise ModelNotFound(
            f"timm has no model {architecture!r}, expected one of timm.list_models(): "
            f"did you mean {' or '.join(near) or 'resnet50'}?"
        )
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelNotFound(
            f"timm has no weights {tag!r} of {architecture}, expected one of {', '.join(tags) or 'none'}: "
            f"correct what follows the point, or name a file ({architecture}@state.pt)"
        )


def _preprocessing(config: Mapping[str, Any], name: str) -> Preprocessing:
    """As timm's own evaluation does it."""
    _, height, width = config["input_size"]
    crop, mode = config.get("crop_mode") or "center", config["interpolation"]
    resized = [int(side / (config.get("crop_pct") or 0.875)) for side in (height, width)]
    modes: dict[str, Mode] = {"center": "shortest", "squash": "squash"}
    if crop not in modes or mode not in RESAMPLING or height != width:
        raise EncoderError(
            f"{name} wants pictures of {width} x {height} cut by {crop!r} and resized by {mode!r}, expected a square, "
            f"{' or '.join(modes)}, and one of {', '.join(RESAMPLING)}: choose another model"
        )
    return Preprocessing(
        height=height,
        width=width,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resample=RESAMPLING[mode],
        mode=modes[crop],
        fill=0,
        resized=resized[0] if resized[0] != height else None,
    )


def _network(state: dict[str, Any], path: Path) -> str:
    blocks = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("layer3.")), default=-1)
    has_three = "layer1.0.conv3.weight" in state
    if (has_three, blocks) not in _DEPTHS:
        raise ModelDamaged(
            f"{path} has {blocks} blocks in its third stage, expected one of {', '.join(_DEPTHS.values())}: "
            "other networks need a file of their own (docs/howto/encoder.md)"
        )
    return _DEPTHS[has_three, blocks]
