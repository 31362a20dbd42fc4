"""A start and a fine-tuned state -> the best mixture of the two that forgets no more than allowed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
RECALL = "text_to_image@10"
Weights = Mapping[str, Tensor]


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


def path(
    start: Weights, tuned: Weights, recalls: Callable[[Weights], tuple[float, float]], shares: Sequence[float] = SHARES
) -> list[Point]:
    """The points between start and tuned; `recalls` measures a state in domain and in general."""
    return [Point(share, *recalls(mixture(start, tuned, share))) for share in shares]


def best(points: Sequence[Point], *, largest_loss: float) -> Point | None:
    """The point best in domain among those that lose at most `largest_loss` of the start's general recall.

    None when only the start itself remains, or when nothing beats it: then there is nothing worth exporting.
    """
    origin = points[0]
    kept = [point for point in points if origin.general - point.general <= largest_loss]
    chosen = max([origin, *kept], key=lambda point: (point.in_domain, -point.share))
    return None if chosen.share == origin.share else chosen
