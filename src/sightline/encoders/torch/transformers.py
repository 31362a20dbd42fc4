"""`hf:openai/clip-vit-base-patch32` or `hf:./folder` -> the towers of a model of transformers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import Preprocessing
from sightline.encoders.torch.encoder import Tensor, Towers, Words
from sightline.encoders.torch.libraries import files_of, library, loading
from sightline.encoders.torch.processors import preprocessing_of
from sightline.encoders.torch.weights import fit, read_state, split_state
from sightline.errors import ModelDamaged, ModelNotFound

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one type of model is used: its class, the names of its picture weights, how its vectors are taken."""

    model: str
    pictures: tuple[str, ...]
    take: "Callable[[Any], tuple[Callable[[Tensor], Tensor], Callable[..., Tensor] | None]]"
    pads_fully: bool = False
    """Whether texts have to be padded to the model's length, because it attends to the padding."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the class, for parts that are not needed."""


def load(rest: str, hub: Hub) -> Towers:
    """A repository's name, or a folder written as a path; either may end with `@state.pt`. Raises an `EncoderError`."""
    transformers = library("transformers")
    base, state = split_state(rest)
    folder = Path(base).expanduser()
    if not folder.is_dir() and not base.startswith((".", "/", "~")):
        with files_of(base, _WEIGHTS, hub), loading(f"hf:{base}"), without_bars(transformers):
            return _loaded(transformers, base, base, state)
    folder = folder.resolve()
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} holds no config.json, expected a folder that transformers saved: check the path")
    with loading(f"hf:{folder}"), without_bars(transformers):
        return _loaded(transformers, str(folder), str(folder), state)


@contextmanager
def without_bars(transformers: Any) -> Iterator[None]:
    """Without the library's progress bars."""
    was_on = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers.utils.logging.enable_progress_bar()


def type_of(rest: str, hub: Hub) -> str:
    """What config.json says of a name or folder: `clip`, `dinov2`. Raises an `EncoderError`."""
    transformers = library("transformers")
    base, _ = split_state(rest)
    folder = Path(base).expanduser()
    if folder.is_dir() or base.startswith((".", "/", "~")):
        with loading(f"hf:{folder}"):
            return str(transformers.AutoConfig.from_pretrained(str(folder)).model_type)
    with files_of(base, ["config.json"], hub), loading(f"hf:{base}"):
        return str(transformers.AutoConfig.from_pretrained(base).model_type)


def _loaded(transformers: Any, source: str, shown: str, state: Path | None) -> Towers:
    config = transformers.AutoConfig.from_pretrained(source)
    kind = kind_of(config.model_type, f"hf:{shown}")
    model_class, given = getattr(transformers, kind.model), {"dtype": "float32", **kind.options}
    model, report = model_class.from_pretrained(source, output_loading_info=True, **given)
    fresh = sorted(report["missing_keys"])
    if state is not None:
        fit(model, read_state(state), f"hf:{shown}", may_lack=not fresh)
    elif fresh:
        raise ModelDamaged(
            f"hf:{shown} lacks {', '.join(fresh[:3])} of a {kind.model}, expected every weight: "
            "choose a repository whose model has both towers and their projections"
        )
    processor = transformers.AutoImageProcessor.from_pretrained(source)
    how = preprocessing_of(processor.to_dict(), f"hf:{shown}")
    name = f"hf:{shown}" + (f"@{state}" if state else "")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source) if kind.take(model)[1] else None
    return towers_of(name, model, how, tokenizer)


def towers_of(name: str, model: Any, how: Preprocessing, tokenizer: Any) -> Towers:
    """A loaded model and its tokenizer, None for one of pictures alone."""
    config = model.config
    kind = kind_of(config.model_type, name)
    pictures, texts = kind.take(model)
    words = _words(tokenizer, config, texts, pads_fully=kind.pads_fully) if texts and tokenizer else None
    scale, bias = _scale(model), getattr(model, "logit_bias", None)
    activations = [getattr(part, "hidden_act", "") for part in (config, *_parts(config))]
    return Towers(
        name=name,
        architecture=f"transformers {kind.model} {' '.join(map(str, activations))}",
        model=model,
        how=how,
        vectors=pictures,
        words=words,
        picture_weights=kind.pictures,
        logit_scale=scale,
        logit_bias=None if bias is None else float(bias.detach().reshape(-1)[0]),
    )


