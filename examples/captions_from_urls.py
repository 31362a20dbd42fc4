"""A table of captions and URLs, searched here and on a managed index.

python examples/captions_from_urls.py TABLE "what you look for" [pinecone:///NAME]
"""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

import sightline
from sightline.sources.base import Opening, open_source, read_uri
from sightline.stores.base import Droppable, open_store

SIDE = 240
DOWNLOADS = Opening(cache=Path("downloads"))  # each picture is fetched once


def main(table: str, words: str, managed: str | None) -> None:
    """Fill, look, cut; then the same elsewhere."""
    with sightline.open("captions.index", model="mini") as index:
        summary = index.add(open_source(table, DOWNLOADS))
        print(f"{summary.seen} rows: {index.count()} pictures, {summary.failed + summary.skipped} dead links")
        for failure in index.failures():
            print(f"  {failure.uri}: {failure.reason}")
        by_words = index.search(words, k=4)
        by_picture = index.similar(by_words[0].uri, k=4)
        print(by_words, by_picture, sep="\n")
        sheet(by_words).save("by_words.jpg")
        sheet(by_picture).save("by_picture.jpg")
        threshold = own_caption_score(index)
        cut = index.search(words, k=100, min_score=threshold)
        print(f"{len(cut)} of {index.count()} pictures score {threshold:.3f} or more")
        if managed:
            on_managed_index(index, words, managed)


def own_caption_score(index: sightline.Index) -> float:
    """What nine in ten pictures score with their own caption: a threshold that knows this model and these pictures."""
    records = [record for record in index.store.scan() if "caption" in record.payload]
    pictures = np.stack([record.vector for record in records])
    captions = index.encoder.encode_texts([text_of(record.payload["caption"]) for record in records])
    scores = (pictures * captions).sum(axis=1)  # (n, dim) * (n, dim) -> (n,)
    others = float((pictures @ captions.T).mean())
    print(f"a picture and its own caption score {scores.mean():.3f} on average, any two {others:.3f}")
    return float(np.quantile(scores, 0.1))


def text_of(caption: object) -> str:
    """One caption of a picture, the first if it has several."""
    return str(caption[0] if isinstance(caption, list) else caption)


def sheet(hits: sightline.Hits) -> Image.Image:
    """The best four as 2 x 2 pictures, the score below each."""
    whole = Image.new("RGB", (2 * SIDE, 2 * (SIDE + 16)), "white")
    for place, hit in enumerate(hits[:4]):
        x, y = SIDE * (place % 2), (SIDE + 16) * (place // 2)
        with Image.open(BytesIO(read_uri(hit.uri, DOWNLOADS))) as picture:
            whole.paste(ImageOps.pad(picture.convert("RGB"), (SIDE, SIDE), color="white"), (x, y))
        ImageDraw.Draw(whole).text((x + 4, y + SIDE + 2), f"{hit.score:.3f}  {hit.payload['name']}", fill="black")
    return whole


def on_managed_index(index: sightline.Index, words: str, url: str) -> None:
    """Create, upsert with metadata, statistics, query with a filter, delete, remove."""
    store = open_store(url, dim=index.store.dim)
    store.upsert(list(index.store.scan()))
    print(f"{store.count()} vectors of {index.store.dim} dimensions there")
    query = index.encoder.encode_texts([words])  # (1, dim)
    (hits,) = store.search(query, 4, where={"width": {"$gte": 100}})
    for hit in hits:
        print(f"{hit.score:6.3f}  {hit.uri}  {hit.payload.get('caption', '')}")
    print(f"{store.delete([hits[0].id])} deleted, {store.count()} left")
    if isinstance(store, Droppable):
        store.drop()  # closes it, too
        print("removed from the service")


main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
