"""A CLIP or SigLIP of open_clip or transformers as a model to train, and the start of its training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from sightline.train.checkpoint import WEIGHTS, read_weights, save_weights
from sightline.train.config import IMAGE_FROZEN, DataSettings, Precision, Settings
from sightline.train.measure import image_vectors
from sightline.train.model import ImageSide, RateGroup, Say, TwoTowers, choose_device, export, token_ids
from sightline.train.model_folder import Sides
from sightline.train.pictures import KeptVectors, PictureFiles, Pictures

KIND = "clip"
LARGEST_SCALE = 100.0  # of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.5)
SIGMOID_BIAS = -10.0  # of SigLIP at its start (Zhai et al. 2023, arXiv:2303.15343, section 3.2)
_LIBRARIES = {open_clip.LIBRARY: open_clip, transformers.LIBRARY: transformers}


@dataclass(frozen=True, slots=True)
class ClipStart:
    """A CLIP of another library. Each step decodes its pictures, but where the image tower is frozen it runs once."""

    model: "Clip"
    documents: Documents
    rebuild: Mapping[str, Any]
    settings: Settings
    folder: Path | None = None
    """The folder of the earlier run that the weights came from."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, read as in use."""
        return token_ids(self.documents, texts)

    def training_pictures(self, data: DataSettings, paths: Sequence[Path], name: str, say: Say) -> Pictures:
        """Files that are decoded and cropped anew in each step, or the vectors of a frozen tower."""
        files = PictureFiles(paths, self.documents.preprocessing, self.settings.optimiser.smallest_crop)
        if self.settings.mode not in IMAGE_FROZEN:
            return files
        say(f"{name}: the frozen image tower runs once, {len(paths):,} pictures")
        return self._kept(files)

    def measuring_pictures(self, paths: Sequence[Path]) -> Pictures:
        """Files as they are, or the vectors of a frozen tower."""
        files = PictureFiles(paths, self.documents.preprocessing)
        return self._kept(files) if self.settings.mode in IMAGE_FROZEN else files

    def write(self, model: TwoTowers, folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        """The model folder, and the torch weights beside it, to train on or to export from."""
        frozen = self.folder if self.settings.mode in IMAGE_FROZEN else None
        export(model, self.documents, folder, precision, calibration=calibration, image_tower_of=frozen)
        save_weights(folder, self.description(), model.state_dict())

    def description(self) -> Mapping[str, Any]:
        """The library, the model's config there, and the documents."""
        return {"kind": KIND, "rebuild": dict(self.rebuild), "documents": self.documents.plain()}

    def _kept(self, files: PictureFiles) -> KeptVectors:
        with torch.no_grad():
            return KeptVectors(image_vectors(self.model.eval(), files))


def open_clip_start(settings: Settings, base: Path, hub: Hub | None = None) -> ClipStart:
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


def start_from(towers: Towers, settings: Settings) -> ClipStart:
    """The start that trains these towers, which belong to it from then on. Raises `TrainingError`."""
    if not towers.rebuild:
        raise TrainingError(
            f"{towers.name} is a {type(towers.model).__name__}: expected two towers with one vector each, a CLIP or "
            "SigLIP of open_clip or transformers; start from one of those"
        )
    documents, library = towers.documents(), _LIBRARIES[towers.rebuild["library"]]
    return ClipStart(Clip(library.parts(towers.model), documents), documents, towers.rebuild, settings)


def described(description: Mapping[str, Any], settings: Settings, folder: Path | None = None) -> ClipStart:
    """The start that `description` tells of, with random weights."""
    rebuild, documents = description["rebuild"], Documents(**description["documents"])
    library = _LIBRARIES[rebuild["library"]]
    model = Clip(library.parts(library.rebuilt(rebuild["config"])), documents)
    return ClipStart(model, documents, rebuild, settings, folder)


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
    sizes = ClipShape(int(documents.config["embed_dim"]), text.context_length, 0, masks_padding=True)
    return Sides(
        image=image,
        text=TokenSide(cut_attention(text.module), sizes, has_adapter=False),
        documents=documents,
        scores=scores,
        context_length=text.context_length,
        has_free_length=text.masks_padding,
        takes_mask=text.takes_mask,
    )


@dataclass(frozen=True, slots=True)
class ClipShape:
    """The sizes of a CLIP. `masks_padding`: padding after a text leaves its vector alone, so that it may be cut."""

    dim: int
    context_length: int
    pad_id: int
    masks_padding: bool


class PixelSide(ImageSide):
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

    def finish(self, pictures: Tensor) -> Tensor:
        """(n, 3, height, width) of 0 to 255, or the vectors (n, dim) that a frozen tower gave before -> (n, dim)."""
        return pictures if pictures.ndim == 2 else self.forward(pictures)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, height, width) of 0 to 255 -> (n, dim), rows of norm 1."""
        vectors: Tensor = self.tower(pixels.float() * self.scale + self.shift)
        return functional.normalize(vectors.float(), dim=-1)


class TokenSide(nn.Module):
    """Token ids -> unit vectors, by way of the query adapter: a residual linear map that starts as zero."""

    def __init__(self, tower: nn.Module, shape: ClipShape, *, has_adapter: bool = True) -> None:
        super().__init__()
        self.tower = tower
        self.shape = shape
        self.adapter: nn.Linear | None = None
        if has_adapter:
            self.adapter = nn.Linear(shape.dim, shape.dim, bias=False)
            nn.init.zeros_(self.adapter.weight)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n, length), padded, and for some towers which of them are no padding -> (n, dim), rows of norm 1."""
        if not self.shape.masks_padding:
            ids = functional.pad(ids, (0, self.shape.context_length - ids.shape[1]), value=self.shape.pad_id)
        vectors: Tensor = self.tower(ids) if mask is None else self.tower(ids, mask)
        if self.adapter is not None:
            vectors = vectors + self.adapter(vectors)
        return functional.normalize(vectors.float(), dim=-1)


class Clip(TwoTowers):
    """Both towers, the sharpness of their scores (its logarithm), and the bias that the sigmoid loss adds."""

    shape: ClipShape
    image: PixelSide
    text: TokenSide
    adapter = "text.adapter.weight"
    casts_pictures = True

    def __init__(self, parts: Parts, documents: Documents) -> None:
        super().__init__()
        tokens = documents.tokens
        self.shape = ClipShape(
            dim=int(documents.config["embed_dim"]),
            context_length=tokens.context_length,
            pad_id=tokens.pad_id,
            masks_padding=bool(documents.config["text_cfg"].get("masks_padding")),
        )
        self.image = PixelSide(cut_attention(parts.image), documents.preprocessing)
        self.text = TokenSide(cut_attention(parts.text), self.shape)
        self.log_scale = nn.Parameter(torch.tensor(parts.log_scale))
        self.bias = nn.Parameter(torch.tensor(SIGMOID_BIAS if parts.bias is None else parts.bias))
        self.has_bias = parts.bias is not None
        self.largest_scale = max(LARGEST_SCALE, 1.1 * math.exp(parts.log_scale))

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
            context_length=self.shape.context_length,
            has_free_length=self.shape.masks_padding,
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
