"""A picture tower of timm with its batch norms frozen, two poolings and a linear map into the teacher's space."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from sightline.encoders.hub import Hub
from sightline.encoders.torch import timm
from sightline.errors import TrainingError
from sightline.train.distil.settings import StudentSettings
from sightline.train.mini import NETWORKS, AttentionPool, ImageTower, Shape, UnevenConvolution

STEM = ("conv_stem", "bn1", "conv1", "act1", "maxpool", "stem", "patch_embed")
LARGEST_FOLDING_ERROR = 1e-3


class Gain(nn.Module):
    """What a frozen batch norm multiplies each channel by, learned relative to its fixed deviation."""

    deviation: Tensor

    def __init__(self, weight: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.register_buffer("deviation", deviation.detach().clone())

    def forward(self, kernel: Tensor) -> Tensor:
        """(out, in, h, w) of a convolution -> the same with the norm in it."""
        return kernel * (self.weight / self.deviation)[:, None, None, None]


class Student(nn.Module):
    """Pixels of 0 to 255 -> unit vectors of the teacher's space."""

    tower: Any
    mean: Tensor
    scale: Tensor

    def __init__(
        self, tower: Any, dim: int, mean: tuple[float, ...], std: tuple[float, ...], pooling_heads: int
    ) -> None:
        super().__init__()
        self.tower = tower
        with torch.no_grad():
            features = tower.forward_features(torch.zeros(2, 3, 64, 64)).shape[1]
        self.projection = nn.Linear(features, dim)
        self.pool = AttentionPool(features, pooling_heads) if pooling_heads else None
        if self.pool is not None:
            self.pool_projection = nn.Linear(self.pool.value.out_channels, dim, bias=False)
            nn.init.zeros_(self.pool_projection.weight)  # the average alone at first
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("scale", 1 / (torch.tensor(std).view(1, 3, 1, 1) * 255), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, side, side), 0 to 255 -> (n, dim), rows of norm 1."""
        maps = self.tower.forward_features((pixels.float() - self.mean) * self.scale)
        vectors = self.projection(maps.mean(dim=(2, 3)))
        if self.pool is not None:
            vectors = vectors + self.pool_projection(self.pool(maps))
        return functional.normalize(vectors.float(), dim=-1)

    def plain(self) -> "Student":
        """The same as it is exported: one weight for each convolution, and padding that a graph can hold."""
        twin = copy.deepcopy(self).cpu().float().eval()
        for module in [one for one in twin.modules() if parametrize.is_parametrized(one)]:
            weight: Any = module.weight
            # torch's own removal takes the weight from a class that a copy shares with its original
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.weight = nn.Parameter(weight.detach().clone())
        _fix_padding(twin)
        return twin

    def image_tower(self, shape: Shape) -> ImageTower:
        """The same as a picture tower of ours, which can be trained further; `shape.network` names what it began as."""
        plain = self.plain()
        parts = {"first": plain.tower.conv_stem, "last": plain.tower.conv_head, "projection": plain.projection}
        parts |= {"pool": plain.pool, "pool_projection": plain.pool_projection}
        blocks = [block for stage in plain.tower.blocks for block in stage]
        for n, (block, (*_, width)) in enumerate(zip(blocks, NETWORKS[shape.network].blocks, strict=True)):
            ours = ("expand", "depthwise", "project") if width else ("depthwise", "project")
            theirs = ("conv_pw", "conv_dw", "conv_pwl") if width else ("conv_dw", "conv_pw")
            parts |= {f"blocks.{n}.{our}": getattr(block, their) for our, their in zip(ours, theirs, strict=True)}
        tower = ImageTower(shape).eval()
        tower.load_state_dict(
            {f"{part}.{name}": value for part, one in parts.items() for name, value in one.state_dict().items()}
        )
        return tower

    def heads(self) -> list[nn.Parameter]:
        """The parameters that no published weights began: they move at a rate of their own."""
        return [value for name, value in self.named_parameters() if not name.startswith("tower.")]

    def freeze(self, stages: int, *, trains_depthwise: bool) -> None:
        """Keeps what comes before the first stages, and those, as they are, and filters over one channel each."""
        blocks = list(getattr(self.tower, "blocks", ()) or getattr(self.tower, "stages", ()))
        if len(blocks) < stages:
            raise TrainingError(
                f"frozen_stages is {stages} and the picture tower has {len(blocks)} stages: expected at most as many; "
                "set it to 0 for a tower without"
            )
        first = [getattr(self.tower, name) for name in STEM if stages and hasattr(self.tower, name)]
        filters = [m for m in self.tower.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
        still = {*first, *blocks[:stages], *(() if trains_depthwise else filters)}
        frozen = {id(value) for module in still for value in module.parameters()}
        for value in self.parameters():
            value.requires_grad_(id(value) not in frozen)


def open_student(settings: StudentSettings, base: Path, dim: int, hub: Hub) -> Student:
    """The student that the settings name; a file of weights is relative to `base`.

    Raises an `EncoderError` or a `TrainingError`.
    """
    family, _, rest = settings.picture_tower.partition(":")
    if family != "timm":
        raise TrainingError(
            f"picture_tower is {settings.picture_tower!r}: expected 'timm:NAME' with a name of timm.list_models(); "
            "correct it"
        )
    towers = timm.load(rest, hub, base)
    tower: Any = towers.model.eval()
    how = towers.preprocessing
    if getattr(tower.forward_features(torch.zeros(1, 3, 64, 64)), "ndim", 0) != 4:
        raise TrainingError(f"{rest} gives no map of features: expected a convolutional tower; choose another")
    fold_norms(tower)
    return Student(tower, dim, tuple(how.mean), tuple(how.std), settings.pooling_heads)


def fold_norms(tower: Any) -> None:
    """Moves each batch norm into the convolution before it, with its running statistics as they are.

    They stay learnable, at no cost in time: the norms of a tower that is fine-tuned on small batches are better frozen,
    and a norm as an operation of its own costs a pass over the largest maps in each direction. A norm that does not
    follow its convolution stays, and the tower must give the same before and after.
    """
    with torch.no_grad():
        example = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        before = tower.forward_features(example)
        for parent in list(tower.modules()):
            convolution: nn.Conv2d | None = None
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d):
                    convolution = child
                elif isinstance(child, nn.BatchNorm2d):
                    if convolution is not None and convolution.out_channels == child.num_features:
                        _fold(convolution, child)
                        setattr(parent, name, getattr(child, "act", nn.Identity()))
                    convolution = None
        error = (tower.forward_features(example) - before).abs().max() / before.abs().max().clamp(min=1e-6)
    if not error < LARGEST_FOLDING_ERROR:
        raise TrainingError(
            f"the picture tower gives features that are {error:.2g} off with its batch norms in its convolutions: "
            "expected norms that follow their convolutions; choose another tower"
        )


def _fix_padding(student: Student) -> None:
    """Replaces timm's convolutions whose padding depends on their input by ours, which are exported as one Conv."""
    for module in student.tower.modules():
        if type(module).__name__ == "Conv2dSame":
            module.__class__ = UnevenConvolution


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    deviation = (norm.running_var + norm.eps).sqrt()
    old = 0 if convolution.bias is None else convolution.bias
    convolution.bias = nn.Parameter((norm.bias + (old - norm.running_mean) * norm.weight / deviation).detach())
    parametrize.register_parametrization(convolution, "weight", Gain(norm.weight, deviation))
