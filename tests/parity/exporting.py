"""open_clip models written as folders in the ONNX layout, in the shapes that published exports have."""

import copy
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.torch.libraries import library
from sightline.encoders.torch.towers import END, byte_pair_tokenizer
from sightline.train.clip import CutAttention

open_clip = library("open_clip")
__all__ = ["Shape", "export", "installed_merges", "make_model", "open_clip", "simple_tokenizer", "write_tokenizer"]

_OPSET = 17


@dataclass(frozen=True, slots=True)
class Shape:
    """How a graph is exported: what published exports differ in."""

    is_dynamic: bool = True
    """Any batch and, for texts, any length; else a batch of one at full length."""
    takes_bytes: bool = False
    """uint8 pixels with the channels last, mean and deviation inside; else normalised float32."""
    integers: torch.dtype = torch.int32
    takes_mask: bool = False
    """A second text input that marks the real tokens."""


class ImageTower(nn.Module):
    """uint8 or float pixels -> unit vectors."""

    def __init__(self, model: Any, mean: Sequence[float], std: Sequence[float], *, takes_bytes: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.takes_bytes = takes_bytes
        self.scale = torch.tensor([1 / (255 * value) for value in std]).reshape(1, 3, 1, 1)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).reshape(1, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        if self.takes_bytes:
            image = image.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift
        vectors: Tensor = self.model.encode_image(image, normalize=True)
        return vectors


class TextTower(nn.Module):
    """Token ids -> unit vectors; cuts the positions and the causal mask to the real length."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, text: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        text = text if attention_mask is None else text * attention_mask
        tower = getattr(self.model, "text", self.model)  # a CustomTextCLIP keeps its text tower apart
        length = text.shape[1]
        x = tower.token_embedding(text) + tower.positional_embedding[:length]
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
        x = tower.ln_final(tower.transformer(x, attn_mask=mask))
        if getattr(tower, "pool_type", "argmax") == "last":
            x = x[:, -1]
        else:
            x = x[torch.arange(x.shape[0]), text.argmax(dim=-1)]
        projection = tower.text_projection
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return functional.normalize(x, dim=-1)


def make_model(config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """An open_clip model of that config with random weights, spread so that different inputs get different vectors."""
    torch.manual_seed(seed)
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    names = {name: value for name, value in config.items() if name not in ("custom_text", "model_cfg")}
    model: nn.Module = kind(**names).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positional_embedding" in name or "token_embedding" in name:
                parameter.normal_(std=1.0)
            elif ("visual" in name and parameter.ndim == 4) or "attn.out_proj.weight" in name:
                parameter.mul_(4)
    return model


def export(
    model: nn.Module, config: Mapping[str, Any], preprocess: Mapping[str, Any], folder: Path, shape: Shape
) -> None:
    """Write both towers and the configs; the tokenizer comes from `write_tokenizer`."""
    model = copy.deepcopy(model)  # its attention is replaced below
    (folder / "visual").mkdir(parents=True, exist_ok=True)
    (folder / "textual").mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    (folder / "visual" / "preprocess_cfg.json").write_text(json.dumps(preprocess, indent=1), "utf-8")
    for module in list(model.modules()):
        if isinstance(attention := getattr(module, "attn", None), nn.MultiheadAttention):
            module.attn = CutAttention(attention)
    side = config["vision_cfg"]["image_size"]
    length = config["text_cfg"]["context_length"]
    pixels = (
        torch.zeros((2, side, side, 3), dtype=torch.uint8) if shape.takes_bytes else torch.zeros((2, 3, side, side))
    )
    images = ImageTower(model, preprocess["mean"], preprocess["std"], takes_bytes=shape.takes_bytes)
    ids = torch.ones((2, length), dtype=shape.integers)
    texts = {"text": ids, "attention_mask": torch.ones_like(ids)} if shape.takes_mask else {"text": ids}
    _write(images.eval(), {"image": pixels}, "image_embedding", folder / "visual" / "model.onnx", shape)
    _write(TextTower(model).eval(), texts, "text_embedding", folder / "textual" / "model.onnx", shape)


def write_tokenizer(merges: Sequence[str], folder: Path, *, context_length: int, pad_token: str = END) -> None:
    """CLIP's kind of tokenizer for a list of merges as tokenizer.json: what SimpleTokenizer does with the list."""
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    tokenizer = byte_pair_tokenizer(letters, [(first, second) for first, second in map(str.split, merges)])
    textual = folder / "textual"
    textual.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(textual / "tokenizer.json"), pretty=False)
    settings = {"pad_token": pad_token, "model_max_length": context_length}
    (textual / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def simple_tokenizer(merges: Sequence[str], path: Path, context_length: int, clean: str) -> Any:
    """open_clip's own tokenizer on a list of merges."""
    path.write_bytes(gzip.compress(("header\n" + "\n".join(merges)).encode(), mtime=0))
    return open_clip.SimpleTokenizer(bpe_path=str(path), context_length=context_length, clean=clean)


def installed_merges() -> list[str]:
    """The merges of CLIP's vocabulary, from the installed open_clip."""
    path = Path(open_clip.tokenizer.default_bpe())
    return gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]


def _write(module: nn.Module, inputs: Mapping[str, Tensor], output: str, path: Path, shape: Shape) -> None:
    axes = {0: "batch"}
    dynamic = {name: axes | ({1: "length"} if output == "text_embedding" else {}) for name in inputs}
    torch.onnx.export(
        module,
        tuple(value if shape.is_dynamic else value[:1] for value in inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=[output],
        opset_version=_OPSET,
        dynamic_axes=dynamic | {output: axes} if shape.is_dynamic else None,
        dynamo=False,
    )
