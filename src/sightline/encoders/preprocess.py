"""Scale and crop an RGB picture to the pixels that a model wants, as open_clip's own transforms do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sightline.errors import EncoderError
from sightline.types import Pixels

if TYPE_CHECKING:  # 10 ms that a search by words does not need
    from PIL import Image

VERSION = 1
"""Part of every fingerprint: goes up when the same picture gives other pixels than before."""

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # what open_clip assumes where a config is silent
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Mode: TypeAlias = Literal["shortest", "squash", "longest"]
_BICUBIC = 3
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": _BICUBIC, "box": 4, "hamming": 5}
"""What configs call a filter -> how PIL.Image.Resampling numbers it."""
_MODES: dict[str, Mode] = {"shortest": "shortest", "squash": "squash", "longest": "longest"}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What `visual/preprocess_cfg.json` says.

    `shortest` scales the short side to fit and crops the middle, `squash` ignores the aspect, `longest` scales the long
    side to fit and fills the rest. `mean` and `std` are of values 0 to 1, one for each channel.

    What open_clip does not have and other libraries do: `resized` is the side in pixels that the picture has (`squash`)
    or its short side (`shortest`) before the middle of height x width is cut out of it; `crops_down` says that the cut
    starts at the whole pixel below and not at the nearest.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int
    mode: Mode
    fill: int | tuple[int, ...]
    resized: int | None = None
    crops_down: bool = False

    @property
    def reach(self) -> int:
        """The side in pixels that a picture is scaled to: it may be decoded at reduced scale down to twice this."""
        return max(self.resized or 0, self.height, self.width)


def preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """Read a config; raises `ValueError`, `TypeError` or `KeyError` where it makes no sense."""
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    interpolation = config.get("interpolation") or "bicubic"
    if height < 1 or width < 1:
        raise ValueError(f"size is {size!r}")
    fill = config.get("fill_color") or 0
    ours = config.get("sightline") or {}
    given = config.get("mean") or _CLIP_MEAN, config.get("std") or _CLIP_STD
    means, stds = ([float(value) for value in (one if isinstance(one, list | tuple) else [one] * 3)] for one in given)
    if len(means) != 3 or len(stds) != 3:
        raise ValueError(f"mean and std are {given}")
    return Preprocessing(
        height=int(height),
        width=int(width),
        mean=(means[0], means[1], means[2]),
        std=(stds[0], stds[1], stds[2]),
        resample=RESAMPLING.get(interpolation, _BICUBIC),
        mode=_MODES[config.get("resize_mode") or "shortest"],
        fill=tuple(fill) if isinstance(fill, list) else fill,
        resized=int(ours["resized"]) if "resized" in ours else None,
        crops_down=bool(ours.get("crops_down")),
    )


def preprocessing_of(processor: Mapping[str, Any], name: str) -> Preprocessing:
    """What preprocessor_config.json of transformers says; raises `EncoderError` where the two cannot agree.

    Theirs crops from the whole pixel below the middle. Its mean and deviation are of `pixel * factor - offset`, and
    EfficientNet's may be divided twice; ours are of values 0 to 1.
    """
    is_cropped = bool(processor.get("do_center_crop"))
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    if isinstance(size, int):  # as older versions wrote it
        size = {"shortest_edge": size} if is_cropped else {"height": size, "width": size}
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    short = size.get("shortest_edge")
    sides = [short] * 2 if short else [size.get("height"), size.get("width")]
    wanted: list[Any] = [crop.get("height"), crop.get("width")] if is_cropped else sides
    resample = int(processor.get("resample", RESAMPLING["bilinear"]))
    is_odd = None in (*sides, *wanted) or "crop_pct" in processor or resample not in RESAMPLING.values()
    if is_odd or (short and not is_cropped) or (is_cropped and sides[0] != sides[1]):
        raise EncoderError(
            f"{name} resizes pictures to {dict(size)} and cuts {dict(crop)}, expected a square, or a short side and a "
            "square cut from the middle: change preprocessor_config.json if the model bears it"
        )
    factor = float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
    offset = 1.0 if processor.get("rescale_offset") else 0.0
    is_normal = processor.get("do_normalize", True)
    means, stds = (processor["image_mean"], processor["image_std"]) if is_normal else ([0.0] * 3, [1.0] * 3)
    again = processor["image_std"] if processor.get("include_top") else [1.0] * 3
    span = 255 * factor  # a pixel of 255 comes to this before the offset
    mean, std = [(offset + value) / span for value in means], [a * b / span for a, b in zip(stds, again, strict=True)]
    return Preprocessing(
        height=wanted[0],
        width=wanted[1],
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        resample=resample,
        mode="shortest" if short else "squash",
        fill=0,
        resized=sides[0] if sides != wanted else None,
        crops_down=True,
    )


def as_config(config: Preprocessing) -> dict[str, Any]:
    """What `preprocessing` reads: open_clip's keys, and ours for what it does not have."""
    names = {number: name for name, number in RESAMPLING.items()}
    ours = {"resized": config.resized} if config.resized else {}
    return {
        "size": [config.height, config.width],
        "mode": "RGB",
        "mean": list(config.mean),
        "std": list(config.std),
        "interpolation": names[config.resample],
        "resize_mode": config.mode,
        "fill_color": config.fill if isinstance(config.fill, int) else list(config.fill),
        **({"sightline": {**ours, "crops_down": config.crops_down}} if ours or config.crops_down else {}),
    }


