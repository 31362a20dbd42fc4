"""The losses of training: each is a function of a matrix of scores between texts and pictures."""

import torch
from torch import Tensor
from torch.nn import functional


def contrastive(scores: Tensor, positives: Tensor) -> Tensor:
    """Symmetric InfoNCE with several positives, the loss of CLIP (arXiv:2103.00020, figure 3).

    scores and positives: (texts, pictures); positives need not be 0 or 1, only their proportions count: each row is
    scaled to a distribution over pictures, each column to one over texts (van den Oord et al. 2018,
    arXiv:1807.03748, equation 4; several positives as in SupCon, arXiv:2004.11362, equation 2).
    """
    to_pictures = _cross_entropy(scores, positives)
    to_texts = _cross_entropy(scores.T, positives.T)
    return (to_pictures + to_texts) / 2


def sigmoid(scores: Tensor, positives: Tensor) -> Tensor:
    """The pairwise loss of SigLIP (Zhai et al. 2023, arXiv:2303.15343, equation 1) for scores that include the bias.

    scores and positives: (texts, pictures); positives above 0 count as pairs.
    """
    signs = torch.where(positives > 0, 1.0, -1.0)
    return -functional.logsigmoid(signs * scores).sum() / len(scores)


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


def drift(vectors: Tensor, anchors: Tensor) -> Tensor:
    """Mean of 1 - cosine between unit vectors (n, dim) and where they should stay."""
    return (1 - (vectors * anchors).sum(dim=1)).mean()


def _cross_entropy(scores: Tensor, positives: Tensor) -> Tensor:
    targets = positives / positives.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return -(targets * scores.log_softmax(dim=1)).sum(dim=1).mean()
