"""A configuration -> a small model that sees as a large one does, and a way to go on after a kill."""

import copy
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.encoders.catalog import BUNDLED, bundled_folder
from sightline.encoders.hub import Hub
from sightline.encoders.preprocess import Preprocessing, as_config
from sightline.encoders.torch.towers import Documents
from sightline.train import checkpoint, curve
from sightline.train.config import DataSettings, OptimiserSettings, Settings
from sightline.train.data import PictureSet, read_set
from sightline.train.distil.imitate import Imitation, Said, imitation
from sightline.train.distil.pictures import PixelFile, pixel_file, resized
from sightline.train.distil.settings import DistilSettings, StudentSettings
from sightline.train.distil.student import Student, open_student
from sightline.train.distil.teacher import Teacher, read_teacher
from sightline.train.distil.texts import Texts, names_of, texts_of
from sightline.train.distil.words import WordTraining, text_vectors, word_training
from sightline.train.measure import recall_of
from sightline.train.mini import MiniTowers, Shape, TextTower, documents_of, restored
from sightline.train.model import MOST_CALIBRATION, Say, choose_device
from sightline.train.model_folder import Sides, write_folder
from sightline.train.run import RECORD, Listener, Outcome, Progress, Recalls, keep_freed_memory

LOG = "distillation.jsonl"
WORDS = "words.pt"
BATCH = 50
TRAINABLE = "tf_efficientnet_lite0"  # the picture tower of timm that is one of train/mini.py's networks
FREE_TO_CHANGE = ("cache", "measure", "words", "pictures")


@dataclass(frozen=True, slots=True)
class TextReader:
    """A text tower in the teacher's space, how it reads, the sharpness of scores, and the vectors of all its texts."""

    tower: TextTower
    documents: Documents
    scale: float
    vectors: Tensor


@dataclass(frozen=True, slots=True)
class MeasuredSet:
    """A set that measures: its pixels, the teacher's vectors of them, and its texts as vectors with their pictures."""

    pixels: PixelFile
    wanted: Tensor
    texts: Tensor
    owners: Tensor


@dataclass(frozen=True, slots=True)
class Distillation:
    """What a run learns from: all of the teacher's vectors, and the part of them that does not measure."""

    settings: DistilSettings
    base: Path
    teacher: Teacher
    learned: Teacher
    say: Say

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return self.base / self.settings.output

    @property
    def root(self) -> Path:
        """The folder that the teacher's names are relative to."""
        return self.base / self.settings.images

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self.teacher.vectors.shape[1])

    def pixels(self, part: Teacher, how: Preprocessing, name: str) -> PixelFile:
        """The decoded pictures of a part, from its file if it is there."""

        def tell(done: int) -> None:
            if done % 2048 == 0 or done == len(part.names):
                self.say(f"{name}: {done:,} of {len(part.names):,} pictures decoded")

        return pixel_file(self.cache / f"{name.replace('/', '-')}.u8", part.names, self.root, how, say=tell)

    def texts(self, names: Sequence[str]) -> Texts:
        """What the sets say of these pictures, by their places."""
        return texts_of(self.settings.data, self.base, self.root, {name: place for place, name in enumerate(names)})

    @property
    def cache(self) -> Path:
        """The folder of decoded pictures."""
        return self.base / (self.settings.cache or f"{self.settings.output}/pixels")


