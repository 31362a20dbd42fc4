"""`open_clip:ViT-B-32/laion2b_s34b_b79k` and its like -> a model of the open_clip library and its documents."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sightline.encoders.hub import Hub
from sightline.encoders.torch.libraries import files_of, library, loading, quietly
from sightline.errors import TrainingError
from sightline.train.clips.documents import Documents, byte_pair_tokenizer
from sightline.train.clips.loaded import Loaded, unit
from sightline.train.clips.towers import Parts, cut_attention

LIBRARY = "open_clip"
CONFIG = "open_clip_config.json"


def load_open_clip(name: str, base: Path, hub: Hub | None = None) -> Loaded:
    """An architecture with random weights, with a published tag or with a checkpoint file after `/`, or a folder.

    A folder is a path with a slash in front (`./folder`) that holds open_clip_config.json and the weights. Raises
    `TrainingError` when there is no such architecture, when the weights are neither here nor to be had, or when they
    do not fit.
    """
    open_clip = library(LIBRARY)
    if name.startswith((".", "/", "~")):
        return _from_folder(open_clip, (base / Path(name).expanduser()).resolve())
    architecture, _, weights = name.partition("/")
    config = open_clip.get_model_config(architecture)
    if config is None:
        near = get_close_matches(architecture, open_clip.list_models(), n=3, cutoff=0.4)
        raise TrainingError(
            f"open_clip has no architecture {architecture!r}: expected one of open_clip.list_models(), "
            f"such as {', '.join(near) or 'ViT-B-32'}; a folder is written open_clip:./folder"
        )
    weights, there = _weights(open_clip, architecture, weights, base, hub) if weights else ("", nullcontext())
    with there, loading(f"open_clip:{name}"):
        model = open_clip.create_model(architecture, pretrained=weights or None, force_custom_text=True)
        tokenizer = open_clip.get_tokenizer(architecture)
    return _loaded(open_clip, model.eval(), config, tokenizer)


def rebuilt(rebuild: Mapping[str, Any]) -> nn.Module:
    """The model of `Loaded.rebuild` with random weights."""
    config = {name: value for name, value in rebuild["config"].items() if name != "custom_text"}
    with quietly():
        model: nn.Module = library(LIBRARY).CustomTextCLIP(**config)
    return model


def parts(model: nn.Module) -> Parts:
    """Both towers; their attention is replaced by one that texts of any length can use."""
    bias = getattr(model, "logit_bias", None)
    return Parts(
        image=cut_attention(model.visual),
        text=cut_attention(model.text),
        log_scale=float(model.logit_scale.detach().reshape(-1)[0]),
        bias=None if bias is None else float(bias.detach().reshape(-1)[0]),
    )


def _from_folder(open_clip: Any, folder: Path) -> Loaded:
    if not (folder / CONFIG).is_file():
        raise TrainingError(f"{folder} holds no {CONFIG}: expected a folder that open_clip saved; check the path")
    with loading(str(folder)):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
        name = f"local-dir:{folder}"
        model = open_clip.create_model(name, force_custom_text=True, require_pretrained=True)
        return _loaded(open_clip, model.eval(), config, open_clip.get_tokenizer(name))


def _weights(
    open_clip: Any, architecture: str, weights: str, base: Path, hub: Hub | None
) -> tuple[str, AbstractContextManager[None]]:
    """A tag and how its file is had, or the path of a checkpoint."""
    published = open_clip.get_pretrained_cfg(architecture, weights)
    if not published:
        path = base / Path(weights).expanduser()
        if path.is_file():
            return str(path), nullcontext()
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise TrainingError(
            f"{weights!r} is no weights of {architecture} and no file {path}: expected one of its tags ({tags}), "
            "or the path of a checkpoint; correct the part after the slash"
        )
    repository, _, file = (published.get("hf_hub") or "").rpartition("/")
    files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    return weights, files_of(repository, files, hub or Hub.from_environment()) if repository else nullcontext()


def _loaded(open_clip: Any, model: nn.Module, config: Mapping[str, Any], tokenizer: Any) -> Loaded:
    if not isinstance(model, open_clip.CustomTextCLIP) or hasattr(model, "text_decoder"):
        raise TrainingError(
            f"the model is a {type(model).__name__}: expected two towers with one vector each; "
            "choose a CLIP or SigLIP architecture"
        )
    preprocess = open_clip.get_model_preprocess_cfg(model)
    text, tokenizer_json, tokenizer_config = _reading(model, config["text_cfg"], tokenizer)
    is_causal = getattr(model.text, "attn_mask", None) is not None and getattr(model.text, "cls_emb", None) is None
    text |= {"masks_padding": True} if is_causal else {}
    documents = Documents(
        {**config, "embed_dim": _dim(model, config), "text_cfg": text}, preprocess, tokenizer_json, tokenizer_config
    )
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**preprocess), is_train=False)

    @torch.no_grad()
    def encode_image(image: Any) -> Any:
        return unit(model.encode_image(transform(image)[None]))

    @torch.no_grad()
    def encode_text(words: str) -> Any:
        return unit(model.encode_text(tokenizer([words])))

    rebuild = {"library": LIBRARY, "config": json.loads(json.dumps(config))}
    return Loaded(model, documents, is_causal, rebuild, parts, encode_image, encode_text)


def _reading(model: nn.Module, text: Mapping[str, Any], tokenizer: Any) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The text config, tokenizer.json and its config, from the tokenizer that open_clip itself uses."""
    length = int(getattr(model.text, "context_length", None) or tokenizer.context_length)
    text = {**text, "context_length": length}
    if hasattr(tokenizer, "bpe_ranks"):
        merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
        document = byte_pair_tokenizer(list(tokenizer.byte_encoder.values()), merges).to_str()
        return text, document, {"pad_token": "!", "model_max_length": length}  # it pads with 0, which is "!"
    inner = tokenizer.tokenizer
    config = {"pad_token": inner.pad_token, "sep_token": inner.sep_token, "model_max_length": length}
    return text, inner.backend_tokenizer.to_str(), config


def _dim(model: nn.Module, config: Mapping[str, Any]) -> int:
    return int(config.get("embed_dim") or model.visual.output_dim)
