"""`hf:openai/clip-vit-base-patch32` or `hf:./folder` -> a CLIP or SigLIP of transformers and its documents."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.encoders.hub import Hub
from sightline.encoders.torch.libraries import files_of, library, loading, quietly
from sightline.encoders.torch.transformers import without_bars
from sightline.errors import TrainingError
from sightline.train.clips.documents import Documents
from sightline.train.clips.loaded import Loaded, unit
from sightline.train.clips.towers import Parts

LIBRARY = "transformers"
KINDS = {"clip": ("CLIPConfig", "CLIPModel"), "siglip": ("SiglipConfig", "SiglipModel")}
PREPROCESSOR = "preprocessor_config.json"


class Pooled(nn.Module):
    """A tower of transformers with its projection: the vector alone."""

    def __init__(self, tower: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.inner = tower
        self.projection = projection

    def forward(self, inputs: Tensor) -> Tensor:
        """Pixels or ids -> (n, dim)."""
        vectors = self.inner(inputs).pooler_output
        return vectors if self.projection is None else self.projection(vectors)


def load_transformers(name: str, base: Path, hub: Hub | None = None) -> Loaded:
    """A repository's name, or a folder, written as a path or there already. Raises `TrainingError`."""
    transformers = library(LIBRARY)
    folder = base / Path(name).expanduser()
    is_folder = folder.is_dir() or name.startswith((".", "/", "~"))
    if is_folder and not (folder / "config.json").is_file():
        raise TrainingError(f"{folder} holds no config.json: expected a folder that transformers saved; check the path")
    source = str(folder) if is_folder else name
    there = nullcontext() if is_folder else files_of(name, ["config.json"], hub or Hub.from_environment())
    with there, loading(f"hf:{name}"), without_bars(transformers):
        config = transformers.AutoConfig.from_pretrained(source)
        _, kind = _kind(config.model_type)
        model, report = getattr(transformers, kind).from_pretrained(
            source, output_loading_info=True, dtype=torch.float32, attn_implementation="sdpa"
        )
        if missing := sorted(report["missing_keys"]):
            raise TrainingError(f"hf:{name} lacks {missing[0]}: expected every weight of a {kind}; fetch it again")
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        processor = transformers.AutoImageProcessor.from_pretrained(source)
    return _loaded(model.eval(), config, tokenizer, processor)


def rebuilt(rebuild: Mapping[str, Any]) -> nn.Module:
    """The model of `Loaded.rebuild` with random weights."""
    transformers, values = library(LIBRARY), dict(rebuild["config"])
    config, kind = _kind(values["model_type"])
    with quietly():
        model: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**values))
    return model


def parts(model: nn.Module) -> Parts:
    """Both towers, each with its projection where it has one apart."""
    bias = getattr(model, "logit_bias", None)
    return Parts(
        image=Pooled(model.vision_model, getattr(model, "visual_projection", None)),
        text=Pooled(model.text_model, getattr(model, "text_projection", None)),
        log_scale=float(model.logit_scale.detach().reshape(-1)[0]),
        bias=None if bias is None else float(bias.detach().reshape(-1)[0]),
    )


def _loaded(model: nn.Module, config: Any, tokenizer: Any, processor: Any) -> Loaded:
    is_causal = config.model_type == "clip"
    text = config.text_config
    length = int(text.max_position_embeddings)
    size = int(config.vision_config.image_size)
    folder = {
        "embed_dim": int(getattr(config, "projection_dim", None) or text.projection_size),
        "vision_cfg": {"image_size": size, "patch_size": config.vision_config.patch_size},
        "text_cfg": {
            "context_length": length,
            "vocab_size": text.vocab_size,
            "hf_tokenizer_name": "tokenizer.json",
            "tokenizer_kwargs": {"clean": _cleaning(tokenizer)},
            **({"masks_padding": True} if is_causal else {"no_causal_mask": True}),
        },
    }
    padding = {"pad_token": tokenizer.pad_token, "model_max_length": length}
    documents = Documents(folder, preprocess_of(processor.to_dict(), size), fast_tokenizer(tokenizer), padding)

    @torch.no_grad()
    def encode_image(image: Any) -> Any:
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        return unit(_vectors(model.get_image_features(pixel_values=pixels)))

    @torch.no_grad()
    def encode_text(words: str) -> Any:
        ids = tokenizer([words], padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return unit(_vectors(model.get_text_features(input_ids=ids["input_ids"])))

    rebuild = {"library": LIBRARY, "config": json.loads(json.dumps(config.to_dict()))}
    return Loaded(model, documents, is_causal, rebuild, parts, encode_image, encode_text)


def preprocess_of(processor: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The preprocessor of transformers in open_clip's keys. Raises `TrainingError` where the two cannot agree."""
    asked, crop = processor.get("size") or {"height": size, "width": size}, processor.get("crop_size")
    is_cropped = "shortest_edge" in asked and processor.get("do_center_crop")
    if is_cropped and crop and crop["height"] != asked["shortest_edge"]:
        raise TrainingError(
            f"the preprocessor scales the short side to {asked['shortest_edge']} and crops {crop['height']}: expected "
            f"both equal; change {PREPROCESSOR} if the model bears it"
        )
    sides = crop if is_cropped and crop else {"height": asked.get("height", size), "width": asked.get("width", size)}
    return {
        "size": [sides["height"], sides["width"]],
        "mode": "RGB",
        "mean": list(processor["image_mean"]),
        "std": list(processor["image_std"]),
        "interpolation": "bilinear" if int(processor.get("resample", 3)) == 2 else "bicubic",
        "resize_mode": "shortest" if is_cropped else "squash",
        "fill_color": 0,
    }


def _vectors(output: Any) -> Any:
    """Since version 5 the vectors come with all that led to them."""
    return getattr(output, "pooler_output", output)


def _cleaning(tokenizer: Any) -> str:
    """SigLIP's first tokenizer strips punctuation in Python; the others say all in tokenizer.json."""
    return "canonicalize" if type(tokenizer).__name__ == "SiglipTokenizer" else "whitespace"


def fast_tokenizer(tokenizer: Any) -> str:
    """The tokenizer.json of a tokenizer. Raises `TrainingError` where it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TrainingError(
            f"the tokenizer is a {type(tokenizer).__name__}: expected one with a tokenizer.json; "
            "save it from a fast tokenizer into the folder"
        )
    return str(backend.to_str())


def _kind(model_type: str) -> tuple[str, str]:
    if model_type not in KINDS:
        raise TrainingError(
            f"the model is of type {model_type!r}: expected {' or '.join(KINDS)}; use open_clip: for other families"
        )
    return KINDS[model_type]
