"""A model of another library as encoding, training and export take it: towers, preprocessing and tokenizer."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from sightline.encoders.preprocess import Preprocessing, as_config, preprocessing
from sightline.encoders.tokens import Tokens, tokenizer_config

START, END = "<start_of_text>", "<end_of_text>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # how open_clip's SimpleTokenizer splits


@dataclass(frozen=True, slots=True)
class TextHead:
    """How a model reads: `module` gives (n, dim) of any norm for the tensors that `tokens` makes of n texts.

    These are the ids, (n, length), and with `takes_mask` which of them are no padding. `masks_padding` says whether
    padding after a text leaves its vector alone, so that it may be cut to its real length.
    """

    module: nn.Module
    tokens: Callable[[list[str]], tuple[Tensor, ...]]
    context_length: int
    masks_padding: bool
    takes_mask: bool
    config: Mapping[str, Any]
    """`text_cfg` of a model folder's config.json."""
    tokenizer_config: Mapping[str, Any]
    tokenizer: Callable[[], str]
    """The text of tokenizer.json, which takes 0.1 s to make; raises `EncoderError` where the library has none."""


@dataclass(frozen=True, slots=True)
class Towers:
    """A model of another library. `image` turns normalised pixels, (n, 3, height, width), into (n, dim) of any norm.

    `architecture` is what weights alone do not say, such as the activation. `picture_weights` are the beginnings of the
    names of those weights that pictures go through; nothing for all.
    """

    name: str
    architecture: str
    model: nn.Module
    preprocessing: Preprocessing
    image: nn.Module
    text: TextHead | None = None
    picture_weights: tuple[str, ...] = ()
    moved_prefix: str = ""
    """What the names of some weights begin with here and not in the library's own files; no part of the fingerprint."""
    logit_scale: float | None = None
    logit_bias: float | None = None
    transform: Callable[[Image], Tensor] | None = None
    """The library's own way from an upright picture to normalised pixels, (3, height, width): to compare with."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What config.json of a model folder says besides `embed_dim` and `text_cfg`."""
    rebuild: Mapping[str, Any] = field(default_factory=dict)
    """Plain values from which the library makes the same model with random weights; empty if it cannot be trained."""

    def dim(self) -> int:
        """The length of a vector: pictures of zeros tell."""
        config = self.preprocessing
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            return int(self.image(torch.zeros((1, 3, config.height, config.width), device=device)).shape[1])

    def documents(self) -> "Documents":
        """The files of a model folder besides its graphs."""
        config = {**self.config, "embed_dim": self.dim()}
        preprocess = as_config(self.preprocessing)
        if self.text is None:
            return Documents(config, preprocess)
        config["text_cfg"] = dict(self.text.config)
        return Documents(config, preprocess, self.text.tokenizer(), self.text.tokenizer_config)


@dataclass(frozen=True)  # without slots: the tokenizer, which takes 0.1 s to make, is kept
class Documents:
    """In open_clip's keys: config.json, visual/preprocess_cfg.json, textual/tokenizer.json (as text) and its config.

    Without a tokenizer they are of a model of pictures alone.
    """

    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    tokenizer: str = ""
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures become pixels."""
        return preprocessing(self.preprocess)

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer, reading as the exported model will."""
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "tokenizer.json"
            path.write_text(self.tokenizer, encoding="utf-8")
            return Tokens(tokenizer_config(self.config["text_cfg"], self.tokenizer_config, path))

    def write(self, folder: Path, more: Mapping[str, Any]) -> None:
        """Writes all of them, with `more` in config.json."""
        files = {"config.json": {**self.config, **more}, "visual/preprocess_cfg.json": self.preprocess}
        if self.tokenizer:
            (folder / "textual" / "tokenizer.json").write_text(self.tokenizer, encoding="utf-8")
            files["textual/tokenizer_config.json"] = self.tokenizer_config
        for name, document in files.items():
            (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    def plain(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


@dataclass(frozen=True, slots=True)
class Parts:
    """What training needs of a two-tower model: from normalised pixels and from ids to (n, dim), scale and bias."""

    image: nn.Module
    text: nn.Module
    scale: float | None
    bias: float | None


class TowerPart(nn.Module):
    """One tower of a model that does not keep it apart: `run(model, *inputs)` gives its vectors."""

    def __init__(self, model: nn.Module, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, *inputs: Tensor) -> Tensor:
        """Pixels, or ids with their mask -> (n, dim)."""
        return self.run(self.model, *inputs)


def scale_and_bias(model: Any) -> tuple[float | None, float | None]:
    """The learned sharpness of a model's scores and their bias, None where it has none."""
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    return (
        None if scale is None else float(scale.detach().exp().reshape(-1)[0]),
        None if bias is None else float(bias.detach().reshape(-1)[0]),
    )


def byte_pair_tokenizer(letters: Sequence[str], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """CLIP's tokenizer: `letters` stand for the 256 bytes, `merges` come by rank. It does what SimpleTokenizer does."""
    joined = ["".join(pair) for pair in merges]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *joined, START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    ends = [(token, vocabulary[token]) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=ends)
    return tokenizer
