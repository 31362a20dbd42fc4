"""The models of open_clip: `open_clip:ViT-B-32/laion2b_s34b_b79k`, a checkpoint file or a folder."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import preprocessing
from sightline.encoders.torch.libraries import files_of, fit, library, loading, read_state, split_state
from sightline.encoders.torch.towers import Parts, TextHead, TowerPart, Towers, byte_pair_tokenizer, scale_and_bias
from sightline.errors import ModelNotFound

LIBRARY = "open_clip"
CONFIG = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load(rest: str, hub: Hub, base: Path = Path()) -> Towers:
    """`ARCHITECTURE/TAG`, `ARCHITECTURE/file.pt`, `./folder` as open_clip saves one; each may end with `@state.pt`.

    The weights after `@` go over those of the model; without a tag they have to be whole. Paths are relative to `base`.
    Raises an `EncoderError`.
    """
    name, state = split_state(rest, base)
    if state is None and "/" not in name and not _is_path(name):
        open_clip = library(LIBRARY)
        _check_architecture(open_clip, name)
        raise ModelNotFound(
            f"open_clip:{name} names no weights, expected one of its tags ({_tags(open_clip, name)}) or a file: write "
            f"open_clip:{name}/TAG or open_clip:{name}@state.pt"
        )
    return load_or_make(rest, hub, base)


def load_or_make(rest: str, hub: Hub, base: Path = Path()) -> Towers:
    """As `load`, and an `ARCHITECTURE` alone has random weights."""
    open_clip = library(LIBRARY)
    name, state = split_state(rest, base)
    options: dict[str, Any] = {}
    there: AbstractContextManager[None] = nullcontext()
    has_weights = _is_path(name)
    if has_weights:
        folder = (base / Path(name).expanduser()).resolve()
        if not (folder / CONFIG).is_file():
            raise ModelNotFound(f"{folder} holds no {CONFIG}, expected a folder that open_clip saved: check the path")
        name, architecture = str(folder), f"local-dir:{folder}"
        options["require_pretrained"] = True
    else:
        architecture, _, weights = name.partition("/")
        _check_architecture(open_clip, architecture)
        if weights and not open_clip.get_pretrained_cfg(architecture, weights):
            name, state = architecture, _checkpoint(open_clip, architecture, weights, base, state)
        elif weights:
            has_weights, options = True, options_of(open_clip, architecture, weights)
            there = _files(open_clip, architecture, weights, hub)
    shown = f"open_clip:{name}"
    with loading(shown):
        config = _config(open_clip, architecture)
        with there:
            model = open_clip.create_model(architecture, force_custom_text=True, **options)
        tokenizer = open_clip.get_tokenizer(architecture)
    if state is not None:
        fit(model, _renamed(open_clip, model, read_state(state)), shown, may_lack=has_weights)
        shown += f"@{state}"
    if options.get("force_quick_gelu"):
        config["quick_gelu"] = True
    return _towers(open_clip, shown, model.eval(), tokenizer, config)


def options_of(open_clip: Any, architecture: str, tag: str) -> dict[str, Any]:
    """What `create_model` has to be given for a published tag: the activation that the weights were trained with.

    `ViT-B-32/openai` and its like name an architecture with plain GELU and weights of QuickGELU; open_clip only warns.
    """
    published = open_clip.get_pretrained_cfg(architecture, tag)
    return {"pretrained": tag, "force_quick_gelu": bool(published.get("quick_gelu"))}


def rebuilt(config: Mapping[str, Any]) -> nn.Module:
    """The model of `Towers.rebuild` with random weights."""
    open_clip = library(LIBRARY)
    model: nn.Module = open_clip.CustomTextCLIP(**{key: value for key, value in config.items() if key != "custom_text"})
    return model


def parts(model: Any) -> Parts:
    """The two towers of such a model."""
    bias = model.logit_bias
    return Parts(
        image=model.visual,
        text=model.text,
        log_scale=float(model.logit_scale.detach().reshape(-1)[0]),
        bias=None if bias is None else float(bias.detach().reshape(-1)[0]),
    )


def _towers(open_clip: Any, name: str, model: Any, tokenizer: Any, config: dict[str, Any]) -> Towers:
    preprocess = open_clip.get_model_preprocess_cfg(model)
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**preprocess), is_train=False)
    activations = sorted({type(module).__name__ for module in model.modules() if "GELU" in type(module).__name__})
    has_two_towers = isinstance(model, open_clip.CustomTextCLIP)
    is_custom = bool(config.get("custom_text")) or "hf_model_name" in config["text_cfg"]
    scale, bias = scale_and_bias(model)
    return Towers(
        name=name,
        architecture=f"open_clip {type(model.visual).__name__} {' '.join(activations)}",
        model=model,
        preprocessing=preprocessing(preprocess),
        image=model.visual if has_two_towers else TowerPart(model, _image_of_captioner),
        text=_text(model, tokenizer, config["text_cfg"], has_two_towers=has_two_towers),
        picture_weights=("visual.",),
        moved_prefix="" if is_custom else "text.",
        logit_scale=scale,
        logit_bias=bias,
        transform=transform,
        config={key: value for key, value in config.items() if key != "text_cfg"},
        rebuild={"library": LIBRARY, "config": json.loads(json.dumps(config))} if has_two_towers else {},
    )


def _image_of_captioner(model: Any, pixels: Tensor) -> Tensor:
    vectors: Tensor = model.encode_image(pixels)
    return vectors


def _text_of_captioner(model: Any, ids: Tensor) -> Tensor:
    vectors: Tensor = model.encode_text(ids)
    return vectors


def _text(model: Any, tokenizer: Any, config: Mapping[str, Any], *, has_two_towers: bool) -> TextHead:
    tower = model.text
    length = int(getattr(tower, "context_length", None) or tokenizer.context_length)
    is_causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    if hasattr(tokenizer, "bpe_ranks"):
        tokenizer_config = {"pad_token": "!", "model_max_length": length}  # it pads with 0, which is "!"
    else:
        inner = tokenizer.tokenizer
        tokenizer_config = {"pad_token": inner.pad_token, "sep_token": inner.sep_token, "model_max_length": length}
    return TextHead(
        module=tower if has_two_towers else TowerPart(model, _text_of_captioner),
        tokens=lambda texts: (tokenizer(texts),),
        context_length=length,
        masks_padding=is_causal,
        takes_mask=False,
        config={**config, "context_length": length, **({"masks_padding": True} if is_causal else {})},
        tokenizer_config=tokenizer_config,
        tokenizer=lambda: _tokenizer_json(tokenizer),
    )


def _tokenizer_json(tokenizer: Any) -> str:
    """From the tokenizer that open_clip itself uses."""
    if not hasattr(tokenizer, "bpe_ranks"):
        return str(tokenizer.tokenizer.backend_tokenizer.to_str())
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    return str(byte_pair_tokenizer(list(tokenizer.byte_encoder.values()), merges).to_str())


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~"))


def _config(open_clip: Any, architecture: str) -> dict[str, Any]:
    """The `model_cfg` of an architecture or a folder."""
    folder = architecture.removeprefix("local-dir:")
    if folder != architecture:
        document: dict[str, Any] = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
        return document
    return dict(open_clip.get_model_config(architecture))


def _files(open_clip: Any, architecture: str, tag: str, hub: Hub) -> AbstractContextManager[None]:
    published = open_clip.get_pretrained_cfg(architecture, tag)
    repository, _, file = (published.get("hf_hub") or "").rpartition("/")
    # open_clip itself fetches the others from where their authors put them
    return files_of(repository, [file] if file else _FILES, hub) if repository else nullcontext()


def _renamed(open_clip: Any, model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A state dict of the older kind of model, whose text tower's weights have no prefix."""
    if not isinstance(model, open_clip.CustomTextCLIP):
        return state
    parts = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
    return {f"text.{name}" if name.startswith(parts) else name: value for name, value in state.items()}


def _check_architecture(open_clip: Any, architecture: str) -> None:
    if open_clip.get_model_config(architecture) is None:
        near = get_close_matches(architecture, open_clip.list_models(), n=3, cutoff=0.4)
        raise ModelNotFound(
            f"open_clip has no architecture {architecture!r}, expected one of open_clip.list_models(): did you mean "
            f"{' or '.join(near) or 'ViT-B-32'}? A folder is written open_clip:./folder"
        )


def _checkpoint(open_clip: Any, architecture: str, weights: str, base: Path, state: Path | None) -> Path:
    """What follows the slash is a tag or a file; a file is written after `@` as well, not both."""
    path = (base / Path(weights).expanduser()).resolve()
    if state is None and path.is_file():
        return path
    near = get_close_matches(weights, open_clip.list_pretrained_tags_by_model(architecture), n=3, cutoff=0.4)
    advice = f"did you mean {' or '.join(near)}?" if near else "correct what follows the slash"
    raise ModelNotFound(
        f"open_clip has no weights {weights!r} of {architecture} and there is no such file, expected one of its tags "
        f"({_tags(open_clip, architecture)}) or the path of a checkpoint: {advice}"
    )


def _tags(open_clip: Any, architecture: str) -> str:
    return ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
