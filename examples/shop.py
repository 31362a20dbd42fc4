"""A shop's product pictures by several strategies side by side, then the best of them with words on Milvus.

python examples/shop.py TABLE IMAGES [--most N] [--by COLUMN] [--model NAME ...] [--store milvus://HOST/shop]

The strategies that are always at hand are pixels, colour and mini. A CNN trained for classification, SimCLR and CLIP
need `pip install 'sightline[torch]'` and their weights: --model timm:resnet50 --model simclr:./resnet50.ckpt
--model open_clip:ViT-B-32/openai. One that cannot be had is left out, with the reason.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

import sightline
from sightline.encoders.base import load_encoder
from sightline.errors import EncoderError, ExtraMissing, TextNotSupported
from sightline.evaluate import metrics
from sightline.exchange.copy import copy
from sightline.results import page
from sightline.sources.base import Opening, open_source

K, QUERIES = 10, 1000
WORDS = "a photo of a women's dress"


def main(options: argparse.Namespace) -> None:
    """Fill one index for each strategy, compare them on one product and on many, move the last one that knows words."""
    indexes = list(strategies(options))
    uris = sorted(record.uri for record in indexes[0].store.scan())
    product = random.Random(options.seed).choice(uris)
    rows = [index.similar(product, k=4) for index in indexes]
    print(f"\nlike {indexes[0].record(product).payload['name']}:")
    for hits in rows:
        print(f"{hits.model:24}", *(f"{hit.score:.3f} {hit.payload['name']}" for hit in hits))
    print(f"\nprecision@{K} of {options.by}, {min(QUERIES, len(uris))} queries among {len(uris)} products")
    for index in indexes:
        print(f"{index.encoder.name:24} {100 * precision(index, uris, options.by):5.1f} %")
    words = [index for index in indexes if knows_words(index)]
    rows += [index.search(WORDS, k=K) for index in words]
    Path("shop.html").write_text(page(rows, title=f"Strategies for a product and for {WORDS!r}"), "utf-8")
    if options.store:
        on_milvus(words[-1], options.store)
    for index in indexes:
        index.close()


def strategies(options: argparse.Namespace) -> Iterator[sightline.Index]:
    """An index of the products for each model that can be had."""
    for name in ["pixels", "colour", "mini", *options.model]:
        try:
            encoder = load_encoder(name)
        except (EncoderError, ExtraMissing) as error:
            print(f"{name} is left out: {error}")
            continue
        index = sightline.open(f"{''.join(c if c.isalnum() else '_' for c in name)}.index", model=encoder)
        source = open_source(options.table, Opening(base=Path(options.images)))
        summary = index.add(islice(source, options.most))
        print(f"{encoder.name}: {index.count()} products in {summary.seconds:.0f} s, {summary.failed} failed")
        yield index


def precision(index: sightline.Index, uris: Sequence[str], by: str) -> float:
    """How many of the ten nearest to a product, itself not counted, are of its kind; the mean over many products."""
    asked = random.Random(1).sample(uris, min(QUERIES, len(uris)))
    found = list[tuple[int, int]]()
    for number, uri in enumerate(asked):
        kind = kind_of(index.record(uri).payload[by])
        hits = index.similar(uri, k=K)
        found += [(number, rank) for rank, hit in enumerate(hits, 1) if kind_of(hit.payload.get(by)) == kind]
    query, rank = np.array(found, np.int64).reshape(-1, 2).T
    return float(metrics.precision(metrics.Rankings(len(asked), query, rank, np.ones(len(rank))), K).mean())


def kind_of(value: object) -> str:
    """A category as it stands, or the first three steps of a path such as `Apparel - Topwear - Kurtas - Red`."""
    return " - ".join(str(value).split(" - ")[:3])


def knows_words(index: sightline.Index) -> bool:
    """Whether the strategy can be asked in words at all."""
    try:
        index.encoder.encode_texts([WORDS])
    except TextNotSupported:
        return False
    return True


def on_milvus(index: sightline.Index, url: str) -> None:
    """The same index in Milvus: a server, or a file of Milvus Lite."""
    copied = copy(index, url)
    with sightline.open(url, model=index.encoder) as moved:
        print(f"\n{copied.written} products written to {url.partition(':')[0]}, {copied.same} were there")
        print(moved.search(WORDS, k=5))


parser = argparse.ArgumentParser()
parser.add_argument("table")
parser.add_argument("images")
parser.add_argument("--most", type=int)
parser.add_argument("--by", default="category")
parser.add_argument("--model", action="append", default=[])
parser.add_argument("--store", help="milvus://HOST/shop, or a file: milvus:///FOLDER/shop.db?collection=shop")
parser.add_argument("--seed", type=int, default=0)
main(parser.parse_args())
