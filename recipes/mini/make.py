"""Makes the bundled model `mini` from published parts: python -m recipes.mini.make --base FOLDER."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from recipes.mini.published import bert_state, fit_image_head, mobilenet_state
from recipes.mini.teacher import SqueezeNet, imitation, sentence_vectors, softened, teacher_probabilities
from recipes.mini.vocabulary import prune
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from sightline.train.config import Settings, read_document, record
from sightline.train.data import PictureSet
from sightline.train.loop import Batch, TrainingSet
from sightline.train.measure import text_vectors
from sightline.train.mini import MiniTowers, Shape, start_of
from sightline.train.model import Say, Start, choose_device
from sightline.train.run import Outcome, Progress, lines, train

CLASS_TEMPLATE = "a photo of a {}"
CLASSES_EVERY_STEPS = 150


@dataclass(frozen=True, slots=True)
class PartsSettings:
    """The table [parts] of the configuration: published weights, and two teachers, a classifier and MiniLM itself."""

    image_weights: str
    text_weights: str
    tokenizer: str
    image_size: int = 256
    vocabulary_size: int = 19000
    vocabulary_texts: tuple[str, ...] = ()
    """Files of texts, one per line, whose words keep their own tokens."""
    classifier: str = ""
    class_names: str = ""
    classifier_weight: float = 0.0
    soft_share: float = 0.0
    """Of each text's weight that goes to pictures whose captions say nearly the same."""
    soft_temperature: float = 0.07


@dataclass(slots=True)
class MiniRecipe:
    """A new model of MobileNetV2 and MiniLM, with SqueezeNet and MiniLM itself as teachers."""

    parts: PartsSettings
    base: Path
    made: Start[MiniTowers] = field(init=False)
    model: MiniTowers = field(init=False)
    probabilities: list[NDArray[np.float16]] = field(default_factory=list)
    """Of each set (n, classes): what the classifier takes each picture for."""
    sentences: list[list[Tensor]] = field(default_factory=list)
    """Of each set, per picture (texts, hidden): MiniLM's unit vectors of its texts."""
    classes: Tensor | None = None

    def start(self, settings: Settings, base: Path, texts: Sequence[str]) -> Start[MiniTowers]:
        """Published weights, with a vocabulary for `texts`."""
        parts = self.parts
        torch.manual_seed(settings.seed)
        used = [*texts, *(line for file in parts.vocabulary_texts for line in lines(base / file))]
        tokenizer, kept = prune(Tokenizer.from_file(str(base / parts.tokenizer)), used, size=parts.vocabulary_size)
        shape = Shape(image_size=parts.image_size, vocabulary_size=len(kept))
        model = MiniTowers(shape, settings.optimiser.dropout)
        model.image.load_state_dict(mobilenet_state(base / parts.image_weights), strict=False)
        state = bert_state(base / parts.text_weights, kept, context_length=shape.context_length)
        model.text.load_state_dict(state | {"projection.weight": torch.eye(shape.dim, shape.hidden)})
        self.model = model.to(choose_device(settings.device))
        self.made = start_of(model, tokenizer.to_str(), settings)
        return self.made

    def begin(self, sets: Sequence[PictureSet], sources: Sequence[TrainingSet], say: Say) -> None:
        """What the teachers say; the image head begins as the regression onto the sentence vectors."""
        for one, source in zip(sets, sources, strict=True):
            if self.parts.classifier_weight:
                say(f"asking the classifier about {len(one.pictures):,} pictures")
                classifier = SqueezeNet(np.load(self.base / self.parts.classifier))
                paths = [picture.path for picture in one.pictures]
                self.probabilities.append(teacher_probabilities(classifier, paths, self.made.documents.preprocessing))
            flat = [row for rows in source.ids for row in rows]
            say(f"sentence vectors of {len(flat):,} texts")
            vectors = sentence_vectors(self.model.text.eval(), flat)
            self.sentences.append(list(vectors.split([len(rows) for rows in source.ids])))
        say("fitting the image head to the sentence vectors")
        fit_image_head(self.model, sources[0].pictures, self.sentences[0])

    def positives(self, batch: Batch) -> Tensor:
        """Softened by how near each text is to the mean of each picture's texts, but for keywords."""
        if not self.parts.soft_share:
            return batch.positives
        chosen = torch.stack([self.sentences[source][place][number] for source, place, number in batch.texts])
        means = [self.sentences[n][place].mean(dim=0) for n, places in enumerate(batch.places) for place in places]
        similarity = chosen @ functional.normalize(torch.stack(means), dim=-1).T  # -> (texts, pictures)
        share, temperature = self.parts.soft_share, self.parts.soft_temperature
        soft = softened(batch.positives, similarity, share=share, temperature=temperature)
        is_sentence = torch.tensor([number >= 0 for *_, number in batch.texts])
        return torch.where(is_sentence[:, None], soft, batch.positives)

    def loss(self, batch: Batch, pictures: Tensor, scale: Tensor, step: int) -> Tensor:
        """The classes that the classifier sees in each picture, told by the words for them."""
        if not self.parts.classifier_weight:
            return torch.zeros(())
        if self.classes is None or step % CLASSES_EVERY_STEPS == 0:
            names = [CLASS_TEMPLATE.format(name) for name in lines(self.base / self.parts.class_names)]
            with torch.no_grad():
                self.classes = text_vectors(self.model.eval(), self.made.ids(names)).to(pictures.device)
            self.model.train()
        seen = np.concatenate([self.probabilities[n][places] for n, places in enumerate(batch.places)])
        targets = torch.from_numpy(seen).float().to(pictures.device)
        return self.parts.classifier_weight * imitation(pictures @ self.classes.T * scale, targets)


def make(config: Path, base: Path, *, output: str | None = None, steps: int | None = None) -> Outcome:
    """Trains and exports as the configuration says; `output` and `steps` stand in place of its own."""
    document = read_document(config)
    parts: PartsSettings = record(PartsSettings, document.pop("parts"), "parts.")
    settings: Settings = record(Settings, document | {"start": {"model": ""}})
    settings = replace(settings, output=output or settings.output)
    if steps is not None:
        settings = replace(settings, optimiser=replace(settings.optimiser, steps=steps))
    return train(settings, base, listen=_tell, recipe=MiniRecipe(parts, base))


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
