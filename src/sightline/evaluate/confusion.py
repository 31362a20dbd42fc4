"""Measure classification without training on class folders: its accuracy, and which classes are confused."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.analysis.classify import label_vectors, probabilities
from sightline.encoders.base import Encoder
from sightline.errors import UsageError
from sightline.evaluate import metrics
from sightline.evaluate.judgements import load
from sightline.evaluate.metrics import Interval, bootstrap
from sightline.evaluate.vectors import image_vectors
from sightline.pages import render


@dataclass(frozen=True, slots=True)
class Confusion:
    """`counts[i, j]` pictures of class i were taken for class j: shape (classes, classes).

    `unreadable` more could not be read.
    """

    model: str
    classes: Sequence[str]
    counts: NDArray[np.int64]
    top1: Interval
    top5: Interval
    unreadable: int = 0

    @property
    def mistakes(self) -> list[tuple[str, str, int]]:
        """What is taken for what, and how often, the most frequent first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
        pairs = np.stack(np.unravel_index(order, wrong.shape), axis=1).tolist()
        return [(self.classes[true], self.classes[taken], int(wrong[true, taken])) for true, taken in pairs]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "pictures": int(self.counts.sum()),
            "unreadable": self.unreadable,
            **{name: [found.mean, found.low, found.high] for name, found in (("top1", self.top1), ("top5", self.top5))},
            "classes": list(self.classes),
            "confusion": self.counts.tolist(),
        }


def confusion(encoder: Encoder, folder: Path, cache: Path, templates: Sequence[str]) -> Confusion:
    """Classify the pictures of class folders by the folders' names; vectors come from the cache where it has them."""
    judged = load(folder)
    if not judged.is_classes:
        raise UsageError(f"{folder} has no class folders, expected one folder for each class")
    found = image_vectors(encoder, judged.images, cache)
    labels = judged.pairs[np.argsort(judged.pairs[:, 1], kind="stable"), 0][list(found.positions)]
    shares = probabilities(found.vectors, label_vectors(judged.queries, encoder, templates), encoder)
    counts = np.zeros((len(judged.queries), len(judged.queries)), np.int64)
    np.add.at(counts, (labels, shares.argmax(axis=1)), 1)
    top1, top5 = (bootstrap(metrics.top_accuracy(shares, labels, k)) for k in (1, 5))
    return Confusion(encoder.name, judged.queries, counts, top1, top5, len(judged.images) - len(found.positions))


def html(confusion: Confusion, title: str) -> str:
    """A page: the accuracy, the matrix as a picture of shares, the most frequent mistakes.

    Rows are what the pictures show, columns what they were taken for; darker is a larger share of the row.
    """
    top1, top5 = (
        f"{100 * found.mean:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"
        for found in (confusion.top1, confusion.top5)
    )
    counts, classes = confusion.counts, confusion.classes
    totals = counts.sum(axis=1)
    cells = [
        {
            "row": row,
            "column": column,
            "kind": "right" if row == column else "wrong",
            "opacity": f"{max(counts[row, column] / totals[row], 0.08):.2f}",
            "title": f"{classes[row]}: {counts[row, column]} of {totals[row]} taken for {classes[column]}",
        }
        for row, column in np.argwhere(counts > 0).tolist()
    ]
    margin = 0.62 * max(map(len, classes)) + 1
    return render(
        "confusion.html",
        title=title,
        facts=f"{int(counts.sum()):,} pictures, {len(classes)} classes, model {confusion.model}: the right class first "
        f"in {top1}, among the first five in {top5}",
        classes=classes,
        cells=cells,
        margin=round(margin, 1),
        side=round(len(classes) + margin + 0.2, 1),
        mistakes=confusion.mistakes[:20],
    )
