"""The honest line's precision and recall: python -m benchmarks line --captions DIR --classes DIR.

Captions of pictures that are there must find something likely; those about things that no caption of the index names
must not. Of class folders half of the classes are indexed, and all names are asked.
"""

import argparse
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.calibration.phrases import phrases
from sightline.calibration.relevance import RelevanceCalibration, fit, judged_together
from sightline.encoders.base import Encoder, load_encoder
from sightline.evaluate.judgements import Judgements, load
from sightline.evaluate.run import image_vectors, text_vectors
from sightline.stores.memory import MemoryStore
from sightline.text import table
from sightline.types import Record, Vectors, record_id

CACHE = Path("~/.cache/sightline/evaluate").expanduser()
SUBJECTS = {
    "dog": r"dogs?|pupp(y|ies)|greyhounds?|poodles?|terriers?|retrievers?|hounds?",
    "snow": r"snow\w*|ski\w*|sled\w*|ice|icy",
    "water": r"water|beach|ocean|sea|swim\w*|pool|surf\w*|waves?|lake|river|boats?|canoe\w*|kayak\w*|splash\w*|wet|"
    r"fountain|wakeboard\w*|pond|stream|shore",
    "bicycle": r"bik\w*|bicycl\w*|cycl\w*|motorcycl\w*|motorbike\w*",
    "ball": r"soccer|football|basketball|ball|tennis|volleyball|baseball|hockey|rugby",
}
SAME_CLASS = {"Faces easy": "Faces", "crocodile head": "crocodile", "flamingo head": "flamingo"}
ABSENT = r"giraffes?|zebras?|toilets?|refrigerators?|ovens?|microwaves?|donuts?|broccoli|bananas?|elephants?|vases?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--other-captions", type=Path, help="a text file: captions of pictures that are not there")
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--model", default="mini")
    options = parser.parse_args()
    if not options.captions or not options.classes:
        print("left out: it needs --captions and --classes")
        return
    encoder = load_encoder(options.model)
    stock = encoder.encode_texts(list(phrases(2_000)))
    captions = load(options.captions / "captions.tsv", images=options.captions / "images", split="dev")
    rows = [["queries without an answer", "gallery", "with answer kept", "without stopped", "own picture kept"]]
    rows += subjects(encoder, captions, stock, options.other_captions)
    print(table(rows, right=frozenset(range(1, 5))), end="\n\n")
    print(classes(encoder, load(options.classes), stock))


def subjects(encoder: Encoder, captions: Judgements, stock: Vectors, others: Path | None) -> list[list[str]]:
    """A row for each subject that is taken out of the index."""
    pictures = image_vectors(encoder, captions.images, CACHE).vectors
    texts = text_vectors(encoder, captions.queries, CACHE)
    own = np.empty(len(texts), np.int64)
    own[captions.pairs[:, 0]] = captions.pairs[:, 1]
    rows = []
    if others:
        absent = [line for line in others.read_text().splitlines() if re.search(rf"\b({ABSENT})\b", line.lower())][
            :1000
        ]
        rows.append(row("other captions", pictures, (texts, own), encoder.encode_texts(absent), stock))
    for name, pattern in SUBJECTS.items():
        about = np.array([bool(re.search(rf"\b({pattern})\b", text.lower())) for text in captions.queries])
        times = np.bincount(own, about, len(pictures))
        there = np.flatnonzero(times == 0)
        place = np.full(len(pictures), -1)
        place[there] = np.arange(len(there))
        answered = times[own] == 0
        without = about & (times[own] >= 3)
        rows.append(row(name, pictures[there], (texts[answered], place[own[answered]]), texts[without], stock))
    return rows


def row(
    name: str, pictures: Vectors, asked: tuple[Vectors, NDArray[np.int64]], absent: Vectors, stock: Vectors
) -> list[str]:
    line = drawn(pictures, stock)
    best, likely = judged(line, pictures, asked[0], 10)
    own = best == asked[1][:, None]
    stopped = 1 - judged(line, pictures, absent, 10)[1].any(axis=1).mean()
    shares = (likely.any(axis=1).mean(), stopped, (likely & own).sum() / own.sum())
    return [f"{name} ({len(absent):,})", f"{len(pictures):,}", *(f"{100 * share:.0f} %" for share in shares)]


def classes(encoder: Encoder, folders: Judgements, stock: Vectors, rounds: int = 10) -> str:
    """Precision and recall of the first 20 hits, half of the classes indexed."""
    pictures = image_vectors(encoder, folders.images, CACHE).vectors
    names = np.array([SAME_CLASS.get(name, name) for name in folders.queries])
    texts = encoder.encode_texts(list(folders.queries))
    labels = names[folders.pairs[np.argsort(folders.pairs[:, 1]), 0]]
    counts = np.zeros((2, 4))  # (absent, present) x (hits, right, likely, right and likely)
    passed = list[bool]()
    for seed in range(rounds):
        kept = np.random.default_rng(seed).permutation(np.unique(names))[: len(np.unique(names)) // 2]
        there, present = np.isin(labels, kept), np.isin(names, kept)
        best, likely = judged(drawn(pictures[there], stock), pictures[there], texts, 20)
        right = labels[there][best] == names[:, None]
        for side in (0, 1):
            few = present == bool(side)
            counts[side] += [right[few].size, right[few].sum(), likely[few].sum(), (right & likely)[few].sum()]
        passed += [bool(row.any()) for row in likely[~present]]
    every, there_only = counts.sum(axis=0), counts[1]
    return table(
        [
            ["names", "precision without the line", "above it", "right ones above it", "nothing likely"],
            ["of classes that are there", *shares(there_only), ""],
            ["all", *shares(every), ratio(len(passed) - sum(passed), len(passed)) + " of those not there"],
        ]
    )


def shares(counts: NDArray[np.float64]) -> list[str]:
    hits, right, likely, both = counts
    return [ratio(right, hits), ratio(both, likely), ratio(both, right)]


def drawn(pictures: Vectors, stock: Vectors) -> RelevanceCalibration:
    store = MemoryStore(pictures.shape[1])
    store.upsert([Record(record_id(f"p:{n}"), f"p:{n}", vector) for n, vector in enumerate(pictures)])
    return fit(store, stock)


def judged(
    line: RelevanceCalibration, pictures: Vectors, texts: Vectors, k: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The best k of each text, and whether they are likely: (q, k) each."""
    scores = texts @ pictures.T  # (q, dim) @ (dim, n) -> (q, n)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : judged_together(k)]
    found = np.take_along_axis(scores, best, axis=1)
    needed = [line.thresholds(row, *line.stats(pictures[at])) for row, at in zip(found, best, strict=True)]
    return best[:, :k], (found >= np.stack(needed))[:, :k]


def ratio(part: float, whole: float) -> str:
    return f"{100 * part / max(whole, 1):.0f} %"


if __name__ == "__main__":
    main()
