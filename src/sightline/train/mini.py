"""The bundled model's own two towers: the networks, read from a model folder, and the start of their training.

The image tower is MobileNetV2 1.0 (Sandler et al. 2018, arXiv:1801.04381) or EfficientNet-Lite0 (Tan and Le 2019,
arXiv:1905.11946) with batch norms folded into the convolutions; the text tower is a BERT encoder (Devlin et al. 2019,
arXiv:1810.04805) with mean pooling.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.catalog import BUNDLED, bundled_folder
from sightline.encoders.preprocess import Mode as PixelMode
from sightline.encoders.preprocess import Preprocessing, as_config
from sightline.encoders.torch.towers import Documents
from sightline.errors import ModelDamaged, ModelNotFound
from sightline.train.config import Mode, Settings
from sightline.train.model import RateGroup, Start, TwoTowers, choose_device
from sightline.train.model_folder import Sides

KIND = "two towers"
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
# (channels in, channels out, stride) of the 17 bottlenecks; the first expands by 1, the others by 6.
BOTTLENECKS = (
    [(32, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2)]
    + [(64, 64, 1)] * 3
    + [(64, 96, 1), (96, 96, 1), (96, 96, 1), (96, 160, 2), (160, 160, 1), (160, 160, 1), (160, 320, 1)]
)
FEATURES = 1280
# Activations of MobileNetV2's first blocks span too much for 8 bits: kept float, cosine to the float tower .995 instead
# of .982 and recall@10 52.2 instead of 51.3 (float 52.5), at no measurable cost in speed.
FLOAT_NODES = ("/first/", "/blocks.0/", "/blocks.1/", "/blocks.2/", "/pool/score/")
FLOAT_ALONE = ("/Clip", "/Add")  # the activation of the first convolution, and the sum of the two heads
TABLES = ("words.", "positions.")  # kept as they are in a graph: rows are picked, not multiplied
Array = NDArray[Any]
Block = tuple[int, int, int, int, int]
"""Channels in and out, stride, side of the filters, and how much wider the middle is; 0 for a block without."""


@dataclass(frozen=True, slots=True)
class Network:
    """A convolutional net of inverted residuals, a stem of 32 channels before them and 1,280 features after."""

    blocks: Sequence[Block]
    stem_blocks: int
    """The bottlenecks before this one make the map that is cached while the stem is frozen: side / 16."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pads_unevenly: bool = False
    """Whether padding is TensorFlow's: what is missing for whole steps, the odd one at the end."""
    float_nodes: tuple[str, ...] = ()
    float_alone: tuple[str, ...] = ()
    """Nodes of the graph that stay float in 8 bits, by the start of their names and by their whole names."""


def _stages(*stages: tuple[int, int, int, int, int]) -> tuple[Block, ...]:
    """Stages of (channels, blocks, stride of the first, side of the filters, width) after a stem of 32 channels."""
    blocks, before = list[Block](), 32
    for channels, count, stride, kernel, width in stages:
        for n in range(count):
            blocks.append((before, channels, 1 if n else stride, kernel, width))
            before = channels
    return tuple(blocks)


NETWORKS: Mapping[str, Network] = {
    "mobilenetv2_100": Network(
        tuple((*sizes, 3, 6 if n else 1) for n, sizes in enumerate(BOTTLENECKS)),
        13,
        PIXEL_MEAN,
        PIXEL_STD,
        float_nodes=FLOAT_NODES,
        float_alone=FLOAT_ALONE,
    ),
    "tf_efficientnet_lite0": Network(
        _stages(
            (16, 1, 1, 3, 0),
            (24, 2, 2, 3, 6),
            (40, 2, 2, 5, 6),
            (80, 3, 2, 3, 6),
            (112, 3, 1, 5, 6),
            (192, 4, 2, 5, 6),
            (320, 1, 1, 3, 6),
        ),
        11,
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        pads_unevenly=True,
    ),
}
"""By timm's names. A picture tower of one of these can be trained further from a model folder."""


def open_start(settings: Settings, base: Path) -> "Start[MiniTowers]":
    """The bundled model or a model folder, on the device that the settings name."""
    torch.manual_seed(settings.seed)
    name, device = settings.start.model, choose_device(settings.device)
    start = restored(bundled_folder(BUNDLED) if name == BUNDLED else base / name, settings)
    start.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return start


def described(description: Mapping[str, Any], settings: Settings) -> "Start[MiniTowers]":
    """The start that `description` tells of, with random weights."""
    return start_of(MiniTowers(Shape(**description["shape"])), description["tokenizer"], settings)


def start_of(
    model: "MiniTowers", tokenizer: str, settings: Settings, folder: Path | None = None
) -> "Start[MiniTowers]":
    """The start of these towers; `tokenizer` is the text of tokenizer.json, `folder` where they came from."""
    description = {"kind": KIND, "shape": asdict(model.shape), "tokenizer": tokenizer}
    return Start(model, documents_of(model.shape, tokenizer), settings, description, folder)


