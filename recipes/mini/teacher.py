"""What the new model learns from besides its pairs: a picture classifier, and vectors of a sentence encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sightline.encoders.preprocess import Preprocessing
from sightline.train.mini import PIXEL_MEAN, PIXEL_STD, TextTower
from sightline.train.model import device_of, padded
from sightline.train.pictures import PictureFiles

BATCH = 16
FIRES = 8
POOLED_BEFORE = (2, 4)  # the fire modules that a max pooling precedes, in version 1.1


@dataclass(frozen=True, slots=True)
class SqueezeNet:
    """SqueezeNet 1.1 with its 1,000-class head (Iandola et al. 2016, arXiv:1602.07360), in Gluon's names."""

    weights: Mapping[str, NDArray[np.float32]]

    def __call__(self, batch: NDArray[np.uint8]) -> Tensor:
        """(n, 3, side, side), 0 to 255 -> (n, 1000) scores before the softmax."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (PIXEL_MEAN, PIXEL_STD))
        maps = self._convolve((torch.from_numpy(batch).float() - mean) / std, 0, stride=2)
        maps = _pooled(maps)
        for n in range(FIRES):
            maps = self._fire(_pooled(maps) if n in POOLED_BEFORE else maps, 3 * n + 1)
        return self._convolve(maps, 3 * FIRES + 1).mean(dim=(2, 3))

    def _fire(self, maps: Tensor, number: int) -> Tensor:
        squeezed = self._convolve(maps, number)
        wide = [self._convolve(squeezed, number + 1), self._convolve(squeezed, number + 2, padding=1)]
        return torch.cat(wide, dim=1)

    def _convolve(self, maps: Tensor, number: int, *, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = (
            torch.from_numpy(self.weights[f"squeezenet0_conv{number}_{kind}"]) for kind in ("weight", "bias")
        )
        return functional.relu(functional.conv2d(maps, weight, bias, stride, padding))


def _pooled(maps: Tensor) -> Tensor:
    return functional.max_pool2d(maps, 3, 2, ceil_mode=True)


@torch.no_grad()
def teacher_probabilities(classifier: SqueezeNet, paths: Sequence[Path], config: Preprocessing) -> NDArray[np.float16]:
    """(n, classes): the classifier's distribution over its classes for each whole picture."""
    files = PictureFiles(paths, config)
    batches = (files.batch(start, start + BATCH).numpy() for start in range(0, len(files), BATCH))
    return np.concatenate([classifier(batch).softmax(dim=1).numpy().astype(np.float16) for batch in batches])


@torch.no_grad()
def sentence_vectors(tower: TextTower, ids: Sequence[Sequence[int]]) -> Tensor:
    """N texts -> (n, hidden) unit vectors of the untrained sentence encoder."""
    order = np.argsort([len(row) for row in ids], kind="stable")
    batches = (order[start : start + 64] for start in range(0, len(order), 64))
    device = device_of(tower)
    rows = [tower.sentence(padded([ids[n] for n in batch], tower.pad_id).to(device)).cpu() for batch in batches]
    vectors = torch.cat(rows)
    return functional.normalize(vectors[torch.from_numpy(np.argsort(order))], dim=-1)


def softened(positives: Tensor, similarity: Tensor, *, share: float, temperature: float) -> Tensor:
    """Gives `share` of each row's weight to pictures whose captions say nearly the same.

    positives and similarity: (texts, pictures), the second from a sentence encoder. After the soft targets of
    Gao et al. 2022 (SoftCLIP, arXiv:2303.17561, section 3.2).
    """
    rows = positives / positives.sum(dim=1, keepdim=True)
    return (1 - share) * rows + share * (similarity / temperature).softmax(dim=1)


def imitation(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence from the rows of `targets`, distributions, to softmax(scores).

    Distillation of a classifier (Hinton et al. 2015, arXiv:1503.02531, section 2).
    """
    return functional.kl_div(scores.log_softmax(dim=1), targets, reduction="batchmean")
