"""A configuration -> a small model that sees as a large one does, and a way to go on after a kill."""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import Preprocessing
from sightline.train import checkpoint
from sightline.train.config import DataSettings
from sightline.train.data import PictureSet, read_set
from sightline.train.device import choose_device
from sightline.train.distil.imitate import Imitation, imitation
from sightline.train.distil.pictures import PixelFile, pixel_file, resized
from sightline.train.distil.settings import DistilSettings
from sightline.train.distil.student import Student, open_student
from sightline.train.distil.teacher import Teacher, read_teacher
from sightline.train.distil.texts import names_of, texts_of
from sightline.train.distil.words import text_vectors, word_training
from sightline.train.measure import owners_of, recall_of
from sightline.train.memory import keep_freed_memory
from sightline.train.own.model import TextTower
from sightline.train.own.restore import restore
from sightline.train.own.text import token_ids
from sightline.train.start import BUNDLED

LOG = "distillation.jsonl"
WORDS = "words.pt"
BATCH = 50
Say = Callable[[str], None]
Recalls = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Measured:
    """A set that measures: its pixels, the teacher's vectors of them, and its texts as vectors with their pictures."""

    pixels: PixelFile
    wanted: Tensor
    texts: Tensor
    owners: Tensor


@dataclass(frozen=True, slots=True)
class Distillation:
    """What a run learns from and measures with."""

    settings: DistilSettings
    base: Path
    teacher: Teacher
    """All of it, the part that is learned from, and the names of what is not."""
    learned: Teacher
    apart: frozenset[str]
    say: Say

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return self.base / self.settings.output


def distillation(settings: DistilSettings, base: Path, say: Say) -> Distillation:
    """Reads the teacher's vectors and sees which pictures measure."""
    keep_freed_memory()
    torch.manual_seed(settings.seed)
    names = base / settings.teacher_names if settings.teacher_names else None
    teacher = read_teacher(base / settings.teacher_vectors, names)
    root = base / settings.images
    apart = {name for one in settings.measure for name in names_of(read_set(one, base), root)}
    for one in settings.data:
        if one.hold_out_percent:
            apart |= set(names_of(read_set(one, base, is_held_out=True), root))
    learned = teacher.only(set(teacher.names) - apart)
    say(f"{len(learned.names):,} pictures to learn from, {len(apart):,} kept apart")
    (base / settings.output).mkdir(parents=True, exist_ok=True)
    return Distillation(settings, base, teacher, learned, frozenset(apart), say)


def train_words(run: Distillation) -> tuple[TextTower, Tokenizer, float]:
    """The text tower that knows where texts belong among the teacher's vectors, its tokenizer, and their sharpness.

    Done once: `words.pt` in the output folder is taken as it is by later runs.
    """
    settings = run.settings
    name = settings.student.text_tower
    model, tokenizer = restore(BUNDLED if name == "mini" else run.base / name, dropout=settings.words.dropout)
    tower, dim = model.text, run.teacher.vectors.shape[1]
    path = run.folder / WORDS
    texts = texts_of(settings.data, run.base, run.base / settings.images, _places(run.learned))
    ids = token_ids(tokenizer, texts.texts, context_length=model.shape.context_length)
    training = word_training(
        tower, settings.words, texts, ids, run.learned.vectors, seed=settings.seed, say=run.say
    )
    if not path.is_file():
        run.say(f"{len(texts.texts):,} texts for {sum(len(one.places) for one in texts.sets):,} pictures of {dim} numbers")
        training.train_head()
        training.train_tower()
        torch.save({"text": tower.state_dict(), "log_scale": training.log_scale.detach()}, path)
    state = torch.load(path, weights_only=True)
    tower.load_state_dict(state["text"])
    return tower.eval(), tokenizer, float(state["log_scale"].exp())


def train_pictures(run: Distillation, measured: dict[str, Measured], hub: Hub | None = None) -> Student:
    """The picture tower after all its steps; a run that was stopped goes on from its last checkpoint."""
    settings = run.settings
    student = open_student(settings.student, run.base, run.teacher.vectors.shape[1], hub or Hub())
    student.to(choose_device(settings.device))
    pixels = _pixels(run, run.learned, seen_by(student, settings), "train")
    targets = run.learned.only(pixels.names).vectors
    runner = imitation(student, settings.pictures, pixels, targets, settings.seed)
    document = _fixed(settings)
    unfinished = checkpoint.load(run.folder, document)
    if unfinished is not None:
        runner.load(unfinished["pictures"])
        run.say(f"going on from step {runner.step:,}")
    _run(runner, run, measured, document)
    return averaged(runner)


