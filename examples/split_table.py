"""Share a captions table out for training: python examples/split_table.py TABLE OUTPUT [MOST_TO_TRAIN_ON].

The output has a column `split` more: dev (3 in 100 pictures, to choose settings by), test (7, to be measured once,
at the end) and train. A hash of the picture's name decides, so that every run and every machine shares out alike, and
captions of one picture stay together.
"""

import csv
import hashlib
import sys
from pathlib import Path

source, target = sys.argv[1:3]
most = int(sys.argv[3]) if len(sys.argv) > 3 else None


def number(image: str) -> int:
    """A large number, always the same for a name."""
    return int(hashlib.sha256(image.encode()).hexdigest(), 16)


def split_of(image: str) -> str:
    """As `hold_out_percent = 10` does it: dev and test together are that tenth."""
    place = number(image) % 100
    return "dev" if place < 3 else "test" if place < 10 else "train"


with Path(source).open(encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
train = sorted({row["image"] for row in rows if split_of(row["image"]) == "train"}, key=number)
left_out = set(train[most:] if most is not None else [])
with Path(target).open("w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
    writer.writerow(["split", *rows[0]])
    for row in rows:
        if row["image"] not in left_out:
            writer.writerow([split_of(row["image"]), *row.values()])