def restored(folder: Path, settings: Settings) -> "Start[MiniTowers]":
    """The model in a folder that training wrote, 8-bit too. Raises `ModelNotFound` or `ModelDamaged`.

    An 8-bit weight is scale times integer, so the float weights come back within half a step of what was trained;
    a model of 20 MB therefore needs no second copy of 80 MB to be trained further.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelNotFound(f"{folder} holds no model: expected {path.name} in it; give a folder that training wrote")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "shape" not in config.get("sightline", {}):
        raise ModelNotFound(
            f"{folder} cannot be trained: expected a model of this program with a picture tower of "
            f"{' or '.join(NETWORKS)}; start from mini, open_clip: or hf:"
        )
    model = MiniTowers(Shape(**config["sightline"]["shape"]), settings.optimiser.dropout)
    for tower, part in ((model.image, "visual"), (model.text, "textual")):
        graph = folder / part / "model.onnx"
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(graph).graph.initializer}
        state = {name: _weight(weights, name, value) for name, value in tower.state_dict().items()}
        if missing := next((name for name, value in state.items() if value is None), None):
            raise ModelDamaged(f"{graph} lacks {missing}: expected every weight of the tower; fetch the model again")
        tower.load_state_dict({name: value for name, value in state.items() if value is not None})
    model.log_scale.data.fill_(float(np.log(config["logit_scale"])))
    tokenizer = (folder / "textual" / "tokenizer.json").read_text(encoding="utf-8")
    return start_of(model, tokenizer, settings, folder)


def documents_of(shape: "Shape", tokenizer: str) -> Documents:
    """The files of a model folder besides its graphs; `tokenizer` is the text of tokenizer.json."""
    config = {
        "embed_dim": shape.dim,
        "vision_cfg": {"image_size": shape.image_size, "architecture": shape.network},
        "text_cfg": {
            "context_length": shape.context_length,
            "vocab_size": shape.vocabulary_size,
            "width": shape.hidden,
            "heads": shape.heads,
            "layers": shape.layers,
            "pad_id": shape.pad_id,
            "masks_padding": True,
        },
        "sightline": {"shape": asdict(shape)},
    }
    net = NETWORKS[shape.network]  # the graph takes uint8 pixels and holds mean and deviation itself
    pixels = Preprocessing(shape.image_size, shape.image_size, net.mean, net.std, 3, shape.resize_mode, 0)
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    other = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}
    length = {"model_max_length": shape.context_length}
    return Documents(config, as_config(pixels), tokenizer, {**other, **length, **tokens})


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
    network: str = "mobilenetv2_100"
    """The picture tower, one of `NETWORKS`."""
    resize_mode: PixelMode = "squash"


class UnevenConvolution(nn.Conv2d):
    """A convolution with TensorFlow's padding, which depends on the side of its input; a graph gets that of one."""

    def forward(self, maps: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, out, h / stride, w / stride), rounded up."""
        needed = [
            max((-(-int(side) // stride) - 1) * stride + kernel - int(side), 0)
            for side, stride, kernel in zip(maps.shape[2:], self.stride, self.kernel_size, strict=True)
        ]
        top, left, bottom, right = pads = (*(one // 2 for one in needed), *(one - one // 2 for one in needed))
        if torch.onnx.is_in_onnx_export():
            apply: Any = _Uneven.apply  # torch's own types lack it
            made: Tensor = apply(maps, self.weight, self.bias, self.stride, pads, self.groups)
            return made
        maps = functional.pad(maps, (left, right, top, bottom))
        return functional.conv2d(maps, self.weight, self.bias, self.stride, groups=self.groups)


class _Uneven(torch.autograd.Function):
    """Exported as one Conv, with `pads` as ONNX has them; traced, the padding would be a dozen operations for each."""

    @staticmethod
    def forward(_: Any, maps: Tensor, weight: Tensor, bias: Tensor, stride: Any, pads: Any, groups: int) -> Tensor:
        top, left, bottom, right = pads
        return functional.conv2d(functional.pad(maps, (left, right, top, bottom)), weight, bias, stride, groups=groups)

    @staticmethod
    def symbolic(graph: Any, maps: Any, weight: Any, bias: Any, stride: Any, pads: Any, groups: int) -> Any:
        return graph.op("Conv", maps, weight, bias, strides_i=list(stride), pads_i=list(pads), group_i=groups)


class Bottleneck(nn.Module):
    """An inverted residual: expand by 1x1, filter each channel, project by 1x1 without activation."""

    def __init__(self, block: Block, pads_unevenly: bool) -> None:
        super().__init__()
        channels_in, channels_out, stride, kernel, width = block
        wide = channels_in * (width or 1)
        self.expand = nn.Conv2d(channels_in, wide, 1) if width else None
        self.depthwise = _convolution(wide, wide, kernel, stride, pads_unevenly, groups=wide)
        self.project = nn.Conv2d(wide, channels_out, 1)
        self.is_residual = stride == 1 and channels_in == channels_out

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels_in, h, w) -> (n, channels_out, h / stride, w / stride)."""
        inner: Tensor = maps if self.expand is None else functional.relu6(self.expand(maps))
        inner = functional.relu6(self.depthwise(inner))
        inner = self.project(inner)
        return maps + inner if self.is_residual else inner


