"""Count what is taken for another language than English among real captions, one a line (.txt, .txt.gz).

python -m benchmarks.languages CAPTIONS...
"""

import gzip
import sys
from pathlib import Path

from sightline.encoders.catalog import bundled_folder
from sightline.encoders.tokens import Tokens, tokenizer_config


def main() -> None:
    folder = bundled_folder("mini") / "textual"
    tokens = Tokens(tokenizer_config({"context_length": 64}, {}, folder / "tokenizer.json"))
    for path in map(Path, sys.argv[1:]):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        captions = data.decode().splitlines()
        doubted = [caption for caption in captions if tokens.reads(caption) != "yes"]
        share = len(doubted) / len(captions)
        print(f"{path.name:32s} {len(captions):8,d} captions, {len(doubted):4d} doubted ({share:.4%}) {doubted[:3]}")


if __name__ == "__main__":
    main()
