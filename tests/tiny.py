"""A two-tower model small enough to train in a test, and pictures that it can learn."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer
from torch import nn

from sightline.train.config import Precision, Settings
from sightline.train.mini import MiniTowers, Shape, documents_of, restored
from sightline.train.model_folder import write_folder

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "green", "blue", "yellow", "photo", "of", "dark", "bright")
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (220, 210, 40)}


def shape() -> Shape:
    return Shape(
        dim=16,
        image_size=64,
        vocabulary_size=len(WORDS),
        context_length=8,
        hidden=16,
        layers=2,
        heads=2,
        intermediate=32,
        pooling_heads=2,
    )


def model(seed: int = 0) -> MiniTowers:
    """Random weights that let a picture through all blocks, the pooling head too, so that a fault in any shows."""
    torch.manual_seed(seed)
    towers = MiniTowers(shape())
    for name, parameter in towers.image.named_parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear" if "project" in name else "relu")
        elif name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.3, 0.3)
    torch.nn.init.normal_(towers.image.pool_projection.weight, std=0.1)
    towers.eval()
    return towers


def tokenizer() -> Tokenizer:
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]")]
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(n) for n in range(4)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special[0], sequence, special[1]],
            "pair": [special[0], sequence, special[1], sequence, special[1]],
            "special_tokens": {
                name: {"id": name, "ids": [WORDS.index(name)], "tokens": [name]} for name in ("[CLS]", "[SEP]")
            },
        },
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: n for n, word in enumerate(WORDS)},
        },
    }
    return Tokenizer.from_str(json.dumps(document))


def write(folder: Path, precision: Precision = "float32", *, calibration: NDArray[np.uint8] | None = None) -> None:
    """The model as a folder; `calibration` are pixels, (n, 3, side, side)."""
    write_folder(model().sides(documents_of(shape(), tokenizer().to_str())), folder, precision, calibration=calibration)


def restore(folder: Path) -> MiniTowers:
    """The model of a folder."""
    return restored(folder, Settings()).model


def state_of(tower: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The weights of a tower as arrays by name."""
    return {name: value.detach().float().cpu().numpy() for name, value in tower.state_dict().items()}


def _added(number: int) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": WORDS[number], "special": True, **flags}


def coloured_pictures(folder: Path, count: int = 24) -> Path:
    """`count` pictures of one colour each and a table `captions.tsv` of their captions; every third is `dev`."""
    chance = np.random.default_rng(0)
    rows = ["image\tcaption\tsplit"]
    for n in range(count):
        name, colour = list(COLOURS.items())[n % 4]
        noise = chance.integers(-20, 20, (48, 64, 3))
        Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{n}.png")
        rows.append(f"{n}.png\ta photo of {name} {n}\t{'dev' if n % 3 == 0 else 'train'}")
    (folder / "captions.tsv").write_text("\n".join(rows) + "\n")
    return folder
