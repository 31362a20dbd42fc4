"""A CLIP or SigLIP of open_clip or transformers as a model to train, and the start of its training."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.base import FAMILIES, loader
from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import Preprocessing
from sightline.encoders.torch import open_clip, transformers
from sightline.encoders.torch.towers import Documents, Parts, Towers
from sightline.errors import TrainingError
from sightline.train.checkpoint import WEIGHTS, read_weights
from sightline.train.config import IMAGE_FROZEN, Mode, Settings
from sightline.train.model import RateGroup, Start, TwoTowers, choose_device
from sightline.train.model_folder import Sides

KIND = "clip"
LARGEST_SCALE = 100.0  # of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.5)
SIGMOID_BIAS = -10.0  # of SigLIP at its start (Zhai et al. 2023, arXiv:2303.15343, section 3.2)
_LIBRARIES = {open_clip.LIBRARY: open_clip, transformers.LIBRARY: transformers}


def open_start(settings: Settings, base: Path, hub: Hub | None = None) -> "Start[Clip]":
    """The start that the settings name, on their device: a model of another library or the folder of an earlier run.

    Raises `TrainingError` or an `EncoderError`.
    """
    name, device = settings.start.model, choose_device(settings.device)
    torch.manual_seed(settings.seed)
    if (base / name / WEIGHTS).is_file():
        description, state = read_weights(base / name / WEIGHTS)
        start = described(description, settings, base / name)
        start.model.load_state_dict(state)
    else:
        start = start_from(load_towers(name, hub or Hub.from_environment(), base), settings)
    start.model.to(device)
    return start


def is_clip(name: str, base: Path) -> bool:
    """Whether a start is one of these, by its name or by what its folder holds."""
    return name.partition(":")[0] in FAMILIES or (bool(name) and (base / name / WEIGHTS).is_file())


def load_towers(name: str, hub: Hub, base: Path = Path()) -> Towers:
    """The model of a name such as `hf:openai/clip-vit-base-patch32`; `open_clip:ViT-B-32` alone has random weights.

    Raises an `EncoderError`.
    """
    family, _, rest = name.partition(":")
    if family == open_clip.LIBRARY:
        return open_clip.load_or_make(rest, hub, base)
    towers: Towers = loader(family)(rest, hub, base)
    return towers


def start_from(towers: Towers, settings: Settings) -> "Start[Clip]":
    """The start that trains these towers, which belong to it from then on. Raises `TrainingError`."""
    if not towers.rebuild or towers.text is None:
        raise TrainingError(
            f"{towers.name} is a {type(towers.model).__name__}: expected two towers with one vector each, a CLIP or "
            "SigLIP of open_clip or transformers; start from one of those"
        )
    documents = towers.documents()
    parts = Parts(towers.image, towers.text.module, towers.logit_scale, towers.logit_bias)
    description = {"kind": KIND, "rebuild": dict(towers.rebuild), "documents": documents.plain()}
    return Start(Clip(parts, documents), documents, settings, description)


def described(description: Mapping[str, Any], settings: Settings, folder: Path | None = None) -> "Start[Clip]":
    """The start that `description` tells of, with random weights."""
    rebuild, documents = description["rebuild"], Documents(**description["documents"])
    parts = _LIBRARIES[rebuild["library"]].rebuilt(rebuild["config"])
    return Start(Clip(parts, documents), documents, settings, description, folder)


def sides_of(towers: Towers) -> Sides:
    """What a folder is written from, of any model of another library."""
    documents, text = towers.documents(), towers.text
    source = {**documents.config.get("sightline", {}), "source": towers.name}
    documents = replace(documents, config={**documents.config, "sightline": source})
    given = {"logit_scale": towers.logit_scale, "logit_bias": towers.logit_bias}
    scores = {name: value for name, value in given.items() if value is not None}
    image = PixelSide(cut_attention(towers.image), towers.preprocessing)
    if text is None:
        return Sides(image, None, documents, scores)
    return Sides(
        image=image,
        text=TokenSide(cut_attention(text.module)),
        documents=documents,
        scores=scores,
        context_length=text.context_length,
        has_free_length=text.masks_padding,
        takes_mask=text.takes_mask,
    )


class PixelSide(nn.Module):
    """Pixels -> unit vectors."""

    scale: Tensor
    shift: Tensor

    def __init__(self, tower: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.tower = tower
        scale = [1 / (255 * std) for std in preprocessing.std]
        shift = [-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, height, width) of 0 to 255 -> (n, dim), rows of norm 1."""
        vectors: Tensor = self.tower(pixels.float() * self.scale + self.shift)
        return functional.normalize(vectors.float(), dim=-1)