def distil(settings: DistilSettings, base: Path, *, listen: Listener, hub: Hub | None = None) -> Outcome:
    """Trains as `settings` say (paths relative to `base`) and exports into `settings.output`.

    First the text tower learns where texts lie among the teacher's vectors, in minutes, and is kept in words.pt. Then
    the picture tower learns to give these vectors, in hours: checkpoint.pt is what it has reached. The same command
    goes on from there, and with more `steps` after the end too. Raises `TrainingError` when a loss is no number, if an
    unfinished run had another student, or when vectors or weights cannot be read.
    """
    keep_freed_memory()
    torch.manual_seed(settings.seed)
    run = distillation(settings, base, lambda note: listen(Progress(note=note)))
    student = open_student(settings.student, base, run.dim, hub or Hub())
    student.to(choose_device(settings.device))
    how = seen_by(student, settings)
    reader = train_words(run)
    measured = measured_sets(run, reader, how)
    finished = train_pictures(run, student, how, reader, measured, listen)
    if settings.words.again_steps:
        reader = train_words_again(run, reader, finished, how)
        measured = measured_sets(run, reader, how)
    recalls = {name: recalls_of(finished, one, how.height) for name, one in measured.items()}
    write(run, finished, reader, how)
    record = {"settings": asdict(settings), "recalls": recalls, "pictures": len(run.learned.names)}
    (run.folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if not settings.cache:
        shutil.rmtree(run.cache)
    return Outcome(run.folder, recalls, (), 1.0)


def distillation(settings: DistilSettings, base: Path, say: Say) -> Distillation:
    """Reads the teacher's vectors and sees which pictures measure and are not learned from."""
    names = base / settings.teacher_names if settings.teacher_names else None
    teacher = read_teacher(base / settings.teacher_vectors, names)
    root = base / settings.images
    apart = {name for one in settings.measure for name in names_of(measuring_part(one, base), root)}
    for one in settings.data:
        if one.hold_out_percent:
            apart |= set(names_of(read_set(one, base, is_held_out=True), root))
    learned = teacher.only(set(teacher.names) - apart)
    say(f"{len(learned.names):,} pictures to learn from, {len(teacher.names) - len(learned.names):,} kept apart")
    (base / settings.output).mkdir(parents=True, exist_ok=True)
    return Distillation(settings, base, teacher, learned, say)


def measuring_part(settings: DataSettings, base: Path) -> PictureSet:
    """The pictures of a set that measures: of one that holds some out, those."""
    return read_set(settings, base, is_held_out=settings.hold_out_percent > 0)


def train_words(run: Distillation) -> TextReader:
    """The text tower that knows where texts belong among the teacher's vectors.

    Trained once: words.pt in the output folder is taken as it is by later runs.
    """
    settings, path = run.settings, run.folder / WORDS
    name, options = settings.student.text_tower, OptimiserSettings(dropout=settings.words.dropout)
    folder = bundled_folder(BUNDLED) if name == BUNDLED else run.base / name
    start = restored(folder, Settings(optimiser=options))
    tower = start.model.text
    if path.is_file():
        tower.projection = torch.nn.Linear(tower.projection.in_features, run.dim, bias=False)
        state = torch.load(path, weights_only=True)
        tower.load_state_dict(state["text"])
        return TextReader(tower.eval(), start.documents, float(state["log_scale"].exp()), state["vectors"])
    texts = run.texts(run.learned.names)
    run.say(f"{len(texts.texts):,} texts of {sum(len(one.places) for one in texts.sets):,} pictures")
    ids = start.ids(texts.texts)
    training = word_training(tower, settings.words, texts, ids, run.learned.vectors, seed=settings.seed, say=run.say)
    training.train_head()
    training.train_tower()
    vectors, log_scale = text_vectors(tower, ids).half(), training.log_scale.detach()
    torch.save({"text": tower.state_dict(), "log_scale": log_scale, "vectors": vectors}, path)
    return TextReader(tower.eval(), start.documents, float(log_scale.exp()), vectors)


def train_words_again(run: Distillation, reader: TextReader, student: Student, how: Preprocessing) -> TextReader:
    """The text tower after more steps, towards the pictures as the finished student sees them."""
    words = run.settings.words
    pixels = run.pixels(run.learned, how, "pictures")
    seen = vectors_of(student, pixels, how.height)
    texts = run.texts(pixels.names)
    ids = reader.documents.tokens.ids(texts.texts)
    log_scale = torch.nn.Parameter(torch.tensor(reader.scale).log())
    settings = replace(words, steps=words.again_steps)
    training = WordTraining(reader.tower, settings, texts, ids, seen, run.settings.seed, run.say, log_scale)
    training.train_tower()
    return replace(reader, tower=reader.tower.eval(), scale=float(training.log_scale.detach().exp()))


def measured_sets(run: Distillation, reader: TextReader, how: Preprocessing) -> dict[str, MeasuredSet]:
    """The sets that measure; a note says what the teacher's own vectors would reach with these texts."""
    found: dict[str, MeasuredSet] = {}
    for one in run.settings.measure:
        pictures, name = measuring_part(one, run.base), one.name or one.table
        texts = dict(zip(names_of(pictures, run.root), (picture.texts for picture in pictures.pictures), strict=True))
        part = run.teacher.only(texts)
        if not part.names:
            run.say(f"{name}: the teacher has no vectors of its pictures, so it is not measured")
            continue
        pixels = run.pixels(part, how, name)
        part = part.only(pixels.names)
        vectors = text_vectors(reader.tower, reader.documents.tokens.ids([t for key in part.names for t in texts[key]]))
        owners = torch.arange(len(part.names)).repeat_interleave(torch.tensor([len(texts[key]) for key in part.names]))
        found[name] = MeasuredSet(pixels, part.vectors, vectors, owners)
        reached = recall_of(vectors @ part.vectors.T, owners)["text_to_image@10"]
        run.say(f"{name}: with the teacher's own vectors recall@10 would be {100 * reached:.1f}")
    return found


def train_pictures(
    run: Distillation,
    student: Student,
    how: Preprocessing,
    reader: TextReader,
    measured: Mapping[str, MeasuredSet],
    listen: Listener,
) -> Student:
    """The picture tower after all its steps, with averaged weights; an unfinished run goes on."""
    settings, options = run.settings, run.settings.pictures
    pixels = run.pixels(run.learned, how, "pictures")
    targets = run.learned.only(pixels.names).vectors
    said = None
    if options.texts_weight:
        texts = run.texts(run.learned.names)
        count = len(run.learned.names)
        place_of = {name: place for place, name in enumerate(run.learned.names)}
        captions, right = texts.said_of(count), texts.right_for(count)
        places = [place_of[name] for name in pixels.names]
        said = Said(reader.vectors, [captions[n] for n in places], [right[n] for n in places], reader.scale)
    runner = imitation(student, options, pixels, targets, settings.seed, said)
    document = {key: value for key, value in asdict(settings).items() if key not in FREE_TO_CHANGE}
    unfinished = checkpoint.load(run.folder, document)
    history: list[dict[str, Any]] = []
    if unfinished is not None:
        runner.load(unfinished["pictures"])
        history = list(unfinished["history"])
        run.say(f"going on from step {runner.step:,}")
    began, first, losses = time.monotonic(), runner.step, list[float]()
    while runner.step < options.steps:
        loss = runner.advance()
        losses.append(loss)
        step, is_last = runner.step, runner.step == options.steps
        per_step = (time.monotonic() - began) / (step - first)
        recalls: Recalls = {}
        if step % settings.evaluate_every_steps == 0 or is_last:
            twin = averaged(runner)
            recalls = {name: recalls_of(twin, one, how.height) for name, one in measured.items()}
            history.append({"step": step, "loss": sum(losses) / len(losses), "recalls": recalls})
            losses.clear()
            curve.draw(history, run.folder / curve.NAME)
            _log(run, runner, history[-1], twin, measured, per_step)
        listen(Progress("", step, options.steps, loss, per_step * (options.steps - step), recalls))
        if step % settings.checkpoint_every_steps == 0 or is_last:
            checkpoint.save(run.folder, {"pictures": runner.state(), "history": history}, document)
    return averaged(runner)


def _log(
    run: Distillation,
    runner: Imitation,
    entry: Mapping[str, Any],
    twin: Student,
    measured: Mapping[str, MeasuredSet],
    per_step_s: float,
) -> None:
    """One line of JSON for each measurement, in distillation.jsonl."""
    size = run.settings.pictures.batch_size
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **entry,
        "rounds": round(runner.step * size / len(runner.pixels), 3),
        "pictures_per_s": round(size / per_step_s, 1),
    }
    with (run.folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def averaged(runner: Imitation) -> Student:
    """A second student with the averaged weights."""
    twin = copy.deepcopy(runner.student)
    twin.load_state_dict(runner.average, strict=False)
    return twin.eval()


def recalls_of(student: Student, measured: MeasuredSet, side: int) -> dict[str, float]:
    """Recall at k in both directions, and the mean `cosine` to the teacher's vectors."""
    vectors = vectors_of(student, measured.pixels, side)
    cosine = float((vectors * measured.wanted).sum(dim=1).mean())
    return {**recall_of(measured.texts @ vectors.T, measured.owners), "cosine": cosine}


@torch.no_grad()
def vectors_of(student: Student, pixels: PixelFile, side: int) -> Tensor:
    """(n, dim) for whole pictures at this side."""
    rows = []
    for start in range(0, len(pixels), BATCH):
        batch = torch.cat([pixels.picture(n) for n in range(start, min(start + BATCH, len(pixels)))])
        shown = resized(batch, side).contiguous(memory_format=torch.channels_last)
        rows.append(student(shown.to(student.mean.device)).cpu())
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


def write(run: Distillation, student: Student, reader: TextReader, how: Preprocessing) -> None:
    """The model folder, with a sample of the pictures that were learned from for 8 bits.

    One whose picture tower is `TRAINABLE` can be the start of another training.
    """
    pixels = run.pixels(run.learned, how, "pictures")
    step = max(1, len(pixels) // MOST_CALIBRATION)
    sample = torch.cat([pixels.picture(n) for n in range(0, len(pixels), step)][:MOST_CALIBRATION])
    sides = sides_of(run.settings.student, student, reader, how)
    write_folder(sides, run.folder, run.settings.precision, calibration=sample.contiguous().numpy())


def sides_of(settings: StudentSettings, student: Student, reader: TextReader, how: Preprocessing) -> Sides:
    """What the model folder is written from."""
    network = settings.picture_tower.partition(":")[2].partition("@")[0]
    dim, documents = student.projection.out_features, reader.documents
    if network == TRAINABLE and settings.pooling_heads:
        shape = replace(
            Shape(**documents.config["sightline"]["shape"]),
            dim=dim,
            image_size=how.height,
            pooling_heads=settings.pooling_heads,
            network=network,
            resize_mode=how.mode,
        )
        model = MiniTowers(shape)
        model.image, model.text = student.image_tower(shape), copy.deepcopy(reader.tower)
        model.log_scale.data.fill_(math.log(reader.scale))
        return model.eval().sides(documents_of(shape, documents.tokenizer))
    config = {
        "embed_dim": dim,
        "vision_cfg": {"image_size": how.height, "architecture": settings.picture_tower.partition("@")[0]},
        "text_cfg": documents.config["text_cfg"],
    }
    return Sides(
        image=student.plain(),
        text=reader.tower,
        documents=replace(documents, config=config, preprocess=as_config(how)),
        scores={"logit_scale": reader.scale},
        context_length=int(documents.config["text_cfg"]["context_length"]),
        has_free_length=True,
    )