def _convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int, pads_unevenly: bool, groups: int = 1
) -> nn.Conv2d:
    if pads_unevenly and stride > 1:  # with stride 1 both paddings are the same
        return UnevenConvolution(channels_in, channels_out, kernel, stride, groups=groups)
    return nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups)


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

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = network = NETWORKS[shape.network]
        self.first = _convolution(3, 32, 3, 2, network.pads_unevenly)
        self.blocks = nn.ModuleList(Bottleneck(block, network.pads_unevenly) for block in network.blocks)
        self.last = nn.Conv2d(network.blocks[-1][1], FEATURES, 1)
        self.pool = AttentionPool(FEATURES, shape.pooling_heads)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(FEATURES, shape.dim)
        self.pool_projection = nn.Linear(self.pool.value.out_channels, shape.dim, bias=False)
        self.register_buffer("mean", torch.tensor(network.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(network.std).view(1, 3, 1, 1) * 255, persistent=False)
        nn.init.zeros_(self.pool_projection.weight)  # the average alone at first

    def stem(self, pixels: Tensor) -> Tensor:
        """(n, 3, side, side), 0 to 255 -> (n, c, side / 16, side / 16)."""
        maps = functional.relu6(self.first((pixels.float() - self.mean) / self.std))
        for block in self.blocks[: self.network.stem_blocks]:
            maps = block(maps)
        return maps

    def features(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, 1280, h / 2, w / 2)."""
        for block in self.blocks[self.network.stem_blocks :]:
            maps = block(maps)
        return functional.relu6(self.last(maps))

    def finish(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, dim)."""
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
        wide = functional.gelu(self.widen(tokens))
        narrowed: Tensor = self.narrow_norm(tokens + self._drop(self.narrow(wide)))
        return narrowed

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
        tokens: Tensor = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]])
        for layer in self.layers:
            tokens = layer(tokens, is_token[:, None, None, :])
        weights = is_token[:, :, None].to(tokens.dtype)
        return (tokens * weights).sum(dim=1) / weights.sum(dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length) -> (n, dim), rows of norm 1."""
        return functional.normalize(self.projection(self.sentence(ids)).float(), dim=-1)


class MiniTowers(TwoTowers):
    """Both towers. The first blocks of the image tower never move: they run once for each picture and view."""

    image: ImageTower
    text: TextTower
    adapter = "text.projection.weight"
    casts_pictures = False
    has_bias = True
    largest_scale = 60.0
    smallest_crop = 0.5
    colour_jitter = 0.3

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.dim, self.pad_id = shape, shape.dim, shape.pad_id
        self.image = ImageTower(shape, dropout)
        self.text = TextTower(shape, dropout)
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def rate_group(self, name: str) -> RateGroup:
        """Which rate a parameter moves at."""
        if "projection" in name or "pool." in name or name in ("log_scale", "bias"):
            return "head"
        if name.startswith("text."):
            return "words" if name == "text.words.weight" else "text"
        network = self.image.network
        late = tuple(f"image.blocks.{n}." for n in range(network.stem_blocks, len(network.blocks)))
        return "image" if name.startswith((*late, "image.last.")) else "still"

    def stem(self, mode: Mode) -> Callable[[Tensor], Tensor]:
        """The first blocks, in every mode."""
        return self.image.stem

    def finish(self, pictures: Tensor) -> Tensor:
        """Maps of the first blocks -> (n, dim)."""
        return self.image.finish(pictures)

    def sides(self, documents: Documents) -> Sides:
        """What a model folder is written from; its weights keep their names, so that it can be trained further."""
        network = self.image.network
        return Sides(
            image=self.image,
            text=self.text,
            documents=documents,
            scores={"logit_scale": float(self.log_scale.detach().exp())},
            context_length=self.shape.context_length,
            has_free_length=True,
            keeps_names=True,
            is_float=lambda node: node.startswith(network.float_nodes) or node in network.float_alone,
        )


def _weight(weights: Mapping[str, Array], name: str, like: Tensor) -> Tensor | None:
    """One weight in float and in torch's order: linear layers are (in, out) in the graph and (out, in) here.

    One of 8 bits is (integer - zero point) * scale. Channels come first, but last in the matrices of linear layers.
    """

    def found(*names: str) -> Array | None:
        return next((weights[one] for one in names if one in weights), None)

    is_linear = like.ndim == 2 and not name.startswith(TABLES)
    array, scale = found(name), found(f"{name}_scale", f"{name}_quantized_scale")
    if array is None and (integers := found(f"{name}_quantized")) is not None and scale is not None:
        zero = found(f"{name}_zero_point", f"{name}_quantized_zero_point")
        per_channel = () if scale.size == 1 else (-1,) if is_linear else (-1, *[1] * (integers.ndim - 1))
        centred = integers.astype(np.float64)
        if zero is not None:
            centred = centred - zero.astype(np.float64).reshape(() if zero.size == 1 else per_channel)
        array = centred * scale.reshape(per_channel)
    if array is None:
        return None
    array = np.array(array.T if is_linear else array, np.float32)
    return torch.from_numpy(array) if array.shape == tuple(like.shape) else None