def _run(runner: Imitation, run: Distillation, measured: dict[str, Measured], document: dict[str, Any]) -> None:
    settings, options = run.settings, run.settings.pictures
    began, first, sums = time.monotonic(), runner.step, [0.0, 0.0, 0]
    while runner.step < options.steps:
        loss, cosine = runner.advance()
        sums = [sums[0] + loss, sums[1] + cosine, sums[2] + 1]
        is_last = runner.step == options.steps
        if runner.step % settings.evaluate_every_steps == 0 or is_last:
            seen = runner.step * options.batch_size
            entry = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "step": runner.step,
                "rounds": round(seen / len(runner.pixels), 2),
                "pictures_per_s": round((runner.step - first) * options.batch_size / (time.monotonic() - began), 1),
                "loss": round(sums[0] / sums[2], 4),
                "cosine": round(sums[1] / sums[2], 4),
                **measure(averaged(runner), measured, settings.student.image_size),
            }
            sums = [0.0, 0.0, 0]
            with (run.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            run.say(json.dumps(entry))
        if runner.step % settings.checkpoint_every_steps == 0 or is_last:
            checkpoint.save(run.folder, {"pictures": runner.state()}, document)


def averaged(runner: Imitation) -> Student:
    """A second student with the averaged weights."""
    twin = copy.deepcopy(runner.student)
    twin.load_state_dict(runner.average, strict=False)
    return twin.eval()


def measured_sets(run: Distillation, tower: TextTower, tokenizer: Tokenizer, how: Preprocessing) -> dict[str, Measured]:
    """The sets that measure, with their texts as the trained text tower sees them, and what `data` holds out."""
    found = {}
    for name, pictures in _apart(run):
        texts = {key: one.texts for key, one in zip(names_of(pictures, run.base / run.settings.images), pictures.pictures)}
        part = run.teacher.only(texts)
        if not part.names:
            continue
        pixels = _pixels(run, part, how, name)
        part = part.only(pixels.names)
        ids = token_ids(tokenizer, [t for key in part.names for t in texts[key]], context_length=len(tower.positions.weight))
        owners = torch.arange(len(part.names)).repeat_interleave(torch.tensor([len(texts[key]) for key in part.names]))
        found[name] = Measured(pixels, part.vectors, text_vectors(tower, ids), owners)
        ceiling = recall_of(found[name].texts @ part.vectors.T, owners)
        run.say(f"{name}: with the teacher's own vectors recall@10 is {100 * ceiling['text_to_image@10']:.1f}")
    return found


def _apart(run: Distillation) -> list[tuple[str, PictureSet]]:
    return [(one.name or one.table, read_set(one, run.base)) for one in run.settings.measure]


def measure(student: Student, measured: dict[str, Measured], side: int) -> dict[str, Any]:
    """For each set the mean cosine to the teacher, and recall at k in both directions."""
    found: dict[str, Any] = {}
    for name, one in measured.items():
        vectors = vectors_of(student, one.pixels, side)
        recalls = recall_of(one.texts @ vectors.T, one.owners)
        cosine = float((vectors * one.wanted).sum(dim=1).mean())
        found[name] = {"cosine": round(cosine, 4)} | {key: round(value, 4) for key, value in recalls.items()}
    return found


@torch.no_grad()
def vectors_of(student: Student, pixels: PixelFile, side: int) -> Tensor:
    """(n, dim) for whole pictures at this side."""
    rows = []
    for start in range(0, len(pixels), BATCH):
        batch = torch.cat([pixels.picture(n) for n in range(start, min(start + BATCH, len(pixels)))])
        rows.append(student(resized(batch, side).contiguous(memory_format=torch.channels_last)).cpu())
    return torch.cat(rows)


def seen_by(student: Student, settings: DistilSettings) -> Preprocessing:
    """How the finished model sees a picture."""
    side = settings.student.image_size
    mean, std = student.mean.flatten() / 255, 1 / (student.scale.flatten() * 255)
    return Preprocessing(
        height=side,
        width=side,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        resample=3,
        mode=settings.student.resize_mode,
        fill=0,
    )


def _places(teacher: Teacher) -> dict[str, int]:
    return {name: place for place, name in enumerate(teacher.names)}


def _pixels(run: Distillation, part: Teacher, how: Preprocessing, name: str) -> PixelFile:
    cache = run.base / (run.settings.cache or f"{run.settings.output}/pixels")

    def tell(done: int) -> None:
        if done % 2048 == 0 or done == len(part.names):
            run.say(f"{name}: {done:,} of {len(part.names):,} pictures decoded")

    return pixel_file(
        cache / f"{name.replace('/', '-')}.u8", part.names, run.base / run.settings.images, how, say=tell
    )


def _fixed(settings: DistilSettings) -> dict[str, Any]:
    """The settings that a run must keep: how long, how often and how fast may change on the way."""
    document = asdict(settings)
    kept = {"batch_size"}
    document["pictures"] = {key: value for key, value in document["pictures"].items() if key in kept}
    return {key: value for key, value in document.items() if key not in ("cache", "measure", "words")}
