"""The trainable two-tower model: pictures and token ids -> unit vectors of one space.

The image tower is MobileNetV2 1.0 (Sandler et al. 2018, arXiv:1801.04381) with batch norms folded into the
convolutions; the text tower is a BERT encoder (Devlin et al. 2019, arXiv:1810.04805) with mean pooling.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from sightline.train.clips.towers import Clip

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
# (channels in, channels out, stride) of the 17 bottlenecks; the first expands by 1, the others by 6.
BOTTLENECKS = (
    [(32, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2)]
    + [(64, 64, 1)] * 3
    + [(64, 96, 1), (96, 96, 1), (96, 96, 1), (96, 160, 2), (160, 160, 1), (160, 160, 1), (160, 320, 1)]
)
STEM_BLOCKS = 13
"""The bottlenecks before this one make the map that is cached while the stem is frozen: (96, side / 16, side / 16)."""
FEATURES = 1280
Part = Literal["image", "text", "words", "head", "adapter", "still"]
Towers: TypeAlias = "TwoTowers | Clip"
"""What the loop trains. Both kinds have

- `image.finish` and `text`, which give unit vectors; `shape`, `log_scale` and `bias`;
- `part_of(name)`, which rate a parameter moves at: `still` never, `adapter` only in the mode of that name;
- `adapter`, the name of the parameter that the query adapter moves;
- `casts_pictures`, whether the image tower runs in half precision on a CPU too;
- `has_bias`, whether the bias was trained, or has to be guessed for the sigmoid loss; `largest_scale` of the scores.
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a two-tower model; they travel in its config.json."""

    dim: int = 384
    image_size: int = 224
    vocabulary_size: int = 30522
    context_length: int = 64
    hidden: int = 384
    layers: int = 6
    heads: int = 12
    intermediate: int = 1536
    pooling_heads: int = 8
    pad_id: int = 0


class Bottleneck(nn.Module):
    """An inverted residual: expand by 1x1, filter each channel by 3x3, project by 1x1 without activation."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = nn.Conv2d(channels_in, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide)
        self.project = nn.Conv2d(wide, channels_out, 1)
        self.is_residual = stride == 1 and channels_in == channels_out

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels_in, h, w) -> (n, channels_out, h / stride, w / stride)."""
        inner = functional.relu6(self.expand(maps))
        inner = functional.relu6(self.depthwise(inner))
        inner = self.project(inner)
        return maps + inner if self.is_residual else inner


class AttentionPool(nn.Module):
    """Learned queries that gather the places of the last map which an average would wash out.

    After the pooling of CLIP's ResNets (Radford et al. 2021, arXiv:2103.00020, section 2.4), with one query per head.
    """

    def __init__(self, features: int, heads: int, width: int = 48) -> None:
        super().__init__()
        self.heads = heads
        self.score = nn.Conv2d(features, heads, 1)
        self.value = nn.Conv2d(features, heads * width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, features, h, w) -> (n, heads * width)."""
        weights = self.score(maps).flatten(2).softmax(dim=-1)  # (n, heads, places)
        values = self.value(maps).flatten(2).unflatten(1, (self.heads, -1))  # (n, heads, width, places)
        return torch.einsum("nhp,nhwp->nhw", weights, values).flatten(1)


