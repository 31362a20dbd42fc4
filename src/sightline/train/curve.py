"""Draw the history of a training run: the loss above, the recall of each measured set below."""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)
NAME = "training.png"
RECALL = "text_to_image@10"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by everyone
INK, FAINT, RULE = "#222222", "#8a8a8a", "#e3e3e3"
NEAREST_LABELS = 0.09  # of the height: labels closer than this would overlap
SMOOTH_PARTS = 20  # the running mean spans this part of the run
History = Sequence[Mapping[str, Any]]


def draw(history: History, path: Path, *, exported: Mapping[str, Mapping[str, float]] | None = None) -> None:
    """Writes the picture to `path`, replacing the one before; without matplotlib it says so and does nothing.

    `history` has an entry for each step: its number, its loss (None before the first), its recalls by set, often
    none. `exported` are the recalls of the model that was kept, marked at the end. Safe beside other users of
    matplotlib: it touches no state that they share.
    """
    if find_spec("matplotlib") is None:
        log.warning("%s is not drawn: matplotlib is not installed (pip install 'sightline[train]')", path)
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    measured = [entry for entry in history if entry["recalls"]]
    engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, hspace=0.04)  # of inches; of the figure's height
    figure = Figure(figsize=(9, 6.4 if measured else 3.6), dpi=120, facecolor="white", layout=engine)
    canvas: Any = FigureCanvasAgg(figure)  # its types leave print_png out
    panels = figure.subplots(2 if measured else 1, 1, sharex=True, squeeze=False)[:, 0]
    steps, losses = _series((entry["step"], entry["loss"]) for entry in history)
    width = max(1, len(losses) // SMOOTH_PARTS)
    sums, last = np.concatenate([[0.0], np.cumsum(losses)]), np.arange(1, len(losses) + 1)
    first = np.maximum(last - width, 0)  # the mean of each value and those before it
    panels[0].plot(steps, losses, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    panels[0].plot(steps, (sums[last] - sums[first]) / (last - first), color=COLOURS[0], linewidth=1.8)
    panels[0].set_title("Loss" + (f"   (mean of {width} steps, faint: each step)" if width > 1 else ""), **_TITLE)
    if measured:
        _recalls(panels[1], measured, exported or {})
    panels[-1].set_xlabel("step", color=INK)
    for panel in panels:  # light rules, no box, no ticks: the lines are what is to be seen
        panel.grid(axis="y", color=RULE, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(colors=FAINT, length=0, labelsize=9)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
        panel.spines["bottom"].set_color(RULE)
    try:
        with replacing(path) as part:
            canvas.print_png(part)
    except OSError as error:  # a disk that is full costs the picture, never the run
        log.warning("%s cannot be written (%s): the training goes on without it", path, error)


def _recalls(panel: "Axes", measured: History, exported: Mapping[str, Mapping[str, float]]) -> None:
    labels = []
    for name, colour in zip(measured[-1]["recalls"], cycle(COLOURS), strict=False):
        pairs = ((entry["step"], entry["recalls"].get(name, {}).get(RECALL)) for entry in measured)
        steps, values = _series(pairs)
        panel.plot(steps, 100 * values, color=colour, linewidth=1.8, marker="o", markersize=4)
        last = 100 * values[-1]
        if name in exported:
            last = 100 * exported[name][RECALL]
            panel.plot(steps[-1], last, "D", markersize=8, markerfacecolor="white", markeredgecolor=colour, zorder=5)
        labels.append((last, f"{name}  {last:.1f}", colour))
    note = "   (diamond: the model that was kept)" if exported else ""
    panel.set_title("Recall at 10, finding a picture by its text, %" + note, **_TITLE)
    # each line's name and last value stand to its right, moved apart where they would overlap
    panel.margins(y=0.12)
    low, high = panel.get_ylim()
    lowest = -np.inf
    for value, text, colour in sorted(labels):
        at = max(value, lowest + NEAREST_LABELS * (high - low))
        place = (1.015, (at - low) / (high - low))  # of the panel's width and height
        panel.annotate(text, place, xycoords="axes fraction", color=colour, va="center", fontsize=10)
        lowest = at
    panel.set_ylim(low, high)


def _series(pairs: Any) -> tuple[Any, Any]:
    """The pairs that have a value, as two arrays (n,)."""
    known = [(step, value) for step, value in pairs if value is not None]
    steps, values = zip(*known, strict=True) if known else ((), ())
    return np.array(steps), np.array(values, float)


_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 11, "color": INK, "pad": 8}
