"""Index a folder and search it: python examples/first_search.py FOLDER "what you look for"."""

import sys

import sightline

folder, words = sys.argv[1:3]

index = sightline.open("photos.index")
summary = index.add(folder)
print(f"{summary.encoded} pictures encoded, {summary.unchanged} unchanged")

for hit in index.search(words, k=5):
    print(f"{hit.score:.3f}  {hit.uri}")
