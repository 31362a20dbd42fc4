"""The models of transformers and what stands on them: `hf:openai/clip-vit-base-patch32`, `dinov2:base`, `st:NAME`."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import preprocessing_of
from sightline.encoders.torch.libraries import files_of, fit, is_path, library, loading, read_state, split_state
from sightline.encoders.torch.towers import Parts, TextHead, TowerPart, Towers, scale_and_bias
from sightline.errors import EncoderError, ModelDamaged, ModelNotFound

LIBRARY = "transformers"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
_DINOV2: Mapping[str, str] = {
    size: f"facebook/dinov2-{size}"
    for size in ("small", "base", "large", "giant")
    for size in (size, f"with-registers-{size}")
}
_DINOV2_OF_PAPER = {"vits14": "small", "vitb14": "base", "vitl14": "large", "vitg14": "giant"}
_SENTENCE_OWNER = "sentence-transformers"
_HARMLESS = ("Normalize",)  # modules of sentence-transformers: our vectors have norm 1 anyway


@dataclass(frozen=True, slots=True)
class Kind:
    """How one type of model is used: its class, the names of its picture weights, and its towers."""

    model: str
    picture_weights: tuple[str, ...]
    image: Callable[[Any], nn.Module]
    text: Callable[[Any], nn.Module] | None = None
    takes_mask: bool = True
    pads_fully: bool = False
    """Whether texts have to be padded to the model's length, because it attends to the padding."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the class, for parts that are not needed."""


class Pooled(nn.Module):
    """A tower with its projection: the vector alone."""

    def __init__(self, tower: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.inner = tower
        self.projection = projection

    def forward(self, inputs: Tensor) -> Tensor:
        """Pixels or ids -> (n, dim)."""
        vectors: Tensor = self.inner(inputs).pooler_output
        return vectors if self.projection is None else self.projection(vectors)


def load(rest: str, hub: Hub, base: Path = Path()) -> Towers:
    """A repository's name, or a folder written as a path; either may end with `@state.pt`.

    Paths are relative to `base`. Raises an `EncoderError`.
    """
    transformers = library(LIBRARY)
    name, state = split_state(rest, base)
    folder = (base / Path(name).expanduser()).resolve()
    is_folder = is_path(name) or folder.is_dir()
    if is_folder and not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} holds no config.json, expected a folder that transformers saved: check the path")
    source = str(folder) if is_folder else name
    with nullcontext() if is_folder else files_of(name, _WEIGHTS, hub), _loading(transformers, f"hf:{source}"):
        return _loaded(transformers, source, state)


def load_dinov2(rest: str, hub: Hub, base: Path = Path()) -> Towers:
    """The class token of DINOv2 (Oquab et al. 2023, arXiv:2304.07193), `small` (or `vits14`) to `giant`.

    Each also `with-registers-`, or `./folder`. Raises an `EncoderError`.
    """
    if is_path(rest):
        return load(rest, hub, base)
    rest = _DINOV2_OF_PAPER.get(rest, rest)
    if rest not in _DINOV2:
        near = get_close_matches(rest, _DINOV2, n=2, cutoff=0.4)
        raise ModelNotFound(
            f"there is no DINOv2 {rest!r}, expected one of {', '.join(_DINOV2)}, or ./folder: "
            f"did you mean dinov2:{near[0] if near else 'base'}?"
        )
    return load(_DINOV2[rest], hub, base)


