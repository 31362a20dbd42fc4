"""The steps in which a student's picture tower learns to give the teacher's vectors, through kills and stops."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.errors import TrainingError
from sightline.train.distil.pictures import PixelFile, glimpse
from sightline.train.distil.settings import PictureSettings
from sightline.train.distil.student import Student
from sightline.train.model import device_of

Batch = tuple[NDArray[np.int64], Tensor]


@dataclass(frozen=True, slots=True)
class Said:
    """The vectors (t, dim) of all texts; for each picture the numbers of its captions, and of all right ones."""

    vectors: Tensor
    captions: Sequence[NDArray[np.int64]]
    right: Sequence[NDArray[np.int64]]
    scale: float


@dataclass(slots=True)
class Imitation:
    """Everything that changes while a picture tower learns. The same settings and step give the same, resumed or not.

    `targets` (n, dim) are the teacher's vectors of the pictures in `pixels`, in their order.
    """

    student: Student
    settings: PictureSettings
    pixels: PixelFile
    targets: Tensor
    seed: int
    optimiser: torch.optim.Optimizer
    average: dict[str, Tensor]
    said: Said | None = None
    step: int = 0
    ahead: "Future[Batch] | None" = None
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def advance(self) -> float:
        """One step. Gives its loss; raises `TrainingError` when that is no number."""
        options = self.settings
        places, pictures = self._batch(self.step) if self.ahead is None else self.ahead.result()
        self.ahead = self.pool.submit(self._batch, self.step + 1)
        self.student.train()
        device = device_of(self.student)
        vectors = self.student(pictures.to(device))
        wanted = self.targets[torch.from_numpy(places)]
        loss = 2 * (1 - (vectors * wanted).sum(dim=1).mean())  # the squared distance of unit vectors
        if options.neighbours_weight:
            others = self.targets[self._others(len(self.targets))]
            temperature = options.neighbours_temperature
            loss = loss + options.neighbours_weight * nearness(vectors, wanted, others, temperature)
        if self.said is not None and options.texts_weight:
            chance = np.random.default_rng((self.seed, 3, self.step))
            loss = loss + options.texts_weight * contrast(vectors, places, self.said, options.texts, chance)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.step} is {loss.item()}: expected a number; lower the rates, "
                "the last good checkpoint is kept"
            )
        self._move(loss)
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "step": self.step,
            "student": self.student.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        device = device_of(self.student)
        self.average = {name: value.to(device) for name, value in state["average"].items()}
        self.step, self.ahead = state["step"], None

    def _batch(self, step: int) -> Batch:
        """Every picture once in each round, in an order of the round's own."""
        options, count = self.settings, len(self.pixels)
        size = min(options.batch_size, count)
        per_round = count // size
        order = np.random.default_rng((self.seed, step // per_round)).permutation(count)
        places = order[step % per_round * size :][:size]
        chance = np.random.default_rng((self.seed, 1, step))
        seen = [
            glimpse(
                self.pixels.picture(int(place)),
                options.side,
                smallest_crop=options.smallest_crop,
                blurred_share=options.blurred_share,
                chance=chance,
            )
            for place in places
        ]
        return places, torch.cat(seen).contiguous(memory_format=torch.channels_last)

    def _others(self, count: int) -> Tensor:
        chance = np.random.default_rng((self.seed, 2, self.step))
        return torch.from_numpy(chance.choice(count, min(self.settings.neighbours, count), replace=False))

    def _move(self, loss: Tensor) -> None:
        options = self.settings
        share = min(1.0, (self.step + 1) / max(1, options.warm_up_steps))
        share = min(share, (options.steps - self.step) / max(1, options.decay_steps))
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * share
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), options.clip_norm)
        self.optimiser.step()
        decay = min(options.average_decay, (self.step + 1) / (self.step + 10))  # young averages forget the start
        with torch.no_grad():
            for name, value in self.student.named_parameters():
                self.average[name].lerp_(value, 1 - decay)


def imitation(
    student: Student,
    settings: PictureSettings,
    pixels: PixelFile,
    targets: Tensor,
    seed: int,
    said: Said | None = None,
) -> Imitation:
    """The start of a run."""
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    student.freeze(settings.frozen_stages, trains_depthwise=settings.trains_depthwise)
    heads = {id(value) for value in student.heads()}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for value in student.parameters():
        groups.setdefault((id(value) in heads, value.ndim > 1), []).append(value)
    optimiser = torch.optim.AdamW(
        [
            {
                "params": values,
                "peak": settings.head_rate if is_head else settings.rate,
                "weight_decay": settings.weight_decay if is_matrix else 0.0,
            }
            for (is_head, is_matrix), values in groups.items()
        ],
        lr=settings.rate,
    )
    average = {name: value.detach().clone() for name, value in student.named_parameters()}
    return Imitation(student, settings, pixels, targets.to(device_of(student)), seed, optimiser, average, said)


def nearness(vectors: Tensor, wanted: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between how near the teacher (n, dim) and the student (n, dim) see `others` (m, dim) and itself.

    The similarities to many pictures at once, as distributions (SEED, Fang et al. 2021, arXiv:2101.04731, equation 4).
    """
    bank = torch.cat([wanted, others])
    targets = (wanted @ bank.T / temperature).softmax(dim=1)  # (n, dim) @ (dim, n + m) -> (n, n + m)
    return -(targets * (vectors @ bank.T / temperature).log_softmax(dim=1)).sum(dim=1).mean()


def contrast(vectors: Tensor, places: NDArray[np.int64], said: Said, count: int, chance: np.random.Generator) -> Tensor:
    """Cross-entropy in both directions between pictures (n, dim) and one text of each, beside `count` other texts.

    Other texts and pictures that are right too are left out. Pictures of which nothing is said do not count.
    """
    rows = [row for row, place in enumerate(places) if len(said.captions[place])]
    if len(rows) < 2:
        return vectors.sum() * 0
    numbers = [int(chance.choice(said.captions[places[row]])) for row in rows]
    columns = np.concatenate([numbers, chance.integers(len(said.vectors), size=count)])
    is_right = torch.from_numpy(np.stack([np.isin(columns, said.right[places[row]]) for row in rows])).to(
        vectors.device
    )
    texts = said.vectors[torch.from_numpy(columns)].to(vectors)
    scores = vectors[rows] @ texts.T * said.scale  # (r, dim) @ (dim, r + count) -> (r, r + count)
    scores = scores.masked_fill(is_right & ~torch.eye(*scores.shape, dtype=torch.bool).to(scores.device), -torch.inf)
    square = scores[:, : len(rows)]
    return -(scores.log_softmax(dim=1).diagonal().mean() + square.log_softmax(dim=0).diagonal().mean()) / 2
