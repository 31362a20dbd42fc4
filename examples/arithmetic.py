"""Add and subtract words and pictures: python examples/arithmetic.py INDEX PICTURE."""

import sys

import sightline
from sightline import Term

url, picture = sys.argv[1:3]

with sightline.open(url) as index:
    terms = [Term("image", picture), Term("text", "at night"), Term("text", "people", weight=-0.5)]
    for hit in index.search(terms=terms, k=5, where={"width": {"$gte": 100}}):
        print(f"{hit.score:.3f}  {hit.uri}")
