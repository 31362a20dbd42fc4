"""Eight queries of colour and number before and after fine-tuning, judged by the captions that people wrote.

python examples/web_application.py FOLDER CAPTIONS [--split dev] [--model mini --model ./tuned]
python examples/web_application.py FOLDER CAPTIONS --split train --training-table colours.tsv

FOLDER holds pictures of any kind (JPG, PNG, BMP), CAPTIONS is a table with the columns image and caption, one line a
caption. The second form writes the captions to fine-tune on: those that name a colour or a number.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

import numpy as np

import sightline
from sightline.evaluate import metrics
from sightline.sources.base import open_source
from sightline.sources.files import path_of
from sightline.sources.rows import Row, open_rows

K = 10
QUERIES = {  # what a caption says of a picture that answers the query; up to a few words may stand between
    "black dog": r"\bblack (\w+ ){0,2}dogs?\b",
    "white shirt": r"\bwhite (\w+ )?(t-?)?shirts?\b",
    "green grass": r"\bgreen (\w+ )?grass",
    "red car": r"\bred (\w+ )?cars?\b",
    "two dogs": r"\b(two|2) (\w+ ){0,3}dogs\b",
    "a woman with blond hair": r"\bblonde?\b.*\b(woman|girl|lady)\b|\b(woman|girl|lady)\b.*\bblonde?\b",
    "white pants": r"\bwhite (\w+ )?(pants|trousers)\b",
    "two cats": r"\b(two|2) (\w+ ){0,3}cats\b",
}
COLOURS_AND_NUMBERS = r"\b(black|white|green|red|blue|yellow|brown|orange|pink|blonde?|one|two|three|four|five)\b"


def main(options: argparse.Namespace) -> None:
    """Judge the queries by the captions, then measure each model on them."""
    rows = [row for row in open_rows(Path(options.captions)).walk() if options.split in (None, row.get("split"))]
    if options.training_table:
        pairs = [(row["image"], row["caption"]) for row in rows if says(row, COLOURS_AND_NUMBERS)]
        write(Path(options.training_table), [("image", "caption"), *pairs])
        return
    grades = {query: judged(rows, pattern) for query, pattern in QUERIES.items()}
    print("relevant pictures:", ", ".join(f"{query} {len(found)}" for query, found in grades.items()))
    graded = [(query, name, grade) for query, found in grades.items() for name, grade in found.items()]
    write(Path("judgements.tsv"), [("query", "image", "grade"), *graded])  # for `sightline evaluate`, too
    names = list(dict.fromkeys(str(row["image"]) for row in rows))
    for model in options.model or ["mini"]:
        measure(model, Path(options.folder), names, {query: found for query, found in grades.items() if found})


def says(row: Row, pattern: str) -> bool:
    """Whether a caption names what the pattern looks for."""
    return re.search(pattern, str(row["caption"]), re.IGNORECASE) is not None


def judged(rows: list[Row], pattern: str) -> Counter[str]:
    """For each picture how many of its captions say so: its grade. One that no caption names so counts as wrong."""
    return Counter(str(row["image"]) for row in rows if says(row, pattern))


def measure(model: str, folder: Path, names: list[str], grades: dict[str, Counter[str]]) -> None:
    """Index the pictures by a model, ask it, and print a line for each query and one for all."""
    with sightline.open(f"{Path(model).name}.index", model=model) as index:
        index.add(item for name in names for item in open_source(folder / name))
        vectors = {path_of(record.uri).name: record.vector for record in index.store.scan()}
        texts = index.encoder.encode_texts(list(grades))
    there = [name for name in names if Path(name).name in vectors]
    place = {name: number for number, name in enumerate(there)}
    graded = [
        (number, place[name], grade)
        for number, found in enumerate(grades.values())
        for name, grade in found.items()
        if name in place
    ]
    gallery = np.stack([vectors[Path(name).name] for name in there])  # (n, dim)
    pairs = np.array([pair[:2] for pair in graded], np.int64)  # (p, 2)
    ranked = metrics.rankings(texts, gallery, pairs, np.array([grade for *_, grade in graded], np.float64))
    figures = [metrics.precision(ranked, K), metrics.recall(ranked, K), metrics.ndcg(ranked, K)]
    print(f"\n{model:24} precision@{K} recall@{K}  nDCG@{K}")
    for number, query in enumerate(grades):
        print(f"{query:24}", *(f"{values[number]:10.3f}" for values in figures))
    print(f"{'mean':24}", *(f"{values.mean():10.3f}" for values in figures))


def write(path: Path, rows: list[tuple[object, ...]]) -> None:
    """A table with tabs between the cells."""
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), "utf-8")


parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("captions")
parser.add_argument("--split")
parser.add_argument("--model", action="append", default=[])
parser.add_argument("--training-table")
main(parser.parse_args())
