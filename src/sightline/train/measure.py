"""Recall at k of a model, and the best mixture of its start and what was trained that forgets no more than allowed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.train.model import TwoTowers, device_of, padded
from sightline.train.pictures import Pictures

BATCH = 64
CUTS = (1, 5, 10)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
RECALL = "text_to_image@10"
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Measured:
    """A set made ready once: its pictures, the ids of its texts, and for each of these the place of its picture."""

    pictures: Pictures
    ids: Sequence[Sequence[int]]
    owners: NDArray[np.int64]


def recall(model: TwoTowers, measured: Measured) -> dict[str, float]:
    """Recall at 1, 5, 10, of 1: `text_to_image@k` over texts; `image_to_text@k` over pictures, any own text counts."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        pictures, texts = image_vectors(model, measured.pictures), text_vectors(model, measured.ids)
    model.train(was_training)
    return recall_of(texts @ pictures.T, torch.from_numpy(measured.owners))


def recall_of(scores: Tensor, owners: Tensor) -> dict[str, float]:
    """The same from scores (texts, pictures). Of equal scores half count as better, as if shuffled."""

    def better(scores: Tensor, reference: Tensor) -> Tensor:
        return (scores > reference).float() + 0.5 * (scores == reference).float()

    own = scores[torch.arange(len(owners)), owners]
    rank_of_picture = better(scores, own[:, None]).sum(dim=1) - 0.5  # the picture itself is equal to itself
    best = torch.full((scores.shape[1],), -torch.inf).scatter_reduce(0, owners, own, "amax")
    is_other = owners[:, None] != torch.arange(scores.shape[1])
    rank_of_text = (better(scores, best) * is_other).sum(dim=0)
    found = {f"text_to_image@{k}": float((rank_of_picture < k).float().mean()) for k in CUTS}
    return found | {f"image_to_text@{k}": float((rank_of_text < k).float().mean()) for k in CUTS}


def image_vectors(model: TwoTowers, pictures: Pictures) -> Tensor:
    """N pictures -> (n, dim), in batches."""
    device = device_of(model.image)
    batches = (pictures.batch(start, start + BATCH) for start in range(0, len(pictures), BATCH))
    return torch.cat([model.finish(batch.to(device)).cpu() for batch in batches])


def text_vectors(model: TwoTowers, ids: Sequence[Sequence[int]]) -> Tensor:
    """N texts -> (n, dim), in batches of like length, since padding to the longest of all doubles the cost."""
    order = np.argsort([len(row) for row in ids], kind="stable")
    batches = (order[start : start + BATCH] for start in range(0, len(order), BATCH))
    device, pad_id = device_of(model.text), model.pad_id
    vectors = torch.cat([model.text(padded([ids[n] for n in batch], pad_id).to(device)).cpu() for batch in batches])
    return vectors[torch.from_numpy(np.argsort(order))]


@dataclass(frozen=True, slots=True)
class Point:
    """One mixture: `share` of the fine-tuned weights, and its recall@10 on both sets, of 1."""

    share: float
    in_domain: float
    general: float


def mixture(start: Weights, tuned: Weights, share: float) -> dict[str, Tensor]:
    """Weight-space interpolation (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903, equation 2)."""
    return {
        name: start[name].lerp(value, share) if value.is_floating_point() else value  # a batch norm counts its steps
        for name, value in tuned.items()
    }


def best(points: Sequence[Point], *, largest_loss: float) -> Point | None:
    """The point best in domain among those that lose at most `largest_loss` of the start's general recall.

    None when only the start itself remains, or when nothing beats it: then there is nothing worth exporting.
    """
    origin = points[0]
    kept = [point for point in points if origin.general - point.general <= largest_loss]
    chosen = max([origin, *kept], key=lambda point: (point.in_domain, -point.share))
    return None if chosen.share == origin.share else chosen
