"""What was measured turned into a table for a terminal and a page of HTML."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from sightline.errors import SightlineError
from sightline.evaluate.intervals import paired_difference
from sightline.evaluate.judgements import Judgements
from sightline.evaluate.run import Measured, Miss
from sightline.images.thumbnail import thumbnail
from sightline.text import printable, size, table

_MAIN = {
    "text_to_image": ("recall@1", "recall@5", "recall@10", "mrr"),
    "image_to_text": ("recall@1", "recall@5", "recall@10"),
    "classification": ("top1", "top5"),
    "image_to_image": ("precision@10", "map"),
}
_STYLE = (Path(__file__).parent / "report.css").read_text("utf-8")
_SIDE = 240


def terminal(models: Sequence[Measured], judgements: Judgements) -> str:
    """One table for each task, a row for each model, percent with half the width of the 95 % interval."""
    pictures, queries = len(judgements.images), len(judgements.queries)
    parts = [f"{judgements.name}: {pictures:,} pictures, {queries:,} queries"]
    if judgements.missing:
        parts[0] += f", {judgements.missing:,} pictures of the table are missing"
    for task, header, rows in _tables(models):
        parts.append(f"{task}\n" + table([header, *rows], right=frozenset(range(1, len(header)))))
    parts.append(table([_COSTS, *map(_costs, models)], right=frozenset(range(1, len(_COSTS)))))
    parts += comparisons(models)
    return "\n\n".join(parts)


def comparisons(models: Sequence[Measured]) -> list[str]:
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


def html(models: Sequence[Measured], judgements: Judgements) -> str:
    """A self-contained page: the tables, then for each model the queries that went worst."""
    body = [f"<h1>{escape(judgements.name)}</h1>"]
    body.append(f"<p>{len(judgements.images):,} pictures, {len(judgements.queries):,} queries</p>")
    for task, header, rows in _tables(models):
        body.append(f"<h2>{escape(task)}</h2>{_html_table(header, rows)}")
    body.append(f"<h2>cost</h2>{_html_table(list(_COSTS), [_costs(model) for model in models])}")
    body += [f"<p>{escape(sentence)}</p>" for sentence in comparisons(models)]
    for model in models:
        if model.worst:
            body.append(f"<h2>where {escape(model.name)} went wrong</h2>" + "\n".join(map(_miss, model.worst)))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(judgements.name)}</title>\n<style>{_STYLE}</style>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


_COSTS = ["model", "dim", "size", "memory", "pictures/s", "ms per text"]


def _costs(model: Measured) -> list[str]:
    return [
        model.name,
        str(model.dim),
        size(model.size_bytes) if model.size_bytes else "-",
        size(model.memory_bytes) if model.memory_bytes is not None else "-",
        f"{model.images_per_s:.0f}" if model.images_per_s else "-",
        f"{model.ms_per_text:.1f}" if model.ms_per_text else "-",
    ]


def _tables(models: Sequence[Measured]) -> list[tuple[str, list[str], list[list[str]]]]:
    tables = []
    for task, metrics in _MAIN.items():
        with_task = [model for model in models if task in model.tasks]
        if with_task:
            rows = [[model.name, *_cells(model, task, metrics)] for model in with_task]
            tables.append((task.replace("_", " "), ["model", *metrics], rows))
    return tables


def _cells(model: Measured, task: str, metrics: Sequence[str]) -> list[str]:
    found = model.tasks[task].estimates()
    return [f"{100 * found[name].mean:.1f} ± {50 * (found[name].high - found[name].low):.1f}" for name in metrics]


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _miss(miss: Miss) -> str:
    returned = "".join(_figure(path, "") for path in miss.returned)
    expected = "".join(_figure(path, "right") for path in miss.expected)
    return (
        f"<section><h3>{escape(printable(miss.query))}</h3><p>the right picture came at rank {miss.rank:,}</p>"
        f"<div class=row>{returned}<span>instead of</span>{expected}</div></section>"
    )


def _figure(path: Path, kind: str) -> str:
    try:
        data = base64.b64encode(thumbnail(path.read_bytes(), _SIDE)).decode()
    except (OSError, SightlineError):
        return f"<figure class='{kind}'>{escape(path.name)}</figure>"
    return f"<img class='{kind}' src='data:image/webp;base64,{data}' alt='{escape(path.name)}'>"