def kind_of(model_type: str, name: str) -> Kind:
    """How a model of that type is used; raises `ModelNotFound`."""
    if model_type not in KINDS:
        raise ModelNotFound(
            f"{name} is of type {model_type!r}, expected one of {', '.join(KINDS)}: "
            "use open_clip: or timm: for models of theirs, or export it to ONNX"
        )
    return KINDS[model_type]


def _words(tokenizer: Any, config: Any, vectors: Callable[..., Tensor], *, pads_fully: bool) -> Words:
    length = int(min(config.text_config.max_position_embeddings, tokenizer.model_max_length))
    names = ("input_ids",) if pads_fully else ("input_ids", "attention_mask")

    def tokens(texts: list[str]) -> Mapping[str, Tensor]:
        padding = "max_length" if pads_fully else True
        read = tokenizer(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        return {name: read[name] for name in names}

    return Words(tokens, vectors, tokenizer, length)


def _scale(model: Any) -> float | None:
    if hasattr(model, "temperature"):  # ALIGN divides by it
        return float(1 / model.temperature.detach())
    return float(model.logit_scale.detach().exp().reshape(-1)[0]) if hasattr(model, "logit_scale") else None


def _parts(config: Any) -> list[Any]:
    parts = (getattr(config, name, None) for name in ("vision_config", "text_config"))
    return [part for part in parts if part is not None]


def _features(model: Any) -> tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]:
    """CLIP and its kin: both towers with their projections."""
    return (
        lambda pixels: _pooled(model.get_image_features(pixel_values=pixels)),
        lambda **tokens: _pooled(model.get_text_features(**tokens)),
    )


def _blip(model: Any) -> tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]:
    """The two projections that BLIP's retrieval compares (`use_itm_head=False`), of the first token of each tower."""
    return (
        lambda pixels: model.vision_proj(model.vision_model(pixel_values=pixels).last_hidden_state[:, 0]),
        lambda **tokens: model.text_proj(model.text_encoder(**tokens).last_hidden_state[:, 0]),
    )


def _first_token(model: Any) -> tuple[Callable[[Tensor], Tensor], None]:
    """DINOv2 and ViT: the class token after the last norm."""
    return lambda pixels: model(pixel_values=pixels).last_hidden_state[:, 0], None


def _average(model: Any) -> tuple[Callable[[Tensor], Tensor], None]:
    """Convolutional networks: the average over the last map."""
    return lambda pixels: model(pixel_values=pixels).pooler_output.flatten(1), None


def _pooled(output: Any) -> Tensor:
    """Since version 5 the vectors come with all that led to them."""
    return getattr(output, "pooler_output", output)


KINDS: Mapping[str, Kind] = {
    "clip": Kind("CLIPModel", ("vision_model.", "visual_projection."), _features),
    "siglip": Kind("SiglipModel", ("vision_model.",), _features, pads_fully=True),
    "blip": Kind("BlipForImageTextRetrieval", ("vision_model.", "vision_proj."), _blip),
    "align": Kind("AlignModel", ("vision_model.",), _features),
    "chinese_clip": Kind("ChineseCLIPModel", ("vision_model.", "visual_projection."), _features),
    "dinov2": Kind("Dinov2Model", (), _first_token),
    "dinov2_with_registers": Kind("Dinov2WithRegistersModel", (), _first_token),
    "vit": Kind("ViTModel", (), _first_token, options={"add_pooling_layer": False}),
    "resnet": Kind("ResNetModel", (), _average),
}
"""What `model_type` of config.json says -> how such a model is used."""
