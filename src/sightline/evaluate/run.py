"""Measure a model on judged pictures or class folders, or a store against the exact answers."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.analysis.classify import label_vectors, probabilities
from sightline.calibration.phrases import sample_queries
from sightline.calibration.tuning import exact_scores, recall
from sightline.encoders.base import Encoder, picture_fingerprint
from sightline.errors import SourceError, TextNotSupported, UsageError
from sightline.evaluate import metrics
from sightline.evaluate.judgements import Judgements, load
from sightline.evaluate.metrics import Interval, Rankings, Values, bootstrap
from sightline.files import replacing
from sightline.index import Index
from sightline.ingest import Options, ingest
from sightline.sources.base import open_source
from sightline.sources.files import file_uri
from sightline.stores.base import open_store
from sightline.types import FAILURE, Vectors, record_id

_Result = TypeVar("_Result")
_CUTS = (1, 5, 10)
_WORST = 20
_SHOWN = 5
_TIMED_TEXTS = 50
_SPEED = "speed"  # the note that keeps pictures/s as measured when they were encoded
_ENOUGH_TO_TIME = 32
_TEXTS_AT_ONCE = 64
_STATM = Path("/proc/self/statm")  # Linux: pages in all, pages resident, ...
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Task:
    """One direction of retrieval: values per query by metric, and the groups of queries that are not independent."""

    values: dict[str, Values]
    groups: NDArray[np.int64]

    def estimates(self) -> dict[str, Interval]:
        """Each metric's mean with its 95 % interval."""
        return {name: bootstrap(values, self.groups) for name, values in self.values.items()}


@dataclass(frozen=True, slots=True)
class Miss:
    """A query that went badly: what it is, the rank of the first right picture, what came instead, what was right."""

    query: str
    rank: int
    returned: Sequence[Path]
    expected: Sequence[Path]


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What one model achieves on some judgements."""

    name: str
    dim: int
    tasks: dict[str, Task]
    images_per_s: float | None
    ms_per_text: float | None
    size_bytes: int | None
    memory_bytes: int | None
    unreadable: int
    worst: list[Miss] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The stable shape of `--json`; intervals stand beside the figures under "intervals"."""
        tasks = {name: task.estimates() for name, task in self.tasks.items()}
        means = {name: {metric: round(e.mean, 4) for metric, e in found.items()} for name, found in tasks.items()}
        spans = {
            name: {metric: [round(e.low, 4), round(e.high, 4)] for metric, e in found.items()}
            for name, found in tasks.items()
        }
        facts = {"images_per_s": self.images_per_s, "ms_per_text": self.ms_per_text}
        rounded = {name: round(value, 2) if value is not None else None for name, value in facts.items()}
        sizes = {"dim": self.dim, "size_bytes": self.size_bytes, "memory_bytes": self.memory_bytes}
        return {"name": self.name, **means, **rounded, **sizes, "unreadable": self.unreadable, "intervals": spans}


def evaluate(encoder: Encoder, judgements: Judgements, cache: Path, *, options: Options | None = None) -> ModelResult:
    """Measure a model. Vectors are kept in the folder `cache` and found there the next time."""
    memory, folder = memory_bytes(encoder), getattr(encoder, "folder", None)
    files = [file for file in folder.rglob("*") if file.is_file()] if isinstance(folder, Path) else None
    found = image_vectors(encoder, judgements.images, cache, options=options)
    images = [judgements.images[position] for position in found.positions]
    place = np.full(len(judgements.images), -1)  # of each picture among those that could be read
    place[list(found.positions)] = np.arange(len(images))
    kept = place[judgements.pairs[:, 1]] >= 0
    pairs, grades = judgements.pairs[kept], judgements.grades[kept]
    pairs = np.column_stack([pairs[:, 0], place[pairs[:, 1]]])
    labels = pairs[np.argsort(pairs[:, 1], kind="stable"), 0]  # the class of each picture, where there are classes
    measured = ModelResult(
        name=encoder.name,
        dim=encoder.dim,
        tasks={"image_to_image": _same_class(found.vectors, labels)} if judgements.is_classes else {},
        images_per_s=found.images_per_s,
        ms_per_text=None,
        size_bytes=sum(file.stat().st_size for file in files) if files is not None else None,
        memory_bytes=memory,
        unreadable=len(judgements.images) - len(images),
    )
    try:
        texts = text_vectors(encoder, judgements.queries, cache)
    except TextNotSupported:
        return measured
    every_image = np.arange(len(images))
    ranked = metrics.rankings(texts, found.vectors, pairs, grades)
    of_picture = np.full(ranked.queries, -1)  # the one it was written for: its five captions are drawn together
    of_picture[pairs[::-1, 0]] = pairs[::-1, 1]
    measured.tasks["text_to_image"] = Task(_figures(ranked), of_picture)
    if judgements.is_classes:
        scores = found.vectors @ texts.T  # (n, dim) @ (dim, classes) -> (n, classes)
        values = {f"top{k}": metrics.top_accuracy(scores, labels, k) for k in (1, 5)}
        measured.tasks["classification"] = Task(values, every_image)
    else:
        backwards = metrics.rankings(found.vectors, texts, pairs[:, ::-1], grades)
        measured.tasks["image_to_text"] = Task(_figures(backwards), every_image)
    first = np.zeros(ranked.queries, np.int64)  # the rank of the first right picture
    first[ranked.query[::-1]] = ranked.rank[::-1]
    worst = [
        Miss(
            judgements.queries[query],
            int(first[query]),
            [images[at] for at in np.argsort(-(found.vectors @ texts[query]), kind="stable")[:_SHOWN]],
            [images[at] for at in pairs[pairs[:, 0] == query, 1][:_SHOWN]],
        )
        for query in np.argsort(-first, kind="stable")[:_WORST]
    ]
    _, spent_ms = _timed(lambda text: encoder.encode_texts([text]), judgements.queries[:_TIMED_TEXTS])
    return replace(measured, ms_per_text=float(np.median(spent_ms[1:] or spent_ms)), worst=worst)


