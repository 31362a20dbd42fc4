"""Makes the bundled model `mini` from published parts: python -m recipes.mini.make --base FOLDER."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from recipes.mini.published import bert_state, fit_image_head, mobilenet_state
from recipes.mini.teacher import SqueezeNet, sentence_vectors, teacher_probabilities
from recipes.mini.vocabulary import prune
from tokenizers import Tokenizer
from torch import Tensor

from sightline.errors import UsageError
from sightline.train.batches import TrainingSet
from sightline.train.config import Settings, read_settings
from sightline.train.mini import MiniStart, MiniTowers, Shape, documents_of
from sightline.train.model import Say, Start, choose_device
from sightline.train.prepare import lines
from sightline.train.run import Outcome, Progress, train


@dataclass(slots=True)
class MiniRecipe:
    """A new model of MobileNetV2 and MiniLM, with SqueezeNet and MiniLM itself as teachers."""

    made: MiniStart | None = None

    def start(self, settings: Settings, base: Path, texts: Sequence[str]) -> MiniStart:
        """Published weights, with a vocabulary for `texts`."""
        start = settings.start
        torch.manual_seed(settings.seed)
        used = [*texts, *(line for file in start.vocabulary_texts for line in lines(base / file))]
        tokenizer, kept = prune(Tokenizer.from_file(str(base / start.tokenizer)), used, size=start.vocabulary_size)
        shape = Shape(image_size=start.image_size, vocabulary_size=len(kept))
        model = MiniTowers(shape, settings.optimiser.dropout)
        model.image.load_state_dict(mobilenet_state(base / start.image_weights), strict=False)
        state = bert_state(base / start.text_weights, kept, context_length=shape.context_length)
        model.text.load_state_dict(state | {"projection.weight": torch.eye(shape.dim, shape.hidden)})
        model.to(choose_device(settings.device))
        self.made = MiniStart(model, documents_of(shape, tokenizer.to_str()), settings)
        return self.made

    def teacher_probabilities(
        self, settings: Settings, base: Path, paths: Sequence[Path]
    ) -> NDArray[np.float16] | None:
        """(n, 1000): what SqueezeNet takes each picture for."""
        config = self._made().documents.preprocessing
        return teacher_probabilities(SqueezeNet(np.load(base / settings.teacher.classifier)), paths, config)

    def sentences(self, start: Start, ids: Sequence[Sequence[int]]) -> Tensor:
        """(n, hidden): MiniLM's unit vectors of texts."""
        return sentence_vectors(self._made().model.text.eval(), ids)

    def begin(self, start: Start, first: TrainingSet, say: Say) -> None:
        """The image head begins as the regression onto the sentence vectors."""
        say("fitting the image head to the sentence vectors")
        fit_image_head(self._made().model, first)

    def _made(self) -> MiniStart:
        if self.made is None:
            raise UsageError("the recipe was not started: call `start` first")
        return self.made


def make(config: Path, base: Path, *, output: str | None = None, steps: int | None = None) -> Outcome:
    """Trains and exports as the configuration says; `output` and `steps` stand in place of its own."""
    settings = read_settings(config)
    settings = replace(settings, output=output or settings.output)
    if steps is not None:
        settings = replace(settings, optimiser=replace(settings.optimiser, steps=steps))
    return train(settings, base, listen=_tell, recipe=MiniRecipe())


def _tell(progress: Progress) -> None:
    if progress.note:
        print(progress.note, flush=True)
    elif progress.recalls:
        recalls = ", ".join(f"{name} {found['text_to_image@10']:.3f}" for name, found in progress.recalls.items())
        print(f"step {progress.step} of {progress.steps}: recall@10 {recalls}", flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("mini.toml"))
    parser.add_argument("--base", type=Path, default=Path(), help="the folder that its paths start from")
    parser.add_argument("--output", help="the folder of the model, in place of the file's")
    parser.add_argument("--steps", type=int, help="the number of steps, in place of the file's")
    options = parser.parse_args()
    outcome = make(options.config, options.base, output=options.output, steps=options.steps)
    print(f"made {outcome.folder}")


if __name__ == "__main__":
    main()
