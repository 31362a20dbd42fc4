"""Read a model folder in one of two layouts: what its configs say, which graphs it has, and a fingerprint of it.

open_clip's ONNX exports; a config without `text_cfg` is an image-only model, without textual/:

    config.json                     visual/preprocess_cfg.json      textual/tokenizer.json
                                    visual/model.onnx               textual/tokenizer_config.json
                                                                    textual/model.onnx

transformers.js, as `onnx-community` and `Xenova` publish CLIP and SigLIP, often in several precisions side by side:

    config.json                     preprocessor_config.json        tokenizer.json, tokenizer_config.json
                                    onnx/vision_model.onnx          onnx/text_model.onnx
                                    onnx/vision_model_fp16.onnx     onnx/text_model_int8.onnx

Weights outside the graphs lie beside them.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.encoders.preprocess import VERSION, Preprocessing, preprocessing, preprocessing_of
from sightline.encoders.tokens import TokenizerConfig, tokenizer_config
from sightline.errors import ModelDamaged, ModelNotFound, UsageError

PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "fp32": ("",),
    "fp16": ("_fp16",),
    "int8": ("_int8", "_quantized", "_uint8"),
    "q4f16": ("_q4f16",),
    "q4": ("_q4", "_bnb4"),
}
"""Precisions, finest first -> how transformers.js ends the names of graphs of them."""

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
    logit_scale: float | None = None
    logit_bias: float | None = None
    graphs: tuple[str, str | None] | None = None
    """Their paths in the layout of transformers.js."""


def read_layout(folder: Path, precision: str = "") -> Layout:
    """Read the configs and see that every file is there; raises `ModelNotFound` or `ModelDamaged`.

    `precision` chooses between the graphs of transformers.js: see `graphs_of`.
    """
    if not (folder / "config.json").is_file() and not (folder / "visual").is_dir():
        found = "no folder" if not folder.is_dir() else "no model in the folder"
        raise ModelNotFound(
            f"there is {found} {folder}, expected config.json, visual/ and textual/ as in the open_clip ONNX layout, "
            "or onnx/ as in that of transformers.js: check the path, or use a model by name (sightline models)"
        )
    config = _json(folder / "config.json")
    graphs = None
    if (folder / "onnx").is_dir() and not (folder / "visual").is_dir():
        graphs = graphs_of([f"onnx/{path.name}" for path in (folder / "onnx").iterdir()], precision, str(folder))
    try:
        if graphs:
            return _transformers_js(folder, config, graphs)
        has_text = "text_cfg" in config
        pictures = _json(folder / "visual" / "preprocess_cfg.json")
        for name in ("visual/model.onnx", *(("textual/model.onnx", "textual/tokenizer.json") if has_text else ())):
            if not (folder / name).is_file():
                raise ModelDamaged(_missing(folder / name))
        tokenizer = None
        if has_text:
            settings = _json(folder / "textual" / "tokenizer_config.json")
            tokenizer = tokenizer_config(config["text_cfg"], settings, folder / "textual" / "tokenizer.json")
        scores = [config.get(name) for name in ("logit_scale", "logit_bias")]
        scale, bias = (None if value is None else float(value) for value in scores)
        return Layout(
            visual=folder / "visual" / "model.onnx",
            textual=folder / "textual" / "model.onnx",
            dim=int(config["embed_dim"]),
            preprocessing=preprocessing(pictures),
            tokenizer=tokenizer,
            logit_scale=scale,
            logit_bias=bias,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelDamaged(
            f"the configs of {folder} cannot be used ({type(error).__name__}: {error}), expected open_clip's: "
            "config.json with embed_dim, preprocess_cfg.json with size; fetch the model again, or mend the file"
        ) from error


def graphs_of(names: Collection[str], precision: str, of: str) -> tuple[str, str | None]:
    """The graphs of pictures and of texts among the files of the transformers.js layout; None for a model of pictures.

    `precision` is one of `PRECISIONS`, two joined by `+` for pictures and texts apart (`fp16+int8`), or empty for the
    finest that is there. Raises `UsageError` for another one and `ModelNotFound` where `of` does not have it.
    """
    for one in precision.split("+"):
        if one and one not in PRECISIONS:
            raise UsageError(
                f"the precision is {precision!r}, expected one of {', '.join(PRECISIONS)}, or two joined by + for "
                "pictures and texts: correct what follows the last colon"
            )
    graphs = list[str | None]()
    for tower, wanted in (("vision", precision.split("+")[0]), ("text", precision.split("+")[-1])):
        there = {
            short: graph
            for short, suffixes in PRECISIONS.items()
            for suffix in reversed(suffixes)
            if (graph := f"onnx/{tower}_model{suffix}.onnx") in names
        }
        if there and wanted and wanted not in there:
            raise ModelNotFound(
                f"{of} has no {tower} tower of precision {wanted}, expected {' or '.join(there)}: choose one of those"
            )
        graphs.append(there.get(wanted) or next(iter(there.values()), None))
    if graphs[0] is None:
        raise ModelNotFound(
            f"{of} holds no onnx/vision_model.onnx, expected a CLIP or SigLIP exported for transformers.js with its "
            "towers apart: choose another"
        )
    return graphs[0], graphs[1]


def _transformers_js(folder: Path, config: Mapping[str, Any], graphs: tuple[str, str | None]) -> Layout:
    """Configs leave out the defaults of transformers: a projection_dim of 512 (CLIP), a hidden_size of 768 (SigLIP)."""
    kind = config.get("model_type")
    if kind not in ("clip", "siglip"):
        raise ModelDamaged(f"{folder} is of type {kind!r}, expected clip or siglip: choose another model")
    visual, textual = graphs
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    tokenizer = None
    if textual:
        if not (folder / "tokenizer.json").is_file():
            raise ModelDamaged(_missing(folder / "tokenizer.json"))
        settings = _json(folder / "tokenizer_config.json")
        length = int(text.get("max_position_embeddings") or (77 if kind == "clip" else 64))
        is_first_siglip = settings.get("tokenizer_class") == "SiglipTokenizer"  # it takes punctuation away in Python
        clean = "whitespace" if kind == "clip" else "canonicalize" if is_first_siglip else "lower"
        options = {"context_length": length, "tokenizer_kwargs": {"clean": clean}, "no_causal_mask": kind == "siglip"}
        tokenizer = tokenizer_config(options, settings, folder / "tokenizer.json")
    dim = config.get("projection_dim") or 512 if kind == "clip" else vision.get("hidden_size") or 768
    return Layout(
        visual=folder / visual,
        textual=folder / (textual or ""),
        dim=int(dim),
        preprocessing=preprocessing_of(_json(folder / "preprocessor_config.json"), str(folder)),
        tokenizer=tokenizer,
        graphs=graphs,
    )


def fingerprint(
    folder: Path, *, of_pictures_in: int | None = None, graphs: tuple[str, str | None] | None = None
) -> str:
    """A short hash of the configs and of samples of the weights: 3 ms for 400 MB that the system has cached.

    Training or quantising moves nearly every weight, and a sample lies in every 1/512 of each file. With
    `of_pictures_in` (so many dimensions) of what pictures go through alone, which outlives another text tower. `graphs`
    are those of a `Layout`.
    """
    is_whole = of_pictures_in is None
    if graphs:
        patterns = ["preprocessor_config.json", f"{graphs[0]}*"]
        patterns += ["tokenizer*.json", f"{graphs[1]}*"] if is_whole and graphs[1] else []
    else:
        patterns = ["visual/[!.]*", "textual/[!.]*"] if is_whole else ["visual/[!.]*"]
    inside = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
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