def load_sentence_transformer(rest: str, hub: Hub, base: Path = Path()) -> Towers:
    """The towers inside a picture model of sentence-transformers: its name, with or without its owner, or `./folder`.

    Raises an `EncoderError`.
    """
    sentence_transformers, transformers = library("sentence_transformers"), library(LIBRARY)
    folder, is_folder = (base / Path(rest).expanduser()).resolve(), is_path(rest)
    if is_folder and not (folder / "modules.json").is_file():
        raise ModelNotFound(f"{folder} holds no modules.json, expected a folder of {_SENTENCE_OWNER}: check the path")
    source = str(folder) if is_folder else rest if "/" in rest else f"{_SENTENCE_OWNER}/{rest}"
    name = f"st:{folder if is_folder else rest}"
    with nullcontext() if is_folder else files_of(source, ["modules.json"], hub), _loading(transformers, name):
        model = sentence_transformers.SentenceTransformer(source, device="cpu", local_files_only=is_folder)
    first, *others = list(model)
    kinds = [type(module).__name__ for module in others if type(module).__name__ not in _HARMLESS]
    processor = getattr(getattr(first, "processor", None), "image_processor", None)
    if kinds or processor is None:
        raise EncoderError(
            f"{name} consists of {', '.join([type(first).__name__, *kinds])} and reads no pictures or changes vectors "
            "afterwards, expected a two-tower model of pictures and words: use st:clip-ViT-B-32 or its kin"
        )
    return _towers(name, first.model, processor, first.tokenizer)


def rebuilt(config: Mapping[str, Any]) -> Parts:
    """The towers of the model of `Towers.rebuild` with random weights."""
    kind = _kind(str(config["model_type"]), "the model of this run")
    model_class = getattr(library(LIBRARY), kind.model)
    model = model_class(model_class.config_class(**config))
    return Parts(kind.image(model), kind.text(model) if kind.text else nn.Identity(), *scale_and_bias(model))


@contextmanager
def _loading(transformers: Any, name: str) -> Iterator[None]:
    """While the library loads the model of that name: without progress bars, and its errors are ours."""
    log = transformers.utils.logging
    was_on = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        with loading(name):
            yield
    finally:
        if was_on:
            log.enable_progress_bar()


def _loaded(transformers: Any, source: str, state: Path | None) -> Towers:
    """From a repository or a folder."""
    name = f"hf:{source}"
    config = transformers.AutoConfig.from_pretrained(source)
    kind = _kind(config.model_type, name)
    model, report = getattr(transformers, kind.model).from_pretrained(
        source, output_loading_info=True, dtype="float32", **kind.options
    )
    fresh = sorted(report["missing_keys"])
    if state is not None:
        fit(model, read_state(state), name, may_lack=not fresh)
    elif fresh:
        raise ModelDamaged(
            f"{name} lacks {', '.join(fresh[:3])} of a {kind.model}, expected every weight: "
            "choose a repository whose model has both towers and their projections"
        )
    processor = transformers.AutoImageProcessor.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source) if kind.text else None
    return _towers(name + (f"@{state}" if state else ""), model, processor, tokenizer)


def _towers(name: str, model: Any, processor: Any, tokenizer: Any) -> Towers:
    """A loaded model and its tokenizer, None for one of pictures alone."""
    config = model.config
    kind = _kind(config.model_type, name)
    model.eval()
    sides = [getattr(config, side, None) for side in ("vision_config", "text_config")]
    activations = [getattr(part, "hidden_act", "") for part in (config, *sides) if part is not None]
    preprocessing = preprocessing_of(processor.to_dict(), name)
    scale, bias = scale_and_bias(model)
    if hasattr(model, "temperature"):  # ALIGN divides by it
        scale = float(1 / model.temperature.detach())
    is_trainable = kind.text is not None and not kind.takes_mask
    return Towers(
        name=name,
        architecture=f"transformers {kind.model} {' '.join(map(str, activations))}",
        model=model,
        preprocessing=preprocessing,
        image=kind.image(model),
        text=_text(model, kind, kind.text(model), tokenizer) if kind.text and tokenizer else None,
        picture_weights=kind.picture_weights,
        logit_scale=scale,
        logit_bias=bias,
        transform=lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0],
        config={"vision_cfg": {"image_size": preprocessing.height}},
        rebuild={"library": LIBRARY, "config": json.loads(json.dumps(config.to_dict()))} if is_trainable else {},
    )


def _kind(model_type: str, name: str) -> Kind:
    """How a model of that type is used; raises `ModelNotFound`."""
    if model_type not in KINDS:
        raise ModelNotFound(
            f"{name} is of type {model_type!r}, expected one of {', '.join(KINDS)}: "
            "use open_clip: or timm: for models of theirs, or export it to ONNX"
        )
    return KINDS[model_type]


