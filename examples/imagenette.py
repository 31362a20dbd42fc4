"""One picture in, similar pictures out, over a folder of class folders.

python examples/imagenette.py FOLDER [PICTURE [MODEL]]
"""

import random
import sys
from pathlib import Path
from urllib.parse import unquote

import sightline
from sightline.results import page

K, QUERIES = 5, 500


def main(folder: str, picture: str | None, model: str) -> None:
    """Index, search by one picture, and see how often the neighbours are of the same class."""
    with sightline.open(f"{Path(folder).name}.index", model=model) as index:
        summary = index.add(folder)
        print(f"{index.count()} pictures, {summary.encoded} encoded now, model {model}")
        uris = sorted(record.uri for record in index.store.scan())
        hits = index.search(image=picture, k=K) if picture else index.similar(random.Random(0).choice(uris), k=K)
        print(hits)
        Path("similar.html").write_text(page([hits], title="Similar pictures"), "utf-8")
        asked = random.Random(1).sample(uris, min(QUERIES, len(uris)))
        same = [class_of(hit.uri) == class_of(uri) for uri in asked for hit in index.similar(uri, k=K)]
        print(f"{100 * sum(same) / len(same):.1f} % of the {K} nearest are of the query's class ({len(asked)} queries)")


def class_of(uri: str) -> str:
    """The name of the folder that a picture lies in."""
    return unquote(uri).split("/")[-2]


arguments = dict(enumerate(sys.argv))
main(sys.argv[1], arguments.get(2), arguments.get(3, "mini"))
