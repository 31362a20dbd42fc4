"""A picture and labels turned into probabilities, without training."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.base import Encoder
from sightline.errors import UsageError
from sightline.types import Vectors

_SCALE = 100.0
"""What CLIP's learned temperature converges to (Radford et al. 2021, section 2.5), for models that name none."""


def classify(
    vectors: Vectors, labels: Sequence[str], encoder: Encoder, *, template: str = "a photo of {}"
) -> NDArray[np.float32]:
    """(n, dim) picture vectors -> (n, labels) probabilities, each row of sum 1: softmax of scaled cosines.

    Zero-shot classification as in Radford et al. 2021, section 3.1.
    """
    if len(set(labels)) < 2:
        raise UsageError(f"the labels are {list(labels)!r}, expected at least two different ones: add another")
    if "{}" not in template:
        raise UsageError(f"the template is {template!r}, expected a place for the label: write {{}} in it")
    texts = encoder.encode_texts([template.replace("{}", label) for label in labels])
    scale = np.float32(getattr(encoder, "logit_scale", None) or _SCALE)
    logits = scale * (vectors @ texts.T)  # (n, dim) @ (dim, labels) -> (n, labels)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
