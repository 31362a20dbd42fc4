"""The models of open_clip: `open_clip:ViT-B-32/laion2b_s34b_b79k`, a checkpoint file or a folder."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import preprocessing
from sightline.encoders.torch.libraries import files_of, fit, is_path, library, loading, read_state, split_state
from sightline.encoders.torch.towers import Parts, TextHead, TowerPart, Towers, byte_pair_tokenizer, scale_and_bias
from sightline.errors import ModelNotFound

LIBRARY = "open_clip"
CONFIG = "open_clip_config.json"
_OF_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load(rest: str, hub: Hub, base: Path = Path()) -> Towers:
    """`ARCHITECTURE/TAG`, `ARCHITECTURE/file.pt`, `./folder` as open_clip saves one; each may end with `@state.pt`.

    The weights after `@` go over those of the model; without a tag they have to be whole. Paths are relative to `base`.
    Raises an `EncoderError`.
    """
    name, state = split_state(rest, base)
    if state is None and "/" not in name and not is_path(name):
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
    has_weights = is_path(name)
    if has_weights:
        folder = (base / Path(name).expanduser()).resolve()
        if not (folder / CONFIG).is_file():
            raise ModelNotFound(f"{folder} holds no {CONFIG}, expected a folder that open_clip saved: check the path")
        name, architecture = str(folder), f"local-dir:{folder}"
        options["require_pretrained"] = True
    else:
        architecture, _, weights = name.partition("/")
        _check_architecture(open_clip, architecture)
        published = open_clip.get_pretrained_cfg(architecture, weights) if weights else None
        if weights and not published:
            name, state = architecture, _checkpoint(open_clip, architecture, weights, base, state)
        elif published:
            has_weights, options = True, options_of(open_clip, architecture, weights)
            repository, _, file = (published.get("hf_hub") or "").rpartition("/")
            if repository:  # open_clip itself fetches the others from where their authors put them
                there = files_of(repository, [file] if file else _FILES, hub)
    shown = f"open_clip:{name}"
    with loading(shown):
        if has_weights and not options.get("pretrained"):
            config = dict(json.loads((Path(name) / CONFIG).read_text(encoding="utf-8"))["model_cfg"])
        else:
            config = dict(open_clip.get_model_config(architecture))
        with there:
            model = open_clip.create_model(architecture, force_custom_text=True, **options)
        tokenizer = open_clip.get_tokenizer(architecture)
    if state is not None:
        tensors = read_state(state)
        if isinstance(model, open_clip.CustomTextCLIP):  # the older kind has no prefix for its text tower's weights
            tensors = {f"text.{key}" if key.startswith(_OF_TEXT) else key: value for key, value in tensors.items()}
        fit(model, tensors, shown, may_lack=has_weights)
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


def rebuilt(config: Mapping[str, Any]) -> Parts:
    """The towers of the model of `Towers.rebuild` with random weights."""
    options = {key: value for key, value in config.items() if key != "custom_text"}
    model = library(LIBRARY).CustomTextCLIP(**options)
    return Parts(model.visual, model.text, *scale_and_bias(model))


def _towers(open_clip: Any, name: str, model: Any, tokenizer: Any, config: dict[str, Any]) -> Towers:
    preprocess = open_clip.get_model_preprocess_cfg(model)
    activations = sorted({type(module).__name__ for module in model.modules() if "GELU" in type(module).__name__})
    has_two_towers = isinstance(model, open_clip.CustomTextCLIP)
    is_custom = bool(config.get("custom_text")) or "hf_model_name" in config["text_cfg"]
    scale, bias = scale_and_bias(model)
    return Towers(
        name=name,
        architecture=f"open_clip {type(model.visual).__name__} {' '.join(activations)}",
        model=model,
        preprocessing=preprocessing(preprocess),
        image=model.visual
        if has_two_towers
        else TowerPart(model, lambda captioner, *inputs: captioner.encode_image(*inputs)),
        text=_text(model, tokenizer, config["text_cfg"], has_two_towers=has_two_towers),
        picture_weights=("visual.",),
        moved_prefix="" if is_custom else "text.",
        logit_scale=scale,
        logit_bias=bias,
        transform=open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**preprocess), is_train=False
        ),
        config={key: value for key, value in config.items() if key != "text_cfg"},
        rebuild={"library": LIBRARY, "config": json.loads(json.dumps(config))} if has_two_towers else {},
    )


def _text(model: Any, tokenizer: Any, config: Mapping[str, Any], *, has_two_towers: bool) -> TextHead:
    tower = model.text
    length = int(getattr(tower, "context_length", None) or tokenizer.context_length)
    is_causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    if hasattr(tokenizer, "bpe_ranks"):
        tokenizer_config = {"pad_token": "!", "model_max_length": length}  # it pads with 0, which is "!"
    else:
        inner = tokenizer.tokenizer
        tokenizer_config = {"pad_token": inner.pad_token, "sep_token": inner.sep_token, "model_max_length": length}

    def tokenizer_json() -> str:
        if not hasattr(tokenizer, "bpe_ranks"):
            return str(tokenizer.tokenizer.backend_tokenizer.to_str())
        merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
        return str(byte_pair_tokenizer(list(tokenizer.byte_encoder.values()), merges).to_str())

    return TextHead(
        module=tower if has_two_towers else TowerPart(model, lambda captioner, ids: captioner.encode_text(ids)),
        tokens=lambda texts: (tokenizer(texts),),
        context_length=length,
        masks_padding=is_causal,
        takes_mask=False,
        config={**config, "context_length": length, **({"masks_padding": True} if is_causal else {})},
        tokenizer_config=tokenizer_config,
        tokenizer=tokenizer_json,
    )


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