class TokenSide(nn.Module):
    """Token ids -> unit vectors, by way of the query adapter: a residual linear map that starts as zero.

    `padded_to` is the length, and the token, to which a tower that sees its padding wants texts filled up.
    """

    def __init__(self, tower: nn.Module, adapter: nn.Linear | None = None, padded_to: tuple[int, int] | None = None):
        super().__init__()
        self.tower, self.adapter, self.padded_to = tower, adapter, padded_to

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n, length), padded, and for some towers which of them are no padding -> (n, dim), rows of norm 1."""
        if self.padded_to is not None:
            length, pad_id = self.padded_to
            ids = functional.pad(ids, (0, length - ids.shape[1]), value=pad_id)
        vectors: Tensor = self.tower(ids) if mask is None else self.tower(ids, mask)
        if self.adapter is not None:
            vectors = vectors + self.adapter(vectors)
        return functional.normalize(vectors.float(), dim=-1)


class Clip(TwoTowers):
    """Both towers of a CLIP or SigLIP."""

    image: PixelSide
    text: TokenSide
    adapter = "text.adapter.weight"
    casts_pictures = True

    def __init__(self, parts: Parts, documents: Documents) -> None:
        super().__init__()
        tokens, self.dim = documents.tokens, int(documents.config["embed_dim"])
        self.context_length, self.pad_id = tokens.context_length, tokens.pad_id
        padded_to = None
        if not documents.config["text_cfg"].get("masks_padding"):
            padded_to = self.context_length, self.pad_id
        adapter = nn.Linear(self.dim, self.dim, bias=False)
        nn.init.zeros_(adapter.weight)
        self.image = PixelSide(cut_attention(parts.image), documents.preprocessing)
        self.text = TokenSide(cut_attention(parts.text), adapter, padded_to)
        scale = LARGEST_SCALE if parts.scale is None else parts.scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(SIGMOID_BIAS if parts.bias is None else parts.bias))
        self.has_bias = parts.bias is not None
        self.largest_scale = max(LARGEST_SCALE, 1.1 * scale)

    def train(self, mode: bool = True) -> "Clip":
        """A frozen tower stays as it is in use: no dropout, and batch norms that keep their statistics."""
        super().train(mode)
        for side in (self.image, self.text):
            if not any(parameter.requires_grad for parameter in side.parameters()):
                side.eval()
        return self

    def rate_group(self, name: str) -> RateGroup:
        """Which rate a parameter moves at."""
        if name == self.adapter:
            return "adapter"
        if name.startswith("text."):
            return "words" if "token_embedding" in name else "text"
        return "image" if name.startswith("image.") else "head"

    def stem(self, mode: Mode) -> Callable[[Tensor], Tensor] | None:
        """The whole tower where it is frozen."""
        return self.image if mode in IMAGE_FROZEN else None

    def finish(self, pictures: Tensor) -> Tensor:
        """(n, 3, height, width) of 0 to 255, or the vectors (n, dim) that a frozen tower gave before -> (n, dim)."""
        vectors: Tensor = pictures if pictures.ndim == 2 else self.image(pictures)
        return vectors

    def sides(self, documents: Documents) -> Sides:
        """What a model folder is written from. An adapter of zeros is left out."""
        if self.text.adapter is not None and not self.text.adapter.weight.any():
            self.text.adapter = None
        bias = {"logit_bias": float(self.bias.detach())} if self.has_bias else {}
        return Sides(
            image=self.image,
            text=self.text,
            documents=documents,
            scores={"logit_scale": math.exp(float(self.log_scale.detach())), **bias},
            context_length=self.context_length,
            has_free_length=self.text.padded_to is None,
        )


class CutAttention(nn.Module):
    """nn.MultiheadAttention for any length: it cuts the causal mask to the tokens and can be traced so."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.inner = attention

    def forward(self, x: Tensor, *_: Any, attn_mask: Tensor | None = None, **__: Any) -> tuple[Tensor, None]:
        """(rows, length, dim) -> the same."""
        rows, length, dim = x.shape
        heads = self.inner.num_heads
        weight: Tensor = self.inner.in_proj_weight
        joined = functional.linear(x, weight, self.inner.in_proj_bias)
        query, key, value = joined.reshape(rows, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if attn_mask is None else attn_mask[..., :length, :length]
        if mask is not None and mask.ndim == 3:  # (rows * heads, length, length)
            mask = mask.reshape(rows, heads, length, length)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (rows, heads, length, ...)
        return self.inner.out_proj(mixed.transpose(1, 2).reshape(rows, length, dim)), None


def cut_attention(tower: nn.Module) -> nn.Module:
    """Replaces the attention of every open_clip block in a tower, so that texts of any length can be traced."""
    for module in list(tower.modules()):
        attention = getattr(module, "attn", None)
        if isinstance(attention, nn.MultiheadAttention) and attention.batch_first:
            module.attn = CutAttention(attention)
    return tower
