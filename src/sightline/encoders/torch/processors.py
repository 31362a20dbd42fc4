"""The image processor of a model of transformers turned into our own preprocessing."""

from collections.abc import Mapping
from typing import Any

from sightline.encoders.preprocess import RESAMPLING, Mode, Preprocessing
from sightline.errors import EncoderError

_BILINEAR = 2


def preprocessing_of(processor: Mapping[str, Any], name: str) -> Preprocessing:
    """What preprocessor_config.json says; raises `EncoderError` where the two cannot agree.

    Theirs crops from the whole pixel below the middle.
    """
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    is_cropped = bool(processor.get("do_center_crop"))
    short = size.get("shortest_edge")
    sides = [short] * 2 if short else [size.get("height"), size.get("width")]
    wanted: list[Any] = [crop.get("height"), crop.get("width")] if is_cropped else sides
    resample = int(processor.get("resample", _BILINEAR))
    is_odd = None in (*sides, *wanted) or "crop_pct" in processor or resample not in RESAMPLING.values()
    if is_odd or (short and not is_cropped) or (is_cropped and sides[0] != sides[1]):
        raise EncoderError(
            f"{name} resizes pictures to {dict(size)} and cuts {dict(crop)}, expected a square, or a short side and a "
            "square cut from the middle: change preprocessor_config.json if the model bears it"
        )
    mean, std = _mean_and_std(processor)
    mode: Mode = "shortest" if short else "squash"
    return Preprocessing(
        height=wanted[0],
        width=wanted[1],
        mean=mean,
        std=std,
        resample=resample,
        mode=mode,
        fill=0,
        resized=sides[0] if sides != wanted else None,
        crops_down=True,
    )


def _mean_and_std(processor: Mapping[str, Any]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Of values 0 to 1. Theirs are of `pixel * factor - offset`, and EfficientNet's may be divided twice."""
    ones = (1.0, 1.0, 1.0)
    factor = float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
    offset = 1.0 if processor.get("rescale_offset") else 0.0
    is_normal = processor.get("do_normalize", True)
    means = processor["image_mean"] if is_normal else (0.0, 0.0, 0.0)
    stds = processor["image_std"] if is_normal else ones
    again = processor["image_std"] if processor.get("include_top") else ones
    span = 255 * factor  # a pixel of 255 comes to this before the offset
    mean = [(offset + value) / span for value in means]
    std = [one * two / span for one, two in zip(stds, again, strict=True)]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
