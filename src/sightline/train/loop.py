"""The training loop: one step at a time, the same for the same settings and data, resumed or not."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sightline.errors import TrainingError
from sightline.train import losses
from sightline.train.batches import Batch, TrainingSet, draw
from sightline.train.config import Mode, OptimiserSettings, Settings
from sightline.train.model import RateGroup, TwoTowers, device_of, padded

TEXT_PARTS = 3
State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Anchors:
    """What keeps the text side general: texts with the vectors they should keep, and the names of the classes."""

    ids: Sequence[Sequence[int]]
    vectors: Tensor
    class_names: Sequence[Sequence[int]]


@dataclass(slots=True)
class Trainer:
    """Everything that changes during a run. Same settings, data and step give the same weights, resumed or not."""

    model: TwoTowers
    settings: Settings
    sources: Sequence[TrainingSet]
    anchors: Anchors
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    start: Sequence[Tensor]
    step: int = 0
    names: Tensor | None = None
    ahead: "Future[Batch] | None" = None
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def advance(self) -> float:
        """One step. Gives its loss; raises `TrainingError` when that is not a number."""
        options = self.settings.optimiser
        torch.manual_seed(hash((self.settings.seed, self.step)) % 2**31)  # dropout
        self.model.train()
        if self.names is None or self.step % 150 == 0:
            self.names = self._class_vectors()
        loss = self._loss(self._next_batch(options))
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.step} is {loss.item()}: expected a number; lower the rates, "
                "the last good checkpoint is kept"
            )
        self._move(loss, options)
        self.step += 1
        self._average(options.average_decay)
        return float(loss.detach())

    def averaged(self) -> dict[str, Tensor]:
        """The state to measure and keep: the moving average, or the weights themselves without one."""
        return self.average if self.settings.optimiser.average_decay else self.model.state_dict()

    def state(self) -> State:
        """What a checkpoint holds."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "names": self.names,
        }

    def load(self, state: State) -> None:
        """Continues where `state` was taken."""
        device = device_of(self.model.text)
        self.model.load_state_dict(state["model"])
        self.average = {name: value.to(device) for name, value in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.names = state["step"], None if state["names"] is None else state["names"].to(device)
        self.ahead = None

    def guess_bias(self) -> None:
        """Sets the bias so that on the first batch the sigmoid agrees with the softmax that the model was trained with.

        A score x of n pictures has the log odds x - log sum exp(x) against the other n - 1.
        """
        with torch.no_grad():
            scores, _ = self._scores(self._batch(0))
            self.model.bias.fill_(-float(scores.logsumexp(dim=1).mean()))

    def _next_batch(self, options: OptimiserSettings) -> Batch:
        """The batch of this step; the one of the next is made meanwhile."""
        batch = self._batch(self.step) if self.ahead is None else self.ahead.result()
        is_last = self.step + 1 >= options.steps
        self.ahead = None if is_last else self.pool.submit(self._batch, self.step + 1)
        return batch

    def _batch(self, step: int) -> Batch:
        options = self.settings.optimiser
        return draw(self.sources, step, seed=self.settings.seed, texts_per_picture=options.texts_per_picture)

    def _loss(self, batch: Batch) -> Tensor:
        settings, teacher = self.settings, self.settings.teacher
        scores, pictures = self._scores(batch)
        positives = batch.positives
        if teacher.soft_share and batch.similarity is not None:
            share, temperature = teacher.soft_share, teacher.soft_temperature
            soft = losses.softened(positives, batch.similarity, share=share, temperature=temperature)
            positives = torch.where(batch.is_sentence[:, None], soft, positives)
        if settings.loss == "sigmoid":
            loss = losses.sigmoid(scores + self.model.bias, batch.positives.to(scores.device))
        else:
            loss = losses.contrastive(scores, positives.to(scores.device))
        if teacher.classifier_weight and batch.teacher_probabilities is not None and self.names is not None:
            named = pictures @ self.names.T * self._scale()
            loss = loss + teacher.classifier_weight * losses.imitation(
                named, batch.teacher_probabilities.to(scores.device)
            )
        return loss + self._drift() if teacher.anchor_weight else loss

    def _scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores (texts, pictures) and the pictures' vectors."""
        texts = self._texts(batch.ids)
        casts = self.model.casts_pictures or texts.is_cuda
        with self._half(texts.device, when=casts):
            pictures = torch.cat([self.model.image.finish(some.to(texts.device)) for some in batch.pictures])
        return texts @ pictures.T * self._scale(), pictures  # (texts, dim) @ (dim, pictures) -> (texts, pictures)

    def _scale(self) -> Tensor:
        return self.model.log_scale.exp().clamp(max=self.model.largest_scale)

    def _half(self, device: torch.device, *, when: bool = True) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=when and self.settings.optimiser.is_half_precision)

    def _drift(self) -> Tensor:
        teacher = self.settings.teacher
        rng = np.random.default_rng((self.settings.seed, self.step, 1))
        picks = rng.integers(0, len(self.anchors.ids), teacher.anchors_per_step)
        texts = self._texts([self.anchors.ids[pick] for pick in picks])
        return teacher.anchor_weight * losses.drift(
            texts, self.anchors.vectors[torch.from_numpy(picks)].to(texts.device)
        )

    def _texts(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(n, dim), computed in parts of like length."""
        order = np.argsort([len(row) for row in ids], kind="stable")
        device, pad_id = device_of(self.model.text), self.model.shape.pad_id
        with self._half(device):
            parts = [
                self.model.text(padded([ids[n] for n in part], pad_id).to(device))
                for part in np.array_split(order, min(TEXT_PARTS, len(order)))
            ]
        return torch.cat(parts).float()[torch.from_numpy(np.argsort(order))]

    def _class_vectors(self) -> Tensor | None:
        rows = self.anchors.class_names
        if not rows:
            return None
        self.model.eval()
        with torch.no_grad():
            vectors = torch.cat([self._texts(rows[start : start + 128]) for start in range(0, len(rows), 128)])
        self.model.train()
        return vectors

    def _move(self, loss: Tensor, options: OptimiserSettings) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        factor = schedule(self.step, options)
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimiser.step()
        self._pull_to_start(options.l2_to_start)

    def _pull_to_start(self, strength: float) -> None:
        """Weight decay towards the start instead of zero: what was learnt before is the better guess.

        L2-SP (Li et al. 2018, arXiv:1802.01483, equation 3), decoupled from the gradient as in AdamW.
        """
        places = iter(self.start)
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                parameter.detach().lerp_(next(places), group["lr"] * strength)

    def _average(self, decay: float) -> None:
        now = min(decay, (1 + self.step) / (10 + self.step))  # a young average forgets its start quickly
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - now)
            else:
                self.average[name].copy_(value)  # a batch norm counts its steps


def trainer(model: TwoTowers, settings: Settings, sources: Sequence[TrainingSet], anchors: Anchors) -> Trainer:
    """A run before its first step."""
    if settings.loss == "sigmoid" and not model.has_bias:
        _fresh(model, settings, sources, anchors).guess_bias()
    return _fresh(model, settings, sources, anchors)


def _fresh(model: TwoTowers, settings: Settings, sources: Sequence[TrainingSet], anchors: Anchors) -> Trainer:
    groups = parameter_groups(model, settings)
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    start = [parameter.detach().clone() for group in groups for parameter in group["params"]]
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return Trainer(model, settings, sources, anchors, average, optimiser, start)


def parameter_groups(model: TwoTowers, settings: Settings) -> list[dict[str, Any]]:
    """What moves in each mode, with its peak rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = _rate(model.rate_group(name), settings)
        moves = rate is not None and MOVES[settings.mode](name, model.adapter)
        parameter.requires_grad_(moves)
        if moves and rate is not None:
            groups.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "lr": rate, "peak": rate} for rate, parameters in groups.items()]


MOVES: dict[Mode, Callable[[str, str], bool]] = {
    "whole": lambda name, adapter: True,
    "image_frozen": lambda name, adapter: not name.startswith("image."),
    "text_frozen": lambda name, adapter: not name.startswith("text."),
    "query_adapter": lambda name, adapter: name in (adapter, "log_scale", "bias"),
}


def _rate(group: RateGroup, settings: Settings) -> float | None:
    options = settings.optimiser
    rates = {
        "head": options.head_rate,
        "adapter": options.head_rate if settings.mode == "query_adapter" else None,
        "text": options.text_rate,
        "words": options.text_rate if options.trains_words else None,
        "image": options.image_rate,
    }
    return rates.get(group)


def schedule(step: int, options: OptimiserSettings) -> float:
    """Linear warm-up, then half a cosine down to 2 % (Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5)."""
    warm = min(1.0, (step + 1) / max(1, options.warm_up_steps))
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / options.steps))))
