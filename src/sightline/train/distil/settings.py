"""The settings of a distillation: whose vectors to imitate, on which pictures, with which student."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sightline.train.config import DataSettings, Device, Precision


@dataclass(frozen=True, slots=True)
class StudentSettings:
    """The small model that learns: its picture tower, and how it sees pictures."""

    text_tower: str = "mini"
    """`mini`, or a model folder of this program, whose text tower begins."""
    picture_tower: str = "timm:tf_efficientnet_lite0"
    """`timm:NAME` with the weights that timm publishes, or `timm:NAME@state.pt` with those of a file."""
    image_size: int = 224
    """Side of the pictures that the finished model takes."""
    resize_mode: Literal["shortest", "squash"] = "shortest"
    """`shortest` crops the middle square, as CLIP does; `squash` squeezes the whole picture into it."""
    pooling_heads: int = 8
    """Learned queries that look at the last map beside its average; 0 for the average alone."""


@dataclass(frozen=True, slots=True)
class WordSettings:
    """How the text tower learns where texts belong among the teacher's vectors, which stay as they are.

    Locked-image tuning (Zhai et al. 2022, arXiv:2111.07991): first a linear map alone, then the whole tower.
    """

    head_steps: int = 1500
    head_batch_size: int = 512
    head_rate: float = 2e-3
    steps: int = 400
    again_steps: int = 0
    """Steps after the pictures, when texts learn where the finished student sees pictures, not the teacher."""
    batch_size: int = 128
    rate: float = 5e-5
    trains_words: bool = False
    """Whether the token table moves; unmoved, words that the captions lack stay beside those like them."""
    warm_up_steps: int = 50
    dropout: float = 0.1
    weight_decay: float = 0.02
    average_decay: float = 0.99
    others: int = 4096
    """Pictures beside the batch's own that a text is told from; the teacher's vectors cost nothing."""
    soft_weight: float = 0.3
    """Of the loss that asks a text to see other pictures as near as the teacher sees its own picture to them."""
    soft_temperature: float = 0.07


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """How the picture tower learns. The rate stays constant and falls to zero in the last `decay_steps`, so that a run
    may be prolonged: with more steps the same command goes on.
    """

    steps: int = 20_000
    decay_steps: int = 2_000
    warm_up_steps: int = 200
    batch_size: int = 64
    side: int = 160
    """Side of the pictures in training; smaller than the model's own is faster, and random crops show things larger."""
    rate: float = 4e-4
    head_rate: float = 1e-3
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    average_decay: float = 0.998
    """Of the moving average of the weights that is measured and kept."""
    frozen_stages: int = 3
    """The first stages that stay as they are: they see edges and colours, and take a third of the time."""
    trains_depthwise: bool = False
    """Whether filters over one channel each move: on a CPU the gradients of those of 5 x 5 take a third of the time."""
    smallest_crop: float = 0.6
    """Each step sees a random part of a picture, at least this share; the target is the whole picture's vector."""
    blurred_share: float = 0.15
    """The part of the pictures that is shrunk and enlarged again, so that coarse pixels do not become a meaning."""
    neighbours_weight: float = 0.25
    """Of the loss that compares a picture's nearness to other pictures with the teacher's, beside the distance."""
    neighbours: int = 4096
    neighbours_temperature: float = 0.07
    texts_weight: float = 0.0
    """Of the loss that tells a picture's own text from others, and a text's own picture from those of the batch."""
    texts: int = 2048
    """Texts beside the batch's own that a picture's text is told from."""


@dataclass(frozen=True, slots=True)
class DistilSettings:
    """Everything about one distillation."""

    teacher_vectors: str
    """An .npz with `names` and `vectors` (n, dim), or `codes` int8 and `scales`; see `teacher_names`."""
    teacher_names: str = ""
    """A text file with one name a line, where the .npz has none."""
    images: str = "."
    """The folder that the names are relative to."""
    output: str = "model"
    cache: str = ""
    """A file for the decoded pictures; by default in the output folder, and removed at the end."""
    precision: Precision = "int8"
    device: Device = "auto"
    seed: int = 1
    evaluate_every_steps: int = 500
    checkpoint_every_steps: int = 100
    data: tuple[DataSettings, ...] = ()
    """Captions, names and titles that the text tower learns from; what they hold out is not imitated either."""
    measure: tuple[DataSettings, ...] = ()
    """Sets that measure. No picture of theirs is learned from."""
    student: StudentSettings = field(default_factory=StudentSettings)
    words: WordSettings = field(default_factory=WordSettings)
    pictures: PictureSettings = field(default_factory=PictureSettings)


def is_distillation(document: Mapping[str, Any]) -> bool:
    """Whether a configuration asks for a distillation."""
    return "teacher_vectors" in document
