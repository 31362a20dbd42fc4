"""`open_clip:ViT-B-32/laion2b_s34b_b79k` and its like -> the two towers of an open_clip model."""

from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import preprocessing
from sightline.encoders.torch.encoder import Towers, Words
from sightline.encoders.torch.libraries import files_of, library, loading
from sightline.encoders.torch.weights import fit, read_state, split_state
from sightline.errors import ModelNotFound

_CONFIG = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load(rest: str, hub: Hub) -> Towers:
    """`ARCHITECTURE/TAG`, `ARCHITECTURE/file.pt`, `./folder` as open_clip saves one; each may end with `@state.pt`.

    The weights after `@` go over those of the model; without a tag they have to be whole. Raises an `EncoderError`.
    """
    open_clip = library("open_clip")
    base, state = split_state(rest)
    if base.startswith((".", "/", "~")):
        name, model = _of_folder(open_clip, Path(base).expanduser().resolve())
        has_weights = True
    else:
        architecture, _, weights = base.partition("/")
        _check_architecture(open_clip, architecture)
        if weights and not open_clip.get_pretrained_cfg(architecture, weights):
            state, weights = _as_file(open_clip, architecture, weights, state), ""
        has_weights = bool(weights)
        if not has_weights and state is None:
            raise ModelNotFound(_no_weights(open_clip, architecture))
        name, model = architecture, _published(open_clip, architecture, weights, hub)
    if state is not None:
        fit(model, read_state(state), f"open_clip:{base}", may_lack=has_weights)
    tokenizer = open_clip.get_tokenizer(name)
    shown = base if name == base or not name.startswith("local-dir:") else name.removeprefix("local-dir:")
    return _towers(open_clip, f"open_clip:{shown}" + (f"@{state}" if state else ""), model, tokenizer)


def _towers(open_clip: Any, name: str, model: Any, tokenizer: Any) -> Towers:
    bias = getattr(model, "logit_bias", None)
    activation = sorted({type(module).__name__ for module in model.modules() if "GELU" in type(module).__name__})
    return Towers(
        name=name,
        architecture=f"open_clip {type(model.visual).__name__} {' '.join(activation)}",
        model=model,
        how=preprocessing(open_clip.get_model_preprocess_cfg(model)),
        vectors=model.encode_image,
        words=Words(lambda texts: {"text": tokenizer(texts)}, model.encode_text),
        picture_weights=("visual.",),
        logit_scale=float(model.logit_scale.detach().exp().reshape(-1)[0]),
        logit_bias=None if bias is None else float(bias.detach().reshape(-1)[0]),
    )


def _of_folder(open_clip: Any, folder: Path) -> tuple[str, Any]:
    if not (folder / _CONFIG).is_file():
        raise ModelNotFound(f"{folder} holds no {_CONFIG}, expected a folder that open_clip saved: check the path")
    name = f"local-dir:{folder}"
    with loading(f"open_clip:{folder}"):
        return name, open_clip.create_model(name, require_pretrained=True)


def _published(open_clip: Any, architecture: str, weights: str, hub: Hub) -> Any:
    published = open_clip.get_pretrained_cfg(architecture, weights) if weights else {}
    repository, _, file = (published.get("hf_hub") or "").rpartition("/")
    # open_clip itself fetches the others from where their authors put them
    there = files_of(repository, [file] if file else _FILES, hub) if repository else nullcontext()
    with there, loading(f"open_clip:{architecture}/{weights}"):
        return open_clip.create_model(architecture, pretrained=weights or None)


def _check_architecture(open_clip: Any, architecture: str) -> None:
    if open_clip.get_model_config(architecture) is None:
        near = get_close_matches(architecture, open_clip.list_models(), n=3, cutoff=0.4)
        raise ModelNotFound(
            f"open_clip has no architecture {architecture!r}, expected one of open_clip.list_models(): did you mean "
            f"{' or '.join(near) or 'ViT-B-32'}? A folder is written open_clip:./folder"
        )


def _as_file(open_clip: Any, architecture: str, weights: str, state: Path | None) -> Path:
    """What follows the slash is a tag or a file; a file is written after `@` as well, not both."""
    path = Path(weights).expanduser().resolve()
    if state is None and path.is_file():
        return path
    near = get_close_matches(weights, open_clip.list_pretrained_tags_by_model(architecture), n=3, cutoff=0.4)
    advice = f"did you mean {' or '.join(near)}?" if near else "correct what follows the slash"
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
    raise ModelNotFound(
        f"{weights!r} is no weights of {architecture} and no file, expected one of its tags ({tags}) or the path of a "
        f"checkpoint: {advice}"
    )


def _no_weights(open_clip: Any, architecture: str) -> str:
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
    return (
        f"open_clip:{architecture} names no weights, expected one of its tags ({tags}) or a file: write "
        f"open_clip:{architecture}/TAG or open_clip:{architecture}@state.pt"
    )
