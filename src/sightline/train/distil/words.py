"""A text tower and a teacher's vectors of pictures -> texts that lie near the pictures they are right for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sightline.errors import TrainingError
from sightline.train.distil.imitate import nearness
from sightline.train.distil.settings import WordSettings
from sightline.train.distil.texts import Places, Texts
from sightline.train.mini import TextTower
from sightline.train.model import padded

SCALE = 20.0
LARGEST_SCALE = 60.0
BATCH = 128
TOGETHER = 16
EVERY = 100


@dataclass(slots=True)
class WordTraining:
    """What both halves of the training of a text tower share. `targets` (n, dim) are the teacher's vectors."""

    tower: TextTower
    settings: WordSettings
    texts: Texts
    ids: Sequence[Sequence[int]]
    targets: Tensor
    seed: int
    say: Callable[[str], None]
    log_scale: nn.Parameter

    def train_head(self) -> None:
        """The linear map alone, on what the tower as it is makes of every text."""
        options = self.settings
        sentences = self._sentences()
        projection = self.tower.projection
        parameters = [projection.weight, self.log_scale]
        groups = [{"params": parameters, "peak": options.head_rate, "weight_decay": 0.0}]
        with torch.no_grad():  # least squares begin: from sentences to their pictures' vectors
            numbers, places = self.texts.draw(20_000, np.random.default_rng((self.seed, 3)))
            square = sentences[numbers].T @ sentences[numbers]
            square += torch.eye(len(square)) * square.diagonal().mean() * 0.1
            answer = torch.linalg.solve(square, sentences[numbers].T @ self.targets[places])
            projection.weight.copy_(answer.T * 4)

        def vectors(numbers: Places) -> Tensor:
            return functional.normalize(projection(sentences[torch.from_numpy(numbers)]), dim=-1)

        self._steps("head", options.head_steps, options.head_batch_size, groups, vectors)

    def train_tower(self) -> None:
        """Everything, and the token table if the settings say so."""
        options = self.settings
        tables = {"words.weight"} if not options.trains_words else set()
        inner = [v for n, v in self.tower.named_parameters() if n not in tables and not n.startswith("projection")]
        groups = [
            {"params": inner, "peak": options.rate, "weight_decay": options.weight_decay},
            {"params": [self.tower.projection.weight, self.log_scale], "peak": options.head_rate / 10},
        ]

        def vectors(numbers: Places) -> Tensor:
            """Texts of like length together: with all padded to the longest a step takes four times as long."""
            order = np.argsort([len(self.ids[number]) for number in numbers], kind="stable")
            parts = [
                self.tower(padded([self.ids[number] for number in numbers[few]], self.tower.pad_id))
                for few in np.array_split(order, -(-len(order) // TOGETHER))
            ]
            return torch.cat(parts)[torch.from_numpy(np.argsort(order))]

        self._steps("text tower", options.steps, options.batch_size, groups, vectors)

    def _steps(
        self, name: str, steps: int, size: int, groups: list[dict[str, object]], vectors: Callable[[Places], Tensor]
    ) -> None:
        """Steps of a cosine schedule; the averaged weights are put in at the end."""
        options = self.settings
        optimiser = torch.optim.AdamW(groups)
        moving: list[Tensor] = [value for group in optimiser.param_groups for value in group["params"]]
        average = [value.detach().clone() for value in moving]
        self.tower.train()
        total = 0.0
        for step in range(steps):
            share = min((step + 1) / max(1, options.warm_up_steps), 0.5 * (1 + float(np.cos(np.pi * step / steps))))
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * share
            chance = np.random.default_rng((self.seed, 4, step))
            numbers, places = self.texts.draw(size, chance)
            loss = self._loss(vectors(numbers), numbers, places, chance)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of the {name} is {loss.item()} in step {step}: lower the rates of [words]"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(moving, 1.0)
            optimiser.step()
            decay = min(options.average_decay, (step + 1) / (step + 10))
            with torch.no_grad():
                for kept, value in zip(average, moving, strict=True):
                    kept.lerp_(value, 1 - decay)
                self.log_scale.clamp_(max=float(np.log(LARGEST_SCALE)))
            total += float(loss.detach())
            if (step + 1) % EVERY == 0 or step + 1 == steps:
                self.say(f"{name}: step {step + 1:,} of {steps:,}, loss {total / (step % EVERY + 1):.3f}")
                total = 0.0
        with torch.no_grad():
            for kept, value in zip(average, moving, strict=True):
                value.copy_(kept)
        self.tower.eval()

    def _loss(self, vectors: Tensor, numbers: Places, places: Places, chance: np.random.Generator) -> Tensor:
        """Each text (n) told from its own picture, those of the batch and many others; each picture from the texts."""
        options = self.settings
        count = min(options.others, len(self.targets))
        others = chance.choice(len(self.targets), count, replace=False)
        columns = np.concatenate([places, others])
        own, rest = self.targets[places], self.targets[others]
        is_right = torch.from_numpy(self._right(numbers, columns))
        scores = vectors @ torch.cat([own, rest]).T * self.log_scale.exp()  # (n, dim) @ (dim, n + m) -> (n, n + m)
        is_own = torch.eye(len(numbers), len(columns), dtype=torch.bool)
        to_pictures = scores.masked_fill(is_right & ~is_own, -torch.inf).log_softmax(dim=1).diagonal()
        square = is_right[:, : len(numbers)].float()
        shares = square / square.sum(dim=0, keepdim=True)
        to_texts = (shares * scores[:, : len(numbers)].log_softmax(dim=0)).sum(dim=0)
        loss = -(to_pictures.mean() + to_texts.mean()) / 2
        if options.soft_weight:
            loss = loss + options.soft_weight * nearness(vectors, own, rest, options.soft_temperature)
        return loss

    def _right(self, numbers: Places, columns: Places) -> NDArray[np.bool_]:
        """(n, columns): whether each text is right for the picture in each column."""
        marked = np.zeros(len(self.targets), np.bool_)
        found = np.empty((len(numbers), len(columns)), np.bool_)
        for row, number in enumerate(numbers):
            marked[self.texts.right[number]] = True
            found[row] = marked[columns]
            marked[self.texts.right[number]] = False
        return found

    @torch.no_grad()
    def _sentences(self) -> Tensor:
        self.tower.eval()
        return in_batches(self.tower.sentence, self.ids, self.tower.pad_id, self.say)


def word_training(
    tower: TextTower,
    settings: WordSettings,
    texts: Texts,
    ids: Sequence[Sequence[int]],
    targets: Tensor,
    *,
    seed: int,
    say: Callable[[str], None],
) -> WordTraining:
    """The start of a training; the tower gets a new linear map into the teacher's space."""
    tower.projection = nn.Linear(tower.projection.in_features, targets.shape[1], bias=False)
    scale = nn.Parameter(torch.tensor(SCALE).log())
    return WordTraining(tower, settings, texts, ids, targets, seed, say, scale)


@torch.no_grad()
def text_vectors(tower: TextTower, ids: Sequence[Sequence[int]]) -> Tensor:
    """N texts -> (n, dim), rows of norm 1."""
    return in_batches(tower.eval(), ids, tower.pad_id, lambda note: None)


def in_batches(
    function: Callable[[Tensor], Tensor], ids: Sequence[Sequence[int]], pad_id: int, say: Callable[[str], None]
) -> Tensor:
    """Texts of like length together, since padding to the longest of all doubles the cost."""
    order = np.argsort([len(row) for row in ids], kind="stable")
    rows = []
    for start in range(0, len(order), BATCH):
        rows.append(function(padded([ids[n] for n in order[start : start + BATCH]], pad_id)))
        if start % (BATCH * 64) == 0:
            say(f"{start:,} of {len(order):,} texts encoded")
    return torch.cat(rows)[torch.from_numpy(np.argsort(order))]
