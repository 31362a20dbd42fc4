"""A model of another library, untouched, and what we know of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from sightline.train.clips.documents import Documents
from sightline.train.clips.towers import Clip, ClipShape, Parts
from sightline.types import Vector


@dataclass(frozen=True, slots=True)
class Loaded:
    """The library's model, and how the library itself turns one picture or text into a unit vector."""

    model: nn.Module
    documents: Documents
    is_causal: bool
    rebuild: Mapping[str, Any]
    """Plain values from which the library makes the same model with random weights."""
    parts: Callable[[nn.Module], Parts]
    """The towers of such a model; it may change the model."""
    encode_image: Callable[[Image.Image], Vector]
    encode_text: Callable[[str], Vector]

    def clip(self) -> Clip:
        """The trainable model. It takes the library's model apart, which is not to be used afterwards."""
        return clip_of(self.parts(self.model), self.documents, is_causal=self.is_causal)


def clip_of(parts: Parts, documents: Documents, *, is_causal: bool) -> Clip:
    """The trainable model of these towers."""
    how, tokens = documents.preprocessing, documents.tokens
    shape = ClipShape(
        dim=int(documents.config["embed_dim"]),
        height=how.height,
        width=how.width,
        mean=how.mean,
        std=how.std,
        context_length=tokens.context_length,
        pad_id=tokens.pad_id,
        is_causal=is_causal,
    )
    return Clip(parts, shape)


def unit(vector: Any) -> Vector:
    """A tensor of one row -> a unit vector."""
    row = np.asarray(vector.detach().float().cpu().numpy().reshape(-1), np.float32)
    return np.asarray(row / np.linalg.norm(row), np.float32)
