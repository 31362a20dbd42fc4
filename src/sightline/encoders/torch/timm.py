"""`timm:resnet50` and any other picture model of timm -> its pooled features, without the classifier."""

from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import RESAMPLING, Mode, Preprocessing
from sightline.encoders.torch.encoder import Towers
from sightline.encoders.torch.libraries import files_of, library, loading
from sightline.encoders.torch.weights import fit, read_state, split_state
from sightline.errors import EncoderError, ModelNotFound

_FILES = ("model.safetensors", "pytorch_model.bin")


def load(rest: str, hub: Hub) -> Towers:
    """`resnet50`, `resnet50.a1_in1k`, `resnet50@state.pt`, or `./folder` of timm. Raises an `EncoderError`."""
    timm = library("timm")
    base, state = split_state(rest)
    if base.startswith((".", "/", "~")):
        base = f"local-dir:{Path(base).expanduser().resolve()}"
    else:
        _check_name(timm, base)
    if state is None and not base.startswith("local-dir:"):
        model = _published(timm, base, hub)
        base = f"{base.partition('.')[0]}.{model.pretrained_cfg['tag']}"  # which weights are the usual ones changes
    else:
        with loading(f"timm:{base}"):
            model = timm.create_model(base, pretrained=state is None, num_classes=0)
    if state is not None:
        head = model.pretrained_cfg.get("classifier") or ()
        heads = (head,) if isinstance(head, str) else tuple(head)
        unused = [f"{name}." for name in heads]
        fit(model, read_state(state), f"timm:{base}@{state}", may_lack=False, unused=unused)
    name = f"timm:{base.removeprefix('local-dir:')}" + (f"@{state}" if state else "")
    architecture = f"timm {model.pretrained_cfg.get('architecture') or base.partition('.')[0]}"
    return Towers(name, architecture, model, _how(timm, model, name), model)


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


def _published(timm: Any, base: str, hub: Hub) -> Any:
    """With the weights that timm names, from its cache or a hub."""
    config = timm.get_pretrained_cfg(base)
    if config is None or not config.has_weights:
        raise ModelNotFound(
            f"timm publishes no weights of {base}, expected a file with some: name it ({base}@state.pt), "
            "or choose another (timm.list_pretrained())"
        )
    files = [config.hf_hub_filename] if config.hf_hub_filename else list(_FILES)
    # timm itself fetches the others from where their authors put them
    there = files_of(config.hf_hub_id, files, hub) if config.hf_hub_id else nullcontext()
    with there, loading(f"timm:{base}"):
        return timm.create_model(base, pretrained=True, num_classes=0)


def _how(timm: Any, model: Any, name: str) -> Preprocessing:
    """As timm's own evaluation does it."""
    config = timm.data.resolve_model_data_config(model)
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
