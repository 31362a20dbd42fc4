"""Pictures sorted into class folders, classified without training: how many rightly, and what is taken for what."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.analysis.classify import label_vectors, probabilities
from sightline.encoders.base import Encoder
from sightline.errors import UsageError
from sightline.evaluate import metrics
from sightline.evaluate.intervals import Estimate, bootstrap
from sightline.evaluate.judgements import load
from sightline.evaluate.vectors import image_vectors

_STYLE = (Path(__file__).parent / "report.css").read_text("utf-8") + (
    Path(__file__).parent / "confusion.css"
).read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Confusion:
    """`counts[i, j]` pictures of class i were taken for class j: shape (classes, classes).

    `unreadable` more could not be read.
    """

    model: str
    classes: Sequence[str]
    counts: NDArray[np.int64]
    top1: Estimate
    top5: Estimate
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
        raise UsageError(f"{folder} is no folder of class folders, expected one folder for each class")
    found = image_vectors(encoder, judged.images, cache)
    labels = judged.pairs[np.argsort(judged.pairs[:, 1], kind="stable"), 0][list(found.positions)]
    chances = probabilities(found.vectors, label_vectors(judged.queries, encoder, templates), encoder)
    counts = np.zeros((len(judged.queries), len(judged.queries)), np.int64)
    np.add.at(counts, (labels, chances.argmax(axis=1)), 1)
    top1, top5 = (bootstrap(metrics.top_accuracy(chances, labels, k)) for k in (1, 5))
    return Confusion(encoder.name, judged.queries, counts, top1, top5, len(judged.images) - len(found.positions))


def html(confusion: Confusion, title: str) -> str:
    """A page: the accuracy, the matrix as a picture of shares, the most frequent mistakes."""
    top1, top5 = (
        f"{100 * found.mean:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"
        for found in (confusion.top1, confusion.top5)
    )
    rows = "".join(
        f"<tr><td>{escape(true)}</td><td>{escape(taken)}</td><td>{number}</td></tr>"
        for true, taken, number in confusion.mistakes[:20]
    )
    facts = f"{int(confusion.counts.sum()):,} pictures, {len(confusion.classes)} classes, model {confusion.model}"
    header = "<tr><th>is</th><th>taken for</th><th>times</th></tr>"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"<p>{escape(facts)}: "
        f"the right class first in {top1}, among the first five in {top5}</p>\n{_matrix(confusion)}\n"
        f"<h2>Most often taken for another</h2><table>{header}{rows}</table>"
        f"\n</body>\n</html>\n"
    )


def _matrix(confusion: Confusion) -> str:
    """Rows are what pictures show, columns what they were taken for; darker is a larger share of the row."""
    shares = confusion.counts / np.maximum(confusion.counts.sum(axis=1, keepdims=True), 1)
    size = len(confusion.classes)
    cells = "".join(
        f'<rect x="{column}" y="{row}" width="1" height="1" class="{"right" if row == column else "wrong"}" '
        f'fill-opacity="{max(shares[row, column], 0.08):.2f}"><title>{escape(confusion.classes[row])}: '
        f"{confusion.counts[row, column]} of {confusion.counts[row].sum()} taken for "
        f"{escape(confusion.classes[column])}</title></rect>"
        for row, column in np.argwhere(confusion.counts > 0).tolist()
    )
    names = "".join(
        f'<text x="-0.4" y="{row + 0.5}" text-anchor="end">{escape(name)}</text>'
        f'<text transform="translate({row + 0.5} -0.4) rotate(-90)">{escape(name)}</text>'
        for row, name in enumerate(confusion.classes)
    )
    margin = 0.62 * max(map(len, confusion.classes)) + 1
    side = size + margin + 0.2
    return (
        f'<figure class="confusion" style="--side: {side:.1f}"><svg viewBox="{-margin:.1f} {-margin:.1f} {side:.1f} '
        f'{side:.1f}" role="img" aria-label="what is taken for what">'
        f'<rect class="ground" width="{size}" height="{size}"/>{cells}{names}</svg>'
        f"<figcaption>Rows: what the pictures show. Columns: what they were taken for.</figcaption></figure>"
    )
