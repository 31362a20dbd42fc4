"""Words to pictures with the six original CLIP models: figures, a page to compare them by eye, and Vespa.

python examples/flickr8k_clip.py CAPTIONS IMAGES [--split dev] [--model NAME ...] [--vespa vespa://HOST/photos]

Without --model: clip-rn50, clip-rn101, clip-rn50x4, clip-b32, clip-b16 and clip-l14, as far as their weights can be had
(`sightline models get clip-b32`), and mini, which is always there. --random ARCHITECTURE, with torch and open_clip
installed, takes a true architecture with random weights: it shows what a model costs, not what it finds.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import sightline
from sightline import Hub
from sightline.encoders.base import Encoder, load_encoder
from sightline.encoders.catalog import bundled_folder
from sightline.errors import EncoderError, ExtraMissing
from sightline.evaluate import judgements, report, run
from sightline.results import page
from sightline.stores.base import open_store

SIX = ("clip-rn50", "clip-rn101", "clip-rn50x4", "clip-b32", "clip-b16", "clip-l14")
QUERIES = ("a dog running through snow", "two children on a swing", "a man climbing a rock", "a red car")
WORK = Path("flickr8k-vectors")


def main(options: argparse.Namespace) -> None:
    """Measure what can be had, then show the same queries side by side."""
    judged = judgements.load(Path(options.captions), images=Path(options.images), split=options.split)
    measured, sections = [], []
    for encoder in encoders([*(options.model or SIX), *map(random_weights, options.random), "mini"]):
        work = WORK / encoder.name.replace("/", "_")
        measured.append(run.evaluate(encoder, judged, work))
        index = sightline.open(str(next(work.glob("pictures-*.index"))), model=encoder)
        sections.append([index.search(query, k=6) for query in QUERIES])
    print(report.terminal(measured, judged))
    rows = [hits for of_query in zip(*sections, strict=True) for hits in of_query]  # all models' answers to each query
    Path("models.html").write_text(page(rows, title="The same words, several models"), "utf-8")
    if options.vespa:
        on_vespa(index, options.vespa)  # mini comes last, and its text tower is one that Vespa can run


def encoders(names: list[str]) -> Iterator[Encoder]:
    """Those that can be had; for the others the reason."""
    for name in dict.fromkeys(names):
        try:
            yield load_encoder(name, hub=Hub())
        except (EncoderError, ExtraMissing) as error:
            print(f"{name} is left out: {error}")


def random_weights(architecture: str) -> str:
    """A file of random weights for an architecture of open_clip, and the name that loads it."""
    from sightline.encoders.torch.libraries import library

    open_clip, torch = library("open_clip"), library("torch")
    torch.manual_seed(0)
    path = Path(f"random-{architecture}.pt")
    torch.save(open_clip.create_model(architecture, force_quick_gelu=True).state_dict(), path)
    return f"open_clip:{architecture}@{path}"


def on_vespa(index: sightline.Index, url: str) -> None:
    """An application that takes words: Vespa runs the text tower itself, any client can ask it."""
    store = open_store(f"{url}?text_model={bundled_folder('mini')}", dim=index.store.dim)
    store.upsert(list(islice(index.store.scan(), 1000)))
    print(f"\n{store.count()} pictures in Vespa; asked in words, without a model on this side:")
    for hit in store.engine.search_text(QUERIES[0], 3):  # type: ignore[attr-defined]  # Vespa's alone
        print(f"{hit.score:6.3f}  {hit.payload['name']}")
    store.close()


parser = argparse.ArgumentParser()
parser.add_argument("captions")
parser.add_argument("images")
parser.add_argument("--split")
parser.add_argument("--model", action="append", default=[])
parser.add_argument("--random", action="append", default=[])
parser.add_argument("--vespa")
main(parser.parse_args())
