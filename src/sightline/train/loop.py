"""The training loop: batches, steps and losses, the same for the same settings and data, resumed or not."""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sightline.errors import TrainingError
from sightline.train.config import Mode, OptimiserSettings, Settings
from sightline.train.data import Keywords
from sightline.train.model import TwoTowers, device_of, padded
from sightline.train.pictures import Pictures

Ids = Sequence[int]
TEXT_PARTS = 3
State = dict[str, Any]
MOVES: dict[Mode, Callable[[str, str], bool]] = {
    "whole": lambda name, adapter: True,
    "image_frozen": lambda name, adapter: not name.startswith("image."),
    "text_frozen": lambda name, adapter: not name.startswith("text."),
    "query_adapter": lambda name, adapter: name in (adapter, "log_scale", "bias"),
}


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """One set made ready to train on. Lists run over its pictures, inner lists over the texts of one picture."""

    pictures: Pictures
    ids: Sequence[Sequence[Ids]]
    positive_groups: Sequence[Sequence[str]]
    """Texts of the same meaning are right for each other's pictures: the lower-cased text, or the class."""
    per_step: int
    keywords: Keywords | None = None
    keyword_ids: Mapping[str, Sequence[Ids]] = field(default_factory=dict)
    """For every keyword the ids of the phrases that it appears in."""
    keyword_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts and pictures of one step; `positives[t, p]` is 1 where text t fits picture p."""

    pictures: Sequence[Tensor]
    ids: Sequence[Ids]
    positives: Tensor
    places: Sequence[NDArray[np.int64]]
    """For each source the places of its pictures."""
    texts: Sequence[tuple[int, int, int]]
    """Of each text: number of the source, place of the picture, and number of the text, -1 for a keyword."""


class Lesson(Protocol):
    """What a model learns from besides its pairs; recipes/mini has one."""

    def positives(self, batch: Batch) -> Tensor:
        """(texts, pictures): in place of the batch's own."""

    def loss(self, batch: Batch, pictures: Tensor, scale: Tensor, step: int) -> Tensor:
        """Added to the loss of the pairs; `pictures` are the vectors of the batch's pictures."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """What keeps the text side general: texts with the vectors that they should keep."""

    ids: Sequence[Sequence[int]]
    vectors: Tensor


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
    lesson: Lesson | None = None
    step: int = 0
    ahead: "Future[Batch] | None" = None
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def advance(self) -> float:
        """One step. Gives its loss; raises `TrainingError` when that is not a number."""
        options = self.settings.optimiser
        torch.manual_seed(hash((self.settings.seed, self.step)) % 2**31)  # dropout
        self.model.train()
        batch = self._batch(self.step) if self.ahead is None else self.ahead.result()
        is_last = self.step + 1 >= options.steps
        self.ahead = None if is_last else self.pool.submit(self._batch, self.step + 1)  # made meanwhile
        loss = self._loss(batch)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.step} is {loss.item()}: expected a number; lower the rates, "
                "the last good checkpoint is kept"
            )
        self._move(loss, options)
        self.step += 1
        decay = min(options.average_decay, (1 + self.step) / (10 + self.step))  # a young average forgets its start
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name].copy_(value)  # a batch norm counts its steps
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
        }

    def load(self, state: State) -> None:
        """Continues where `state` was taken."""
        device = device_of(self.model.text)
        self.model.load_state_dict(state["model"])
        self.average = {name: value.to(device) for name, value in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.ahead = state["step"], None

    def guess_bias(self) -> None:
        """Sets the bias so that on the first batch the sigmoid agrees with the softmax that the model was trained with.

        A score x of n pictures has the log odds x - log sum exp(x) against the other n - 1.
        """
        with torch.no_grad():
            scores, _ = self._scores(self._batch(0))
            self.model.bias.fill_(-float(scores.logsumexp(dim=1).mean()))

    def _batch(self, step: int) -> Batch:
        options = self.settings.optimiser
        return draw(self.sources, step, seed=self.settings.seed, texts_per_picture=options.texts_per_picture)

    def _loss(self, batch: Batch) -> Tensor:
        settings, teacher = self.settings, self.settings.teacher
        scores, pictures = self._scores(batch)
        positives = batch.positives if self.lesson is None else self.lesson.positives(batch)
        if settings.loss == "sigmoid":
            loss = sigmoid(scores + self.model.bias, batch.positives.to(scores.device))
        else:
            loss = contrastive(scores, positives.to(scores.device))
        if self.lesson is not None:
            loss = loss + self.lesson.loss(batch, pictures, self._scale(), self.step)
        if teacher.anchor_weight:
            rng = np.random.default_rng((settings.seed, self.step, 1))
            picks = rng.integers(0, len(self.anchors.ids), teacher.anchors_per_step)
            texts = self._texts([self.anchors.ids[pick] for pick in picks])
            loss = loss + teacher.anchor_weight * drift(texts, self.anchors.vectors[picks].to(texts.device))
        return loss

    def _scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores (texts, pictures) and the pictures' vectors."""
        texts = self._texts(batch.ids)
        with self._half(texts.device, when=self.model.casts_pictures or texts.is_cuda):
            pictures = torch.cat([self.model.finish(some.to(texts.device)) for some in batch.pictures])
        return texts @ pictures.T * self._scale(), pictures  # (texts, dim) @ (dim, pictures) -> (texts, pictures)

    def _scale(self) -> Tensor:
        return self.model.log_scale.exp().clamp(max=self.model.largest_scale)

    def _half(self, device: torch.device, *, when: bool = True) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=when and self.settings.optimiser.is_half_precision)

    def _texts(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(n, dim), computed in parts of like length."""
        order = np.argsort([len(row) for row in ids], kind="stable")
        device, pad_id = device_of(self.model.text), self.model.pad_id
        with self._half(device):
            parts = [
                self.model.text(padded([ids[n] for n in part], pad_id).to(device))
                for part in np.array_split(order, min(TEXT_PARTS, len(order)))
            ]
        return torch.cat(parts).float()[torch.from_numpy(np.argsort(order))]

    def _move(self, loss: Tensor, options: OptimiserSettings) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        factor = schedule(self.step, options)
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimiser.step()
        # Weight decay towards the start instead of zero: what was learnt before is the better guess. L2-SP (Li et al.
        # 2018, arXiv:1802.01483, equation 3), decoupled from the gradient as in AdamW.
        places = iter(self.start)
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                parameter.detach().lerp_(next(places), group["lr"] * options.l2_to_start)


def trainer(
    model: TwoTowers, settings: Settings, sources: Sequence[TrainingSet], anchors: Anchors, lesson: Lesson | None = None
) -> Trainer:
    """A run before its first step."""

    def fresh() -> Trainer:
        groups = parameter_groups(model, settings)
        optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
        start = [parameter.detach().clone() for group in groups for parameter in group["params"]]
        average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return Trainer(model, settings, sources, anchors, average, optimiser, start, lesson)

    if settings.loss == "sigmoid" and not model.has_bias:
        fresh().guess_bias()
    return fresh()


def draw(sources: Sequence[TrainingSet], step: int, *, seed: int, texts_per_picture: int = 1) -> Batch:
    """The batch of a step: every source gives its `per_step` pictures, each with some of its texts.

    These are the next pictures of a shuffled pass over the source; each pass has its own order.
    """
    rng = np.random.default_rng((seed, step))
    pictures, places, ids, texts, positives = [], [], [], [], []
    for number, source in enumerate(sources):
        count, wanted = len(source.ids), min(source.per_step, len(source.ids))
        order = np.random.default_rng((seed + 1000 * (number + 1), step // (count // wanted))).permutation(count)
        start = step % (count // wanted) * wanted
        here = order[start : start + wanted]
        places.append(here)
        pictures.append(source.pictures.augmented(here, rng))
        chosen = [(int(at), int(n)) for at in here for n in rng.permutation(len(source.ids[at]))[:texts_per_picture]]
        words = _words_instead(source, [at for at, _ in chosen], rng)
        ids += [words[n][1] if n in words else source.ids[at][which] for n, (at, which) in enumerate(chosen)]
        texts += [(number, at, -1 if n in words else which) for n, (at, which) in enumerate(chosen)]
        positives.append(_positives(source, here, chosen, {n: word for n, (word, _) in words.items()}))
    return Batch(pictures, ids, torch.block_diag(*positives), places, texts)


def _words_instead(source: TrainingSet, places: Sequence[int], rng: np.random.Generator) -> dict[int, tuple[str, Ids]]:
    """By position in `places`: a keyword in place of the picture's text, and the ids of a phrase with it."""
    words = {}
    for position, place in enumerate(places):
        own = source.keywords.own[place] if source.keywords else ()
        if own and rng.random() < source.keyword_share:
            word = own[int(rng.integers(len(own)))]
            phrases = source.keyword_ids[word]
            words[position] = word, phrases[int(rng.integers(len(phrases)))]
    return words


def _positives(
    source: TrainingSet, places: NDArray[np.int64], texts: Sequence[tuple[int, int]], words: Mapping[int, str]
) -> Tensor:
    """(texts, pictures) of one source: 1 for the text's own picture and for those that share its meaning or keyword."""
    groups = [source.positive_groups[at][which] for at, which in texts]
    said: dict[int, set[str]] = {int(at): set() for at in places}
    for (at, _), group in zip(texts, groups, strict=True):
        said[at].add(group)
    positives = np.array([[group in said[at] for at in said] for group in groups], np.float32)
    if source.keywords is not None:
        for position, word in words.items():
            positives[position] = [word in source.keywords.any[at] for at in said]
    return torch.from_numpy(positives)


def parameter_groups(model: TwoTowers, settings: Settings) -> list[dict[str, Any]]:
    """What moves in each mode, with its peak rate."""
    options = settings.optimiser
    rates = {
        "head": options.head_rate,
        "adapter": options.head_rate if settings.mode == "query_adapter" else None,
        "text": options.text_rate,
        "words": options.text_rate if options.trains_words else None,
        "image": options.image_rate,
    }
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = rates.get(model.rate_group(name))
        moves = rate is not None and MOVES[settings.mode](name, model.adapter)
        parameter.requires_grad_(moves)
        if moves and rate is not None:
            groups.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "lr": rate, "peak": rate} for rate, parameters in groups.items()]