def _text(model: Any, kind: Kind, module: nn.Module, tokenizer: Any) -> TextHead:
    length = int(min(model.config.text_config.max_position_embeddings, tokenizer.model_max_length))
    names = ("input_ids", "attention_mask") if kind.takes_mask else ("input_ids",)

    def tokens(texts: list[str]) -> tuple[Tensor, ...]:
        padding = "max_length" if kind.pads_fully else True
        read = tokenizer(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        return tuple(read[name] for name in names)

    def tokenizer_json() -> str:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise EncoderError(
                f"the tokenizer is a {type(tokenizer).__name__}, expected one with a tokenizer.json: "
                "save it from a fast tokenizer into the folder"
            )
        return str(backend.to_str())

    # SigLIP's first tokenizer strips punctuation in Python; the others say all in tokenizer.json
    clean = "canonicalize" if type(tokenizer).__name__ == "SiglipTokenizer" else "whitespace"
    return TextHead(
        module=module,
        tokens=tokens,
        context_length=length,
        masks_padding=not kind.pads_fully,
        takes_mask=kind.takes_mask,
        config={
            "context_length": length,
            "vocab_size": int(model.config.text_config.vocab_size),
            "hf_tokenizer_name": "tokenizer.json",
            "tokenizer_kwargs": {"clean": clean},
            **({"no_causal_mask": True} if kind.pads_fully else {"masks_padding": True}),
        },
        tokenizer_config={"pad_token": tokenizer.pad_token, "model_max_length": length},
        tokenizer=tokenizer_json,
    )


def _part(run: Callable[..., Tensor]) -> Callable[[Any], nn.Module]:
    return lambda model: TowerPart(model, run)


def _pooled(output: Any) -> Tensor:
    """Since version 5 the vectors come with all that led to them."""
    vectors: Tensor = getattr(output, "pooler_output", output)
    return vectors


def _blip_image(model: Any, pixels: Tensor) -> Tensor:
    """What BLIP's retrieval compares (`use_itm_head=False`): the projection of the first token."""
    tokens = model.vision_model(pixel_values=pixels).last_hidden_state
    vectors: Tensor = model.vision_proj(tokens[:, 0])
    return vectors


def _blip_text(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    tokens = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    vectors: Tensor = model.text_proj(tokens[:, 0])
    return vectors


_PROJECTED = (
    lambda model: Pooled(model.vision_model, getattr(model, "visual_projection", None)),
    lambda model: Pooled(model.text_model, getattr(model, "text_projection", None)),
)
_FEATURES = (
    _part(lambda model, pixels: _pooled(model.get_image_features(pixel_values=pixels))),
    _part(lambda model, ids, mask: _pooled(model.get_text_features(input_ids=ids, attention_mask=mask))),
)
_FIRST_TOKEN = _part(lambda model, pixels: model(pixel_values=pixels).last_hidden_state[:, 0])  # after the last norm
_AVERAGE = _part(lambda model, pixels: model(pixel_values=pixels).pooler_output.flatten(1))  # over the last map
KINDS: Mapping[str, Kind] = {
    "clip": Kind("CLIPModel", ("vision_model.", "visual_projection."), *_PROJECTED, takes_mask=False),
    "siglip": Kind("SiglipModel", ("vision_model.",), *_PROJECTED, takes_mask=False, pads_fully=True),
    "blip": Kind("BlipForImageTextRetrieval", ("vision_model.", "vision_proj."), _part(_blip_image), _part(_blip_text)),
    "align": Kind("AlignModel", ("vision_model.",), *_FEATURES),
    "chinese_clip": Kind("ChineseCLIPModel", ("vision_model.", "visual_projection."), *_FEATURES),
    "dinov2": Kind("Dinov2Model", (), _FIRST_TOKEN),
    "dinov2_with_registers": Kind("Dinov2WithRegistersModel", (), _FIRST_TOKEN),
    "vit": Kind("ViTModel", (), _FIRST_TOKEN, options={"add_pooling_layer": False}),
    "resnet": Kind("ResNetModel", (), _AVERAGE),
}
"""What `model_type` of config.json says -> how such a model is used."""