def pixels(image: Image.Image, config: Preprocessing) -> Pixels:
    """One picture at the model's size: (3, height, width).

    Only what ends up in the result is resampled: `box` names it in the coordinates of the original. That equals
    resizing all of it and cropping then, in three quarters of the time for a 4:3 picture; a long thin one stays cheap.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if config.mode == "longest":
        shown = _filled(rgb, config)
    else:
        shown = rgb.resize((config.width, config.height), config.resample, box=_box(rgb.size, config))
    return np.asarray(shown).transpose(2, 0, 1)  # (height, width, 3) -> (3, height, width)


def normalised(stack: Pixels, config: Preprocessing, dtype: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Values 0 to 255 -> 0 to 1 -> mean removed, divided by the deviation: (n, 3, h, w) -> (n, 3, h, w)."""
    std = np.array(config.std, np.float32).reshape(3, 1, 1)
    shift = np.array(config.mean, np.float32).reshape(3, 1, 1) / std
    values = np.multiply(stack, 1 / (255 * std), dtype=np.float32)
    values -= shift
    return values.astype(dtype, copy=False)


def _box(size: tuple[int, int], config: Preprocessing) -> tuple[float, float, float, float]:
    """The part of the original, (left, top, right, bottom), that the result shows."""
    width, height = size
    if config.mode == "squash":
        whole = config.resized or config.width, config.resized or config.height
    elif side := config.resized or (config.width if config.width == config.height else 0):  # torchvision rounds down
        whole = (side, side * height // width) if width <= height else (side * width // height, side)
    else:  # timm's resize, for others, rounds to the nearest
        ratio = min(width / config.width, height / config.height)
        whole = round(width / ratio), round(height / ratio)
    box = list[float]()
    for side, whole_side, target in zip(size, whole, (config.width, config.height), strict=True):
        gap = whole_side - target  # the libraries crop at whole pixels of the scaled picture
        start = gap // 2 if config.crops_down else round(gap / 2)
        box += [start * side / whole_side, (start + target) * side / whole_side]
    left, right, top, bottom = box
    return max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)


def _filled(image: Image.Image, config: Preprocessing) -> Image.Image:
    """Scaled until the long side fits, in the middle of a canvas of the fill colour."""
    from PIL import Image

    ratio = max(image.width / config.width, image.height / config.height)
    width, height = max(round(image.width / ratio), 1), max(round(image.height / ratio), 1)
    fill = (config.fill,) * 3 if isinstance(config.fill, int) else config.fill
    canvas = Image.new("RGB", (config.width, config.height), fill)
    canvas.paste(
        image.resize((width, height), config.resample), ((config.width - width) // 2, (config.height - height) // 2)
    )
    return canvas
