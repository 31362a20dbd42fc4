"""A training run: from the settings to a model folder and a JSON that says how it came about, resumed after a kill."""

import copy
import ctypes
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sightline.encoders.hub import Hub
from sightline.errors import TrainingError, UsageError
from sightline.train import checkpoint, clip, curve, measure, mini
from sightline.train.config import DataSettings, Settings
from sightline.train.data import KEYWORD_TEMPLATES, Captioned, PictureSet, keywords, read_set
from sightline.train.loop import Anchors, Lesson, Trainer, TrainingSet, trainer
from sightline.train.measure import Measured, Point, recall
from sightline.train.model import MOST_CALIBRATION, Say, Start, TwoTowers
from sightline.train.pictures import without_unreadable

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


class StartRecipe(Lesson, Protocol):
    """The making of a model from other parts than a start of the settings: recipes/mini is one."""

    def start(self, settings: Settings, base: Path, texts: Sequence[str]) -> Start[TwoTowers]:
        """The model before training; `texts` are all that it will learn from."""

    def begin(self, sets: Sequence[PictureSet], sources: Sequence[TrainingSet], say: Say) -> None:
        """Called once, before the anchors are taken."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run needs before its first step."""

    start: Start[TwoTowers]
    sources: Sequence[TrainingSet]
    anchors: Anchors
    measures: Sequence[tuple[str, Measured]]
    general: Measured | None
    calibration: Sequence[Path]
    dropped: dict[str, dict[str, int]]
    lesson: Lesson | None = None

    @property
    def model(self) -> TwoTowers:
        """The model in training."""
        return self.start.model


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
    for share in measure.SHARES:
        model = _with(prepared.model, measure.mixture(start, tuned, share))
        found = [recall(model, measured)[measure.RECALL] for measured in (prepared.measures[0][1], prepared.general)]
        points.append(Point(share, *found))
    limit = runner.settings.largest_general_loss
    point = measure.best(points, largest_loss=limit)
    if point is None and may_forget:
        point = max(points, key=lambda one: one.in_domain)
    if point is None:
        path = ", ".join(f"{one.share:.2f}: {one.in_domain:.3f} and {one.general:.3f}" for one in points)
        raise TrainingError(
            f"no mixture of start and tuned weights gains without losing more than {limit} in general "
            f"(share of tuned: recall@10 in domain and in general: {path}): expected a gain; "
            "train with lower rates, or export anyway with --may-forget"
        )
    return measure.mixture(start, tuned, point.share), points, point.share


def _with(model: TwoTowers, state: measure.Weights) -> TwoTowers:
    """A second model with these weights, so that measuring leaves the one in training alone."""
    twin: TwoTowers = copy.deepcopy(model)
    twin.load_state_dict(dict(state))
    return twin.eval()


def _recalls(model: TwoTowers, prepared: Prepared) -> Recalls:
    general = [] if prepared.general is None else [("general", prepared.general)]
    return {name: recall(model, measured) for name, measured in [*prepared.measures, *general]}


def prepare(
    settings: Settings, base: Path, say: Say, hub: Hub | None = None, recipe: StartRecipe | None = None
) -> Prepared:
    """Reads data and start weights; `say` is told what is being done, since some of it takes minutes."""
    if not settings.data:
        raise UsageError(
            "there is nothing to train on: expected at least one [[data]] table; add it to the configuration"
        )
    if recipe is None and not settings.start.model:
        raise UsageError(
            "start.model is empty, which only the recipe of a new bundled model reads: name a model, or run "
            "`python -m recipes.mini.make` in a clone of the repository"
        )
    start: Start[TwoTowers]
    sets = [without_unreadable(read_set(data, base)) for data in settings.data]
    if recipe is not None:
        start = recipe.start(settings, base, [text for one in sets for pair in one.pictures for text in pair.texts])
    elif clip.is_clip(settings.start.model, base):
        start = clip.open_start(settings, base, hub)
    else:
        start = mini.open_start(settings, base)
    sources = [_training_set(start, data, one, say) for data, one in zip(settings.data, sets, strict=True)]
    if recipe is not None:
        recipe.begin(sets, sources, say)
    ids = start.ids([line for file in settings.teacher.anchor_texts for line in lines(base / file)])
    with torch.no_grad():  # where the anchors are before training
        vectors = measure.text_vectors(start.model.eval(), ids) if ids else torch.zeros(0, start.model.dim)
    return Prepared(
        start=start,
        sources=sources,
        anchors=Anchors(ids, vectors),
        measures=[(_name(data), _measured(start, data, base, say)) for data in settings.measure],
        general=_measured(start, settings.general, base, say) if settings.general else None,
        calibration=[
            picture.path for one in sets for picture in one.pictures[:: max(1, len(one.pictures) // MOST_CALIBRATION)]
        ],
        dropped={one.name: dict(one.dropped) for one in sets},
        lesson=recipe,
    )


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _name(data: DataSettings) -> str:
    return data.name or data.table or data.images


def _training_set(start: Start[TwoTowers], data: DataSettings, found: PictureSet, say: Say) -> TrainingSet:
    texts, settings = [picture.texts for picture in found.pictures], start.settings
    words = keywords(texts) if data.keyword_share else None
    said = {word for own in words.own for word in own} if words else ()
    if data.kind == "folders":  # every template means the class; a caption means its words
        groups = [[some[0].lower()] * len(some) for some in texts]
    else:
        groups = [[text.lower() for text in some] for some in texts]
    share = data.share / sum(one.share for one in settings.data)
    return TrainingSet(
        pictures=start.training_pictures(data, [picture.path for picture in found.pictures], found.name, say),
        ids=_ids(start, found.pictures),
        positive_groups=groups,
        per_step=max(1, round(settings.optimiser.batch_size * share)),
        keywords=words,
        keyword_ids={word: start.ids([form.format(word) for form in KEYWORD_TEMPLATES]) for word in said},
        keyword_share=data.keyword_share,
    )


def _measured(start: Start[TwoTowers], data: DataSettings, base: Path, say: Say) -> Measured:
    pictures = without_unreadable(read_set(data, base, is_held_out=data.hold_out_percent > 0)).pictures
    say(f"{_name(data)}: {len(pictures):,} pictures to measure on")
    shown = start.measuring_pictures([picture.path for picture in pictures])
    owners = np.repeat(np.arange(len(pictures)), [len(picture.texts) for picture in pictures])
    return Measured(shown, [row for rows in _ids(start, pictures) for row in rows], owners)


def _ids(start: Start[TwoTowers], pictures: Sequence[Captioned]) -> list[list[list[int]]]:
    rows = iter(start.ids([text for picture in pictures for text in picture.texts]))
    return [[next(rows) for _ in picture.texts] for picture in pictures]


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
