"""Colours as a screen shows them: transparency over a ground, and colour profiles into sRGB."""

from contextlib import suppress
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL.Image import Image, new
from PIL.ImageCms import ImageCmsProfile, ImageCmsTransform, PyCMSError, buildTransform, createProfile

_NEAR = 24  # of 255: a colour that far from the ground is hardly seen
_MOST_LOST = 0.25
_GROUNDS = (255, 0, 128)
_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK", "LAB": "Lab "}


def over_ground(image: Image) -> Image:
    """A picture with alpha over white, or over black or grey where white would hide more than a quarter of it."""
    if image.mode not in ("LA", "RGBA"):
        return image
    colours, alpha = image.convert("RGB" if image.mode == "RGBA" else "L"), image.getchannel("A")
    small = image.convert("RGBA").resize((min(image.width, 256), min(image.height, 256)))
    values = np.asarray(small, np.int16)  # (height, width, 4)
    visible = values[..., 3] / max(1, int(values[..., 3].sum()))
    lost = [float(visible[(abs(values[..., :3] - ground) < _NEAR).all(axis=-1)].sum()) for ground in _GROUNDS]
    ground = _GROUNDS[0] if lost[0] <= _MOST_LOST else _GROUNDS[int(np.argmin(lost))]
    background = new(colours.mode, image.size, (ground,) * len(colours.getbands()))
    background.paste(colours, mask=alpha)
    return background


def in_srgb(image: Image, profile: object) -> Image:
    """A picture in RGB; its numbers mean what its profile says, or sRGB where it has none that fits."""
    if isinstance(profile, bytes) and profile[16:20] == _SPACES.get(image.mode, "").encode():
        with suppress(PyCMSError, OSError, ValueError, TypeError):  # a broken profile is as good as none
            return _transform(profile, image.mode).apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(16)
def _transform(profile: bytes, mode: str) -> ImageCmsTransform:
    return buildTransform(ImageCmsProfile(BytesIO(profile)), createProfile("sRGB"), mode, "RGB")
