"""What searching written words adds to a search by meaning, in milliseconds, and whether products are found by titles.

    python -m benchmarks.text [CAPTIONS] [--rows 100000] [--index INDEX]

CAPTIONS is a text file of a caption a line (or gzipped; without one, captions are drawn); INDEX, if given, is an index
with titles, a sample of which is searched for by meaning, by text and by both.
"""

import argparse
import gzip
import random
import tempfile
import time
from pathlib import Path

import numpy as np

import sightline
from sightline.query import EVIDENCE, SearchQuery, Term
from sightline.stores.local.store import LocalStore
from sightline.stores.written import COMMON, fuse, phrases_of
from sightline.types import Record, record_id

_DIM, _QUERIES = 384, 200


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("captions", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--index")
    options = parser.parse_args()
    captions = captions_of(options.captions) if options.captions else drawn_captions(options.rows)
    source = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        store = filled(Path(folder) / "text.index", captions[: options.rows])
        drawn = [one.split() for one in source.sample(captions, _QUERIES)]
        queries = [" ".join(source.sample(words, min(5, len(words)))) for words in drawn]
        spent = list[tuple[float, float]]()
        for text, vector in zip(queries, vectors(_QUERIES, seed=1), strict=True):
            began = time.perf_counter()
            near = [(hit, 0.0) for hit in store.search(vector[None], 64)[0]]
            found = time.perf_counter()
            fuse(near, store.search_text(phrases_of([(text, False)]), 64, common=COMMON), vector)
            spent.append(((found - began) * 1e3, (time.perf_counter() - found) * 1e3))
        for name, times in zip(("by meaning", "what text adds"), zip(*spent, strict=True), strict=True):
            middle, worst = np.percentile(times, [50, 99])
            print(f"{name}: {middle:.2f} ms, 99 %: {worst:.2f} ms, {store.count():,} pictures")
        store.close()
    if options.index:
        for by, share in found_by_title(options.index).items():
            print(f"titles by {by}: recall@10 {share:.3f}")


def captions_of(path: Path) -> list[str]:
    """The lines of a text file."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def drawn_captions(count: int) -> list[str]:
    """Captions of twelve words each, as frequent as words are (Zipf)."""
    drawn = np.minimum(np.random.default_rng(0).zipf(1.3, (count, 12)), 20_000)
    return [" ".join(f"w{number}w" for number in row) for row in drawn.tolist()]


def filled(path: Path, captions: list[str]) -> LocalStore:
    """A store of random vectors with captions."""
    store, every = LocalStore(path, _DIM), vectors(len(captions), seed=0)
    for at in range(0, len(captions), 5_000):
        store.upsert(
            [
                Record(record_id(str(number)), f"file:///{number}.jpg", every[number], {"caption": captions[number]})
                for number in range(at, min(at + 5_000, len(captions)))
            ]
        )
    return store


def vectors(count: int, *, seed: int) -> sightline.types.Vectors:
    """Random unit vectors: (count, dim)."""
    drawn = np.random.default_rng(seed).standard_normal((count, _DIM)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def found_by_title(url: str) -> dict[str, float]:
    """For each evidence the share of titles, of a sample, that a picture with that title is among the first ten for."""
    with sightline.open(url) as index:
        titles = sorted({str(record.payload["title"]) for record in index.store.scan({"title": {"$exists": True}})})
        sample = random.Random(0).sample(titles, min(_QUERIES, len(titles)))
        shares = {}
        for by in EVIDENCE:
            answers = index.search_many([SearchQuery((Term("text", title),), 10, by=by) for title in sample])
            pairs = zip(sample, answers, strict=True)
            right = [any(hit.payload.get("title") == title for hit in hits) for title, hits in pairs]
            shares[by] = sum(right) / len(right)
    return shares


if __name__ == "__main__":
    main()