class ImageTower(nn.Module):
    """Pictures -> vectors. `stem` gives the map that is cached when the first blocks are frozen; `finish` the rest."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, 2, 1)
        self.blocks = nn.ModuleList(Bottleneck(*sizes, 6 if n else 1) for n, sizes in enumerate(BOTTLENECKS))
        self.last = nn.Conv2d(BOTTLENECKS[-1][1], FEATURES, 1)
        self.pool = AttentionPool(FEATURES, shape.pooling_heads)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(FEATURES, shape.dim)
        self.pool_projection = nn.Linear(self.pool.value.out_channels, shape.dim, bias=False)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1) * 255, persistent=False)
        nn.init.zeros_(self.pool_projection.weight)  # the average alone at first

    def stem(self, pixels: Tensor) -> Tensor:
        """(n, 3, side, side), 0 to 255 -> (n, 96, side / 16, side / 16)."""
        maps = functional.relu6(self.first((pixels.float() - self.mean) / self.std))
        for block in self.blocks[:STEM_BLOCKS]:
            maps = block(maps)
        return maps

    def features(self, maps: Tensor) -> Tensor:
        """(n, 96, h, w) -> (n, 1280, h / 2, w / 2)."""
        for block in self.blocks[STEM_BLOCKS:]:
            maps = block(maps)
        return functional.relu6(self.last(maps))

    def finish(self, maps: Tensor) -> Tensor:
        """(n, 96, h, w) -> (n, dim)."""
        features = self.features(maps)
        average = self.projection(self.dropout(features.mean(dim=(2, 3))))
        attended = self.pool_projection(self.dropout(self.pool(features)))
        return functional.normalize((average + attended).float(), dim=-1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, side, side), 0 to 255 -> (n, dim), rows of norm 1."""
        return self.finish(self.stem(pixels))


class TextLayer(nn.Module):
    """One transformer layer, normalised after each residual, as BERT has it."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.heads = shape.heads
        self.dropout = dropout
        self.attend = nn.Linear(shape.hidden, 3 * shape.hidden)
        self.attended = nn.Linear(shape.hidden, shape.hidden)
        self.attended_norm = nn.LayerNorm(shape.hidden, eps=1e-12)
        self.widen = nn.Linear(shape.hidden, shape.intermediate)
        self.narrow = nn.Linear(shape.intermediate, shape.hidden)
        self.narrow_norm = nn.LayerNorm(shape.hidden, eps=1e-12)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(n, length, hidden), and (n, 1, 1, length) true where a token is -> (n, length, hidden)."""
        parts = self.attend(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            parts[0], parts[1], parts[2], attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )  # (n, heads, length, hidden / heads)
        tokens = self.attended_norm(tokens + self._drop(self.attended(mixed.transpose(1, 2).flatten(2))))
        return self.narrow_norm(tokens + self._drop(self.narrow(functional.gelu(self.widen(tokens)))))

    def _drop(self, tokens: Tensor) -> Tensor:
        return functional.dropout(tokens, self.dropout, self.training)


class TextTower(nn.Module):
    """Token ids -> vectors: mean of the last layer's tokens, then a linear map."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.pad_id = shape.pad_id
        self.words = nn.Embedding(shape.vocabulary_size, shape.hidden)
        self.positions = nn.Embedding(shape.context_length, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden, eps=1e-12)
        self.layers = nn.ModuleList(TextLayer(shape, dropout) for _ in range(shape.layers))
        self.projection = nn.Linear(shape.hidden, shape.dim, bias=False)

    def sentence(self, ids: Tensor) -> Tensor:
        """(n, length) -> (n, hidden): the mean of the tokens that are not padding."""
        is_token = ids != self.pad_id
        tokens = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]])
        for layer in self.layers:
            tokens = layer(tokens, is_token[:, None, None, :])
        weights = is_token[:, :, None].to(tokens.dtype)
        return (tokens * weights).sum(dim=1) / weights.sum(dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length) -> (n, dim), rows of norm 1."""
        return functional.normalize(self.projection(self.sentence(ids)).float(), dim=-1)


class TwoTowers(nn.Module):
    """Both towers, the learned sharpness of their scores (its logarithm), and the bias that the sigmoid loss adds."""

    adapter = "text.projection.weight"
    casts_pictures = False
    has_bias = True
    largest_scale = 60.0

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.image = ImageTower(shape, dropout)
        self.text = TextTower(shape, dropout)
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def part_of(self, name: str) -> Part:
        """Which rate a parameter moves at. The first image blocks never move: their maps are kept."""
        if "projection" in name or "pool." in name or name in ("log_scale", "bias"):
            return "head"
        if name.startswith("text."):
            return "words" if name == "text.words.weight" else "text"
        late = tuple(f"image.blocks.{n}." for n in range(STEM_BLOCKS, 17))
        return "image" if name.startswith((*late, "image.last.")) else "still"
