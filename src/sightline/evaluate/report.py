"""Report what was measured: as tables in a terminal, and as pages of HTML with the worst queries and confusions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import SightlineError
from sightline.evaluate.judgements import Judgements
from sightline.evaluate.metrics import paired_difference
from sightline.evaluate.run import Confusion, Miss, ModelResult
from sightline.pages import render
from sightline.results import embedded
from sightline.text import count, printable, size, table

_MAIN = {
    "text_to_image": ("recall@1", "recall@5", "recall@10", "mrr"),
    "image_to_text": ("recall@1", "recall@5", "recall@10"),
    "classification": ("top1", "top5"),
    "image_to_image": ("precision@10", "map"),
}
_COSTS = ["model", "dim", "size", "memory", "pictures/s", "ms per text"]
_SIDE = 240  # pixels of a thumbnail


def terminal(models: Sequence[ModelResult], judgements: Judgements) -> str:
    """One table for each task, a row for each model, percent with half the width of the 95 % interval."""
    pictures, queries = len(judgements.images), len(judgements.queries)
    parts = [f"{judgements.name}: {pictures:,} pictures, {queries:,} queries"]
    if judgements.missing:
        parts[0] += f", {judgements.missing:,} pictures of the table are missing"
    if judgements.left_out:
        parts[0] += f", left out: {count(judgements.left_out, 'file')} not named like a picture"
    for task, header, rows in _tables(models):
        parts.append(f"{task}\n" + table([header, *rows], right=frozenset(range(1, len(header)))))
    parts.append(table([_COSTS, *map(_costs, models)], right=frozenset(range(1, len(_COSTS)))))
    parts += comparisons(models)
    return "\n\n".join(parts)


def comparisons(models: Sequence[ModelResult]) -> list[str]:
    """Whether the first model is better than each other one on text to image, with the paired difference."""
    sentences = []
    for other in models[1:]:
        if "text_to_image" not in models[0].tasks or "text_to_image" not in other.tasks:
            continue
        ours, theirs = models[0].tasks["text_to_image"], other.tasks["text_to_image"]
        if len(ours.groups) != len(theirs.groups):
            continue
        change = paired_difference(ours.values["recall@10"], theirs.values["recall@10"], ours.groups)
        verdict = ("better" if change.mean > 0 else "worse") if change.is_clear else "not clearly different"
        interval = f"95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f}"
        spread = f"{100 * change.mean:+.1f} points of recall@10, {interval}"
        sentences.append(f"{models[0].name} against {other.name}: {verdict} ({spread})")
    return sentences


def html(models: Sequence[ModelResult], judgements: Judgements) -> str:
    """A self-contained page: the tables, then for each model the queries that went worst."""
    return render(
        "report.html",
        title=judgements.name,
        facts=f"{len(judgements.images):,} pictures, {len(judgements.queries):,} queries",
        tables=[*_tables(models), ("cost", _COSTS, [_costs(model) for model in models])],
        comparisons=comparisons(models),
        worst=[(model.name, [_miss(miss) for miss in model.worst]) for model in models if model.worst],
    )


def confusion_html(confusion: Confusion, title: str) -> str:
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


def _costs(model: ModelResult) -> list[str]:
    return [
        model.name,
        str(model.dim),
        size(model.size_bytes) if model.size_bytes else "-",
        size(model.memory_bytes) if model.memory_bytes is not None else "-",
        f"{model.images_per_s:.0f}" if model.images_per_s else "-",
        f"{model.ms_per_text:.1f}" if model.ms_per_text else "-",
    ]


def _tables(models: Sequence[ModelResult]) -> list[tuple[str, list[str], list[list[str]]]]:
    tables = []
    for task, metrics in _MAIN.items():
        with_task = [model for model in models if task in model.tasks]
        if with_task:
            rows = [[model.name, *_cells(model, task, metrics)] for model in with_task]
            tables.append((task.replace("_", " "), ["model", *metrics], rows))
    return tables


def _cells(model: ModelResult, task: str, metrics: Sequence[str]) -> list[str]:
    found = model.tasks[task].estimates()
    return [f"{100 * found[name].mean:.1f} ± {50 * (found[name].high - found[name].low):.1f}" for name in metrics]


def _miss(miss: Miss) -> dict[str, Any]:
    return {
        "query": printable(miss.query),
        "rank": f"{miss.rank:,}",
        "returned": [_picture(path) for path in miss.returned],
        "expected": [_picture(path) for path in miss.expected],
    }


def _picture(path: Path) -> dict[str, str | None]:
    try:
        source = embedded(path.read_bytes(), _SIDE)
    except (OSError, SightlineError):
        source = None
    return {"name": path.name, "source": source}