def schedule(step: int, options: OptimiserSettings) -> float:
    """Linear warm-up, then half a cosine down to 2 % (Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5)."""
    warm = min(1.0, (step + 1) / max(1, options.warm_up_steps))
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / options.steps))))


def contrastive(scores: Tensor, positives: Tensor) -> Tensor:
    """Symmetric InfoNCE with several positives, the loss of CLIP (arXiv:2103.00020, figure 3).

    scores and positives: (texts, pictures); positives need not be 0 or 1, only their proportions count: each row is
    scaled to a distribution over pictures, each column to one over texts (van den Oord et al. 2018,
    arXiv:1807.03748, equation 4; several positives as in SupCon, arXiv:2004.11362, equation 2).
    """

    def cross_entropy(scores: Tensor, positives: Tensor) -> Tensor:
        targets = positives / positives.sum(dim=1, keepdim=True).clamp(min=1e-12)
        return -(targets * scores.log_softmax(dim=1)).sum(dim=1).mean()

    return (cross_entropy(scores, positives) + cross_entropy(scores.T, positives.T)) / 2


def sigmoid(scores: Tensor, positives: Tensor) -> Tensor:
    """The pairwise loss of SigLIP (Zhai et al. 2023, arXiv:2303.15343, equation 1) for scores that include the bias.

    scores and positives: (texts, pictures); positives above 0 count as pairs.
    """
    signs = torch.where(positives > 0, 1.0, -1.0)
    return -functional.logsigmoid(signs * scores).sum() / len(scores)


def drift(vectors: Tensor, anchors: Tensor) -> Tensor:
    """Mean of 1 - cosine between unit vectors (n, dim) and where they should stay."""
    return (1 - (vectors * anchors).sum(dim=1)).mean()
