"""The towers of a CLIP from another library -> the trainable model that the loop knows: unit vectors of one space."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.train.own.model import Part

LARGEST_SCALE = 100.0  # of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.5)
SIGMOID_BIAS = -10.0  # of SigLIP at its start (Zhai et al. 2023, arXiv:2303.15343, section 3.2)


@dataclass(frozen=True, slots=True)
class ClipShape:
    """What the loop and the export must know of a CLIP. `mean` and `std` are of values 0 to 1, one per channel."""

    dim: int
    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    context_length: int
    pad_id: int
    is_causal: bool
    """Whether padding after a text leaves its vector alone, so that texts may be cut to their real length."""

    @property
    def image_size(self) -> int:
        """The longer side of a picture."""
        return max(self.height, self.width)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a library's model is made of: both towers, from normalised pixels and from ids to (n, dim)."""

    image: nn.Module
    text: nn.Module
    log_scale: float
    bias: float | None


class ImageSide(nn.Module):
    """Pixels -> unit vectors."""

    def __init__(self, tower: nn.Module, shape: ClipShape) -> None:
        super().__init__()
        self.tower = tower
        scale = [1 / (255 * std) for std in shape.std]
        shift = [-mean / std for mean, std in zip(shape.mean, shape.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)

    def finish(self, pictures: Tensor) -> Tensor:
        """(n, 3, height, width) of 0 to 255, or the vectors (n, dim) that a frozen tower gave before -> (n, dim)."""
        return pictures if pictures.ndim == 2 else self(pictures)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, height, width) of 0 to 255 -> (n, dim), rows of norm 1."""
        return functional.normalize(self.tower(pixels.float() * self.scale + self.shift).float(), dim=-1)


class TextSide(nn.Module):
    """Token ids -> unit vectors, by way of the query adapter: a residual linear map that starts as zero."""

    def __init__(self, tower: nn.Module, shape: ClipShape) -> None:
        super().__init__()
        self.tower = tower
        self.shape = shape
        self.adapter = nn.Linear(shape.dim, shape.dim, bias=False)
        nn.init.zeros_(self.adapter.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length), padded -> (n, dim), rows of norm 1."""
        if not self.shape.is_causal:
            ids = functional.pad(ids, (0, self.shape.context_length - ids.shape[1]), value=self.shape.pad_id)
        vectors = self.tower(ids)
        return functional.normalize((vectors + self.adapter(vectors)).float(), dim=-1)


class Clip(nn.Module):
    """Both towers, the sharpness of their scores (its logarithm), and the bias that the sigmoid loss adds."""

    adapter = "text.adapter.weight"
    casts_pictures = True

    def __init__(self, parts: Parts, shape: ClipShape) -> None:
        super().__init__()
        self.shape = shape
        self.image = ImageSide(parts.image, shape)
        self.text = TextSide(parts.text, shape)
        self.log_scale = nn.Parameter(torch.tensor(parts.log_scale))
        self.bias = nn.Parameter(torch.tensor(SIGMOID_BIAS if parts.bias is None else parts.bias))
        self.has_bias = parts.bias is not None
        self.largest_scale = max(LARGEST_SCALE, 1.1 * math.exp(parts.log_scale))

    def train(self, mode: bool = True) -> Any:
        """A frozen tower stays as it is in use: no dropout, and batch norms that keep their statistics."""
        super().train(mode)
        for side in (self.image, self.text):
            if not any(parameter.requires_grad for parameter in side.parameters()):
                side.eval()
        return self

    def part_of(self, name: str) -> Part:
        """Which rate a parameter moves at."""
        if name == self.adapter:
            return "adapter"
        if name.startswith("text."):
            return "words" if "token_embedding" in name else "text"
        return "image" if name.startswith("image.") else "head"


class CutAttention(nn.Module):
    """nn.MultiheadAttention for any length: it cuts the causal mask to the tokens and can be traced so."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.inner = attention

    def forward(self, x: Tensor, *_: Any, attn_mask: Tensor | None = None, **__: Any) -> tuple[Tensor, None]:
        """(rows, length, dim) -> the same."""
        rows, length, dim = x.shape
        heads = self.inner.num_heads
        joined = functional.linear(x, self.inner.in_proj_weight, self.inner.in_proj_bias)
        query, key, value = joined.reshape(rows, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if attn_mask is None else attn_mask[..., :length, :length]
        if mask is not None and mask.ndim == 3:  # (rows * heads, length, length)
            mask = mask.reshape(rows, heads, length, length)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (rows, heads, length, ...)
        return self.inner.out_proj(mixed.transpose(1, 2).reshape(rows, length, dim)), None


def cut_attention(tower: nn.Module) -> nn.Module:
    """Replaces the attention of every open_clip block in a tower."""
    for module in list(tower.modules()):
        attention = getattr(module, "attn", None)
        if isinstance(attention, nn.MultiheadAttention) and attention.batch_first:
            module.attn = CutAttention(attention)
    return tower
