"""The settings of one training run, read from a TOML file and checked before anything else is."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from sightline.errors import UsageError

Mode = Literal["whole", "image_frozen", "text_frozen", "query_adapter"]
Loss = Literal["contrastive", "sigmoid"]
Kind = Literal["captions", "folders"]
Precision = Literal["int8", "float16", "float32"]
Device = Literal["auto", "cpu", "cuda"]
RENAMED = {"optimiser.start_pull": "l2_to_start"}
"""Older names of settings, which go on to be read."""
IMAGE_FROZEN: tuple[Mode, ...] = ("image_frozen", "query_adapter")
"""The modes that leave the vectors of indexed pictures as they are."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """One set of pictures with texts. `share` is the part of each batch that it fills."""

    name: str = ""
    """What reports call it."""
    table: str = ""
    """A captions table (`captions`), relative to the configuration; or empty for class folders."""
    images: str = ""
    """The folder of its pictures, or of one folder per class (`folders`)."""
    kind: Kind = "captions"
    image_column: str = "image"
    caption_columns: tuple[str, ...] = ("caption",)
    split_column: str = "split"
    split: str = ""
    """Only rows of this split; empty for all."""
    hold_out_percent: int = 0
    """Rows (or classes) that a hash of their name puts aside, the same in every run; they measure, never train."""
    templates: tuple[str, ...] = ("{}",)
    names: Mapping[str, str] = field(default_factory=dict)
    """Better words for a class folder's name."""
    keyword_share: float = 0.0
    """The part of the captions that is replaced by a word which captions of the picture agree on."""
    views: int = 1
    """Random crops kept per picture while the first blocks are frozen."""
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class StartSettings:
    """Where the weights come from."""

    model: str = "mini"
    """`mini`, the folder of an earlier run, `open_clip:ARCHITECTURE/WEIGHTS`, `hf:NAME` or `hf:./FOLDER`."""


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """What keeps a model general: texts whose vectors should stay."""

    anchor_texts: tuple[str, ...] = ()
    """Files of texts, one per line, whose vectors should stay."""
    anchor_weight: float = 0.0
    anchors_per_step: int = 24


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """How the weights move. Rates are peaks of a cosine schedule with a short warm-up."""

    steps: int = 600
    batch_size: int = 192
    image_rate: float = 3e-4
    text_rate: float = 6e-5
    head_rate: float = 6e-4
    trains_words: bool = True
    """Whether the token table moves; unmoved, words that the captions lack stay beside those like them."""
    l2_to_start: float = 0.05
    """Like weight decay, but towards the start of the run instead of zero."""
    dropout: float = 0.1
    clip_norm: float = 1.0
    warm_up_steps: int = 50
    average_decay: float = 0.998
    """Of the moving average of the weights that is evaluated and kept; 0 keeps the last weights."""
    texts_per_picture: int = 1
    """How many of its texts stand beside a picture in one step."""
    window_slack: int = 3
    """Each step sees a random window of the cached maps, up to this much smaller on each side."""
    smallest_crop: float = 0.6
    """Of a start with `open_clip:` or `hf:` each step sees a random part of a picture, at least this share of it."""
    is_half_precision: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything about one run; the same settings and data give the same model on the same machine."""

    output: str = "model"
    mode: Mode = "whole"
    loss: Loss = "contrastive"
    precision: Precision = "int8"
    """Of the exported model: int8 is a quarter of the size and faster."""
    device: Device = "auto"
    """`auto` takes a CUDA device where there is one."""
    seed: int = 1
    evaluate_every_steps: int = 200
    checkpoint_every_steps: int = 100
    data: tuple[DataSettings, ...] = ()
    measure: tuple[DataSettings, ...] = ()
    """Sets that are only measured, after every `evaluate_every_steps`; the first one is in-domain."""
    general: DataSettings | None = None
    """A set that the start model is good at, to see what training costs."""
    largest_general_loss: float = 0.03
    """Export is refused when recall@10 on `general` falls by more than this, of 1."""
    start: StartSettings = field(default_factory=StartSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)


def read_settings(path: Path) -> Settings:
    """The settings in a TOML file. Raises `UsageError` naming the key that cannot be."""
    settings: Settings = record(Settings, read_document(path))
    return settings


def read_document(path: Path) -> dict[str, Any]:
    """A TOML file as it stands. Raises `UsageError` when it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): expected a TOML file; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML ({error}): expected `key = value` lines; correct that line") from error


def difference(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two settings documents, one line per key: `optimiser.steps: 600 became 900`."""
    lines = []
    for name in sorted({*one, *other}):
        a, b = one.get(name), other.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, f"{prefix}{name}.")
        elif a != b:
            lines.append(f"{prefix}{name}: {a} became {b}")
    return lines


def record(kind: type[Any], document: Mapping[str, Any], prefix: str = "") -> Any:
    """A document as settings of that kind. Raises `UsageError` naming the key that cannot be."""
    known = {item.name: item.type for item in fields(kind)}
    document = {RENAMED.get(f"{prefix}{name}", name): value for name, value in document.items()}
    for name in document:
        if name not in known:
            raise UsageError(f"{prefix}{name} is not a setting: expected one of {', '.join(known)}; correct the name")
    return kind(**{name: _value(known[name], value, f"{prefix}{name}") for name, value in document.items()})


def _value(kind: Any, value: Any, name: str) -> Any:
    """A TOML value as the type of its field: tables become records, arrays tuples, integers floats where due."""
    if get_origin(kind) is UnionType:
        kind = next(option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is tuple and isinstance(value, list):
        inner = get_args(kind)[0]
        return tuple(_value(inner, item, f"{name}[{n}]") for n, item in enumerate(value))
    if hasattr(kind, "__dataclass_fields__") and isinstance(value, dict):
        return record(kind, value, f"{name}.")
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if kind is float and type(value) is int:
        return float(value)
    plain = get_origin(kind) or kind
    if plain is not Literal and (type(value) is plain or (plain is Mapping and isinstance(value, dict))):
        return value
    expected = (
        ", ".join(map(repr, get_args(kind))) if get_origin(kind) is Literal else getattr(plain, "__name__", plain)
    )
    raise UsageError(f"{name} is {value!r}: expected {expected}; correct it in the configuration")