@dataclass(frozen=True, slots=True)
class StoreRecall:
    """How much of the exact best k a store finds, and the median milliseconds of one query."""

    queries: str
    sample: int
    k: int
    recall: float
    ms_per_query: float


def store_recall(index: Index, *, sample: int = 200, k: int = 10, seed: int = 0) -> list[StoreRecall]:
    """Search for phrases and for a sample of the index's own pictures, and compare with a full exact scan.

    An approximate engine that is tuned on picture queries loses text queries silently, since they lie elsewhere: that
    is why the two are measured apart. Of an image-only index, pictures alone are measured.
    """
    if index.count() == 0:
        raise UsageError(f"{index.url} is empty: index a folder first")
    queries = sample_queries(index.store, index.encoder, sample, seed=seed)
    measured = list[StoreRecall]()
    for kind, vectors in queries.items():
        found, spent_ms = _timed(lambda vector: index.store.search(vector[None], k)[0], vectors)
        share = recall(found, exact_scores(index.store, vectors, k))
        measured.append(StoreRecall(kind, len(vectors), k, share, float(np.median(spent_ms))))
    return measured


@dataclass(frozen=True, slots=True)
class Confusion:
    """`counts[i, j]` pictures of class i were taken for class j: shape (classes, classes).

    `unreadable` more could not be read, `left_out` files are no pictures by their names.
    """

    model: str
    classes: Sequence[str]
    counts: NDArray[np.int64]
    top1: Interval
    top5: Interval
    unreadable: int = 0
    left_out: int = 0

    @property
    def mistakes(self) -> list[tuple[str, str, int]]:
        """What is taken for what, and how often, the most frequent first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
        pairs = np.stack(np.unravel_index(order, wrong.shape), axis=1).tolist()
        return [(self.classes[true], self.classes[taken], int(wrong[true, taken])) for true, taken in pairs]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "pictures": int(self.counts.sum()),
            "unreadable": self.unreadable,
            "left_out": self.left_out,
            **{name: [found.mean, found.low, found.high] for name, found in (("top1", self.top1), ("top5", self.top5))},
            "classes": list(self.classes),
            "confusion": self.counts.tolist(),
        }


def confusion(encoder: Encoder, folder: Path, cache: Path, templates: Sequence[str]) -> Confusion:
    """Classify the pictures of class folders by the folders' names; vectors come from the cache where it has them."""
    judged = load(folder)
    if not judged.is_classes:
        raise UsageError(f"{folder} has no class folders, expected one folder for each class")
    found = image_vectors(encoder, judged.images, cache)
    labels = judged.pairs[np.argsort(judged.pairs[:, 1], kind="stable"), 0][list(found.positions)]
    shares = probabilities(found.vectors, label_vectors(judged.queries, encoder, templates), encoder)
    counts = np.zeros((len(judged.queries), len(judged.queries)), np.int64)
    np.add.at(counts, (labels, shares.argmax(axis=1)), 1)
    top1, top5 = (bootstrap(metrics.top_accuracy(shares, labels, k)) for k in (1, 5))
    unreadable = len(judged.images) - len(found.positions)
    return Confusion(encoder.name, judged.queries, counts, top1, top5, unreadable, judged.left_out)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of the pictures (n, dim) that could be read, at `positions` (n,) of those asked for, and pictures/s."""

    vectors: Vectors
    positions: Sequence[int]
    images_per_s: float | None


def image_vectors(encoder: Encoder, images: Sequence[Path], cache: Path, *, options: Options | None = None) -> Encoded:
    """The vectors of picture files, from the cache where they are in it: models with one image tower share them."""
    store = open_store(str(cache / f"pictures-{_safe(picture_fingerprint(encoder))}.index"), dim=encoder.dim)
    try:
        items = (item for image in images for item in open_source(image))
        summary = ingest(items, encoder, store, options=options or Options(), seen=set())
        if summary.encoded >= _ENOUGH_TO_TIME:
            store.write_notes(_SPEED, {_SPEED: {"images_per_s": summary.encoded / summary.seconds}})
        ids = [record_id(file_uri(image)) for image in images]
        records = {record.id: record.vector for record in store.fetch(ids)}
        positions = [position for position, identity in enumerate(ids) if identity in records]
        if not positions:
            reasons = {note["reason"] for note in store.notes(FAILURE).values()}
            raise SourceError(f"none of {len(images)} pictures could be read ({'; '.join(sorted(reasons)[:3])})")
        speed = store.notes(_SPEED).get(_SPEED, {}).get("images_per_s")
        return Encoded(np.stack([records[ids[position]] for position in positions]), positions, speed)
    finally:
        store.close()


def text_vectors(encoder: Encoder, texts: Sequence[str], cache: Path) -> Vectors:
    """The vectors of texts, shape (n, dim), from the cache where they are in it.

    Its key is the whole model: another text tower beside the same image tower gives other vectors.
    """
    words = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = cache / f"{_safe(encoder.name)}-{encoder.fingerprint}-{words}.npy"
    if path.exists():
        return np.asarray(np.load(path), np.float32)
    parts = [
        encoder.encode_texts(texts[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(texts), _TEXTS_AT_ONCE)
    ]
    vectors = np.concatenate(parts)  # of (64, dim) -> (n, dim)
    with replacing(path) as part:
        np.save(part, vectors)
    return vectors


def memory_bytes(encoder: Encoder) -> int | None:
    """How much the process grows by loading both towers and running them once; None where the system does not say.

    To be called before anything else is done with the encoder: what is loaded already does not show.
    """
    before = _resident_bytes()
    blank = encoder.preprocess(Image.new("RGB", (encoder.image_size, encoder.image_size)))
    encoder.encode_images(np.stack([blank, blank]))  # two: a batch, as indexing makes them
    with contextlib.suppress(TextNotSupported):
        encoder.encode_texts(["a picture"])
    after = _resident_bytes()
    return None if before is None or after is None else max(0, after - before)


def _figures(ranked: Rankings) -> dict[str, Values]:
    """The figures of the JSON; recall@k is that of the CLIP papers: any right answer among the first k counts."""
    return {
        **{f"recall@{k}": metrics.hit_rate(ranked, k) for k in _CUTS},
        "mrr": metrics.reciprocal_rank(ranked),
        "map": metrics.average_precision(ranked),
        "ndcg@10": metrics.ndcg(ranked, 10),
        "precision@10": metrics.precision(ranked, 10),
    }


def _same_class(vectors: Vectors, labels: NDArray[np.int64]) -> Task:
    """Each picture searches the others; those of its class are right."""
    scores = vectors @ vectors.T  # (n, dim) @ (dim, n) -> (n, n)
    np.fill_diagonal(scores, -np.inf)
    nearest = labels[np.argsort(-scores, axis=1, kind="stable")[:, :-1]] == labels[:, None]
    query, place = np.nonzero(nearest)
    ranked = Rankings(len(labels), query, place + 1, np.ones(len(query)))
    return Task(_figures(ranked), np.arange(len(labels)))


def _resident_bytes() -> int | None:
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return None


def _timed(call: Callable[[Any], _Result], arguments: Iterable[Any]) -> tuple[list[_Result], list[float]]:
    """What each call gives, and the milliseconds that it takes."""
    results, spent_ms = list[_Result](), list[float]()
    for argument in arguments:
        began = time.perf_counter()
        results.append(call(argument))
        spent_ms.append((time.perf_counter() - began) * 1e3)
    return results, spent_ms


def _safe(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in name)
