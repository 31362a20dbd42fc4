"""Read a model folder in the open_clip ONNX layout: what its configs say, and a fingerprint of it.

    config.json                     visual/preprocess_cfg.json      textual/tokenizer.json
                                    visual/model.onnx               textual/tokenizer_config.json
                                                                    textual/model.onnx

Weights outside the graphs lie beside them. A config without `text_cfg` is an image-only model, without textual/.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.encoders.preprocess import VERSION, Preprocessing, preprocessing
from sightline.encoders.tokens import TokenizerConfig, tokenizer_config
from sightline.errors import ModelDamaged, ModelNotFound

_WHOLE_BYTES = 1 << 16  # files up to here are hashed whole
_SAMPLES = 512  # a longer file is hashed at so many places
_SAMPLE_BYTES = 512


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model folder holds; None is the tokenizer of an image-only model, and a logit value that nobody wrote.

    `visual` and `textual` are the graphs of the towers.
    """

    visual: Path
    textual: Path
    dim: int
    preprocessing: Preprocessing
    tokenizer: TokenizerConfig | None
    logit_scale: float | None
    logit_bias: float | None


def read_layout(folder: Path) -> Layout:
    """Read the configs and see that every file is there; raises `ModelNotFound` or `ModelDamaged`."""
    if not (folder / "config.json").is_file() and not (folder / "visual").is_dir():
        found = "no folder" if not folder.is_dir() else "no model in the folder"
        raise ModelNotFound(
            f"there is {found} {folder}, expected config.json, visual/ and textual/ as in the open_clip ONNX layout: "
            "check the path, or use a model by name (sightline models lists them)"
        )
    config = _json(folder / "config.json")
    pictures = _json(folder / "visual" / "preprocess_cfg.json")
    has_text = "text_cfg" in config
    for name in ("visual/model.onnx", *(("textual/model.onnx", "textual/tokenizer.json") if has_text else ())):
        if not (folder / name).is_file():
            raise ModelDamaged(_missing(folder / name))
    settings = _json(folder / "textual" / "tokenizer_config.json") if has_text else {}
    try:
        scores = [config.get(name) for name in ("logit_scale", "logit_bias")]
        scale, bias = (None if value is None else float(value) for value in scores)
        return Layout(
            visual=folder / "visual" / "model.onnx",
            textual=folder / "textual" / "model.onnx",
            dim=int(config["embed_dim"]),
            preprocessing=preprocessing(pictures),
            tokenizer=tokenizer_config(config["text_cfg"], settings, folder / "textual" / "tokenizer.json")
            if has_text
            else None,
            logit_scale=scale,
            logit_bias=bias,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelDamaged(
            f"the configs of {folder} cannot be used ({type(error).__name__}: {error}), expected open_clip's: "
            "config.json with embed_dim, preprocess_cfg.json with size; fetch the model again, or mend the file"
        ) from error


def fingerprint(folder: Path, *, of_pictures_in: int | None = None) -> str:
    """A short hash of the configs and of samples of the weights: 3 ms for 400 MB that the system has cached.

    Training or quantising moves nearly every weight, and a sample lies in every 1/512 of each file. With
    `of_pictures_in` (so many dimensions) of what pictures go through alone, which outlives another text tower.
    """
    is_whole = of_pictures_in is None
    towers = ("visual", "textual") if is_whole else ("visual",)
    inside = [path for tower in towers for path in sorted((folder / tower).glob("[!.]*"))]
    files = [path for path in inside if path.is_file() and path.suffix != ".part"]
    digest = hashlib.sha256(f"preprocessing {VERSION}".encode())
    if is_whole:
        files = [folder / "config.json", *files]
    else:
        digest.update(f" of pictures in {of_pictures_in} dimensions".encode())
    for path in files:
        size_bytes = path.stat().st_size
        digest.update(f"\n{path.relative_to(folder).as_posix()} {size_bytes}\n".encode())
        with path.open("rb", buffering=0) as file:
            if size_bytes <= _WHOLE_BYTES:
                digest.update(file.read(size_bytes))
                continue
            for sample in range(_SAMPLES):
                file.seek(sample * (size_bytes - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelDamaged(_missing(path)) from error
    except (OSError, ValueError) as error:
        raise ModelDamaged(f"{path} cannot be read ({error}), expected JSON: fetch the model again") from error
    if not isinstance(values, dict):
        raise ModelDamaged(f"{path} holds a {type(values).__name__}, expected a JSON object: fetch the model again")
    return values


def _missing(path: Path) -> str:
    return f"{path} is missing, expected a model in the open_clip ONNX layout: fetch the model again, or add the file"
