"""Writes tests/data/golden: tiny models of random weights, pictures, texts, and what open_clip makes of them.

Run in an environment with the torch extra: python -m tests.parity.make_golden
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.parity.exporting import Shape, export, make_model, open_clip, simple_tokenizer, write_tokenizer
from tests.pictures import scene
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CONTEXT = 24
MERGES = 60
SIZES = ((160, 120), (60, 200), (97, 97), (240, 40), (33, 51), (12, 9))
TEXTS = (
    "a dog runs through the snow",
    "A Dog Runs   through\tthe snow!",
    "two children’s bicycles – “red” and ‘blue’",
    "salt &amp; pepper, 100% d'été",
    "ﬁsh ＆ ｃｈｉｐｓ",
    "cafe\u0301 at night 🌙",
    "雪の中の犬",
    "photo_of_a.cat",
    "",
    "?!",
    "a very long sentence about a man who walks along the beach with his dog while the sun sets over the sea",
)
CORPUS = (
    "a dog runs through the snow",
    "a man walks along the beach with his dog",
    "two children ride red and blue bicycles",
    "the sun sets over the sea",
    "a cat sleeps on the sofa",
    "a photo of a street at night",
    "people eat fish and chips",
    "a woman in a red dress dances",
    "a boy jumps into the water",
    "the old train stands in the station",
)
TEXT = {"context_length": CONTEXT, "vocab_size": 512 + MERGES + 2, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1}
CLIP: Mapping[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
SIGLIP: Mapping[str, Any] = {
    "embed_dim": 16,
    "custom_text": True,
    "init_logit_bias": -10.0,
    "vision_cfg": VISION,
    "text_cfg": TEXT
    | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "tokenizer_kwargs": {"clean": "canonicalize"}},
}
CLIP_PIXELS = {
    "size": [32, 32],
    "mode": "RGB",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
SIGLIP_PIXELS = CLIP_PIXELS | {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}


def main() -> None:
    """Write everything anew."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    (GOLDEN / "pictures").mkdir(parents=True)
    for number, size in enumerate(SIZES):
        scene(number, size).save(GOLDEN / "pictures" / f"{number}.jpg", quality=80)
    (GOLDEN / "texts.json").write_text(json.dumps(TEXTS, ensure_ascii=False, indent=1), "utf-8")
    merges = own_merges()
    models = {"clip": (CLIP, CLIP_PIXELS, "lower", Shape()), "siglip": (SIGLIP, SIGLIP_PIXELS, "canonicalize", _FIXED)}
    for name, (config, pixels, clean, shape) in models.items():
        model = make_model(config)
        export(model, config, pixels, GOLDEN / name, shape)
        write_tokenizer(merges, GOLDEN / name, context_length=CONTEXT, pad_token="!")  # id 0, SimpleTokenizer's padding
        images = open_clip_images(model, pixels, sorted((GOLDEN / "pictures").iterdir()))
        texts = open_clip_texts(model, merges, TEXTS, clean)
        np.savez(GOLDEN / name / "expected.npz", images=images.astype(np.float32), texts=texts.astype(np.float32))


def own_merges() -> list[str]:
    """Merges of a byte-level vocabulary trained on a few sentences: CLIP's own is not ours to copy."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(merge) for merge in merges][:MERGES]


def open_clip_images(model: Any, pixels: Mapping[str, Any], paths: Sequence[Path]) -> NDArray[np.float32]:
    """What open_clip makes of picture files: (n, dim)."""
    how = open_clip.transform.PreprocessCfg(**pixels)
    transform = open_clip.transform.image_transform_v2(how, is_train=False)
    with torch.no_grad():
        return np.concatenate(
            [model.encode_image(transform(Image.open(path))[None], normalize=True).numpy() for path in paths]
        )


def open_clip_texts(model: Any, merges: Sequence[str], texts: Sequence[str], clean: str) -> NDArray[np.float32]:
    """What open_clip makes of texts: (n, dim)."""
    path = GOLDEN.parent / "merges.txt.gz"
    tokenizer = simple_tokenizer(merges, path, CONTEXT, clean)
    path.unlink()
    with torch.no_grad():
        vectors: NDArray[np.float32] = model.encode_text(tokenizer(list(texts)), normalize=True).numpy()
    return vectors


_FIXED = Shape(is_dynamic=False, takes_bytes=True, integers=torch.int64)

if __name__ == "__main__":
    main()
