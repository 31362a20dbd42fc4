"""A training run: from the settings to a model folder and a JSON that says how it came about, resumed after a kill."""

import copy
import ctypes
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.encoders.hub import Hub
from sightline.errors import TrainingError
from sightline.train import checkpoint, curve
from sightline.train.config import Settings
from sightline.train.loop import Trainer, trainer
from sightline.train.measure import RECALL, SHARES, Point, Weights, best, mixture, recall
from sightline.train.model import TwoTowers
from sightline.train.prepare import Prepared, StartRecipe, prepare

RECORD = "training.json"
Recalls = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run tells while it works: either `note`, or a step with its loss, sometimes with fresh measurements."""

    note: str = ""
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    remaining_s: float = 0.0
    recalls: Recalls = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. `points` is the path from start to tuned weights, empty for a new model."""

    folder: Path
    recalls: Recalls
    points: tuple[Point, ...]
    share: float


Listener = Callable[[Progress], None]


def train(
    settings: Settings,
    base: Path,
    *,
    listen: Listener = lambda progress: None,
    may_forget: bool = False,
    hub: Hub | None = None,
    recipe: StartRecipe | None = None,
) -> Outcome:
    """Trains as `settings` say (paths relative to `base`) and exports into `settings.output`.

    An unfinished run in that folder goes on from its last checkpoint. Raises `TrainingError` when the loss is no
    number, when the unfinished run had other settings, when the start weights or the device cannot be had, or when the
    general recall would fall by more than `largest_general_loss` and `may_forget` is not given.
    """
    keep_freed_memory()
    folder = base / settings.output
    document = asdict(settings)
    unfinished = checkpoint.load(folder, document)  # before the minutes of preparation
    prepared = prepare(settings, base, lambda note: listen(Progress(note=note)), hub, recipe)
    start = {name: value.clone() for name, value in prepared.model.state_dict().items()}
    runner = trainer(prepared.model, settings, prepared.sources, prepared.anchors, prepared.lesson)
    history: list[dict[str, Any]] = []
    if unfinished is not None:
        runner.load(unfinished["trainer"])
        history = list(unfinished["history"])
    _run(runner, prepared, history, folder, listen)
    state, points, share = _choose(runner, prepared, start, may_forget=may_forget)
    final = _with(prepared.model, state)
    recalls = _recalls(final, prepared) if points else dict(history[-1]["recalls"])
    curve.draw(history, folder / curve.NAME, exported=recalls)
    prepared.start.write(final, folder, settings.precision, prepared.calibration)
    record = {
        "settings": document,
        "recalls": recalls,
        "path": [asdict(point) for point in points],
        "share_of_tuned_weights": share,
        "dropped": prepared.dropped,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "history": history,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / checkpoint.NAME).unlink(missing_ok=True)
    return Outcome(folder, recalls, tuple(points), share)


def _run(runner: Trainer, prepared: Prepared, history: list[dict[str, Any]], folder: Path, listen: Listener) -> None:
    """All steps that are left, with measurements and checkpoints on the way; both ends are measured too."""
    settings, steps = runner.settings, runner.settings.optimiser.steps
    document, began, first = asdict(settings), time.monotonic(), runner.step
    if not history:
        history.append({"step": 0, "loss": None, "recalls": _recalls(prepared.model, prepared)})
        listen(Progress(steps=steps, recalls=history[0]["recalls"]))
    while runner.step < steps:
        loss = runner.advance()
        is_last = runner.step == steps
        recalls: Recalls = {}
        if runner.step % settings.evaluate_every_steps == 0 or is_last:
            recalls = _recalls(_with(prepared.model, runner.averaged()), prepared)
        history.append({"step": runner.step, "loss": loss, "recalls": recalls})
        if recalls:
            curve.draw(history, folder / curve.NAME)
        remaining_s = (time.monotonic() - began) / (runner.step - first) * (steps - runner.step)
        listen(Progress(step=runner.step, steps=steps, loss=loss, remaining_s=remaining_s, recalls=recalls))
        if runner.step % settings.checkpoint_every_steps == 0 or is_last:
            state = {"trainer": runner.state(), "history": history, "model": prepared.start.description}
            checkpoint.save(folder, state, document)


def _choose(
    runner: Trainer, prepared: Prepared, start: dict[str, Tensor], *, may_forget: bool
) -> tuple[dict[str, Tensor], list[Point], float]:
    """The tuned weights, or on the way to them the best that does not forget the general set."""
    tuned = runner.averaged()
    if prepared.general is None or not prepared.measures:
        return tuned, [], 1.0
    points = []
    for share in SHARES:
        model = _with(prepared.model, mixture(start, tuned, share))
        found = [recall(model, measured)[RECALL] for measured in (prepared.measures[0][1], prepared.general)]
        points.append(Point(share, *found))
    limit = runner.settings.largest_general_loss
    point = best(points, largest_loss=limit)
    if point is None and may_forget:
        point = max(points, key=lambda one: one.in_domain)
    if point is None:
        path = ", ".join(f"{one.share:.2f}: {one.in_domain:.3f} and {one.general:.3f}" for one in points)
        raise TrainingError(
            f"no mixture of start and tuned weights gains without losing more than {limit} in general "
            f"(share of tuned: recall@10 in domain and in general: {path}): expected a gain; "
            "train with lower rates, or export anyway with --may-forget"
        )
    return mixture(start, tuned, point.share), points, point.share


def _with(model: TwoTowers, state: Weights) -> TwoTowers:
    """A second model with these weights, so that measuring leaves the one in training alone."""
    twin: TwoTowers = copy.deepcopy(model)
    twin.load_state_dict(dict(state))
    return twin.eval()


def _recalls(model: TwoTowers, prepared: Prepared) -> Recalls:
    general = [] if prepared.general is None else [("general", prepared.general)]
    return {name: recall(model, measured) for name, measured in [*prepared.measures, *general]}


def keep_freed_memory() -> None:
    """Stops glibc from giving every big buffer back to the system at once, which costs a page fault per 4 KiB again.

    For the whole process and for good, so for programs whose work is training. Measured: the frozen blocks take 9 ms of
    CPU a picture instead of 43. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX of mallopt(3)
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
