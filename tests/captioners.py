"""Captioning models of random weights, small enough for a test, as the libraries of the real ones make them."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

_operators = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    # A torchvision built for another torch lacks its compiled operators; its transforms do without.
    if not hasattr(torch.ops.torchvision, _name):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

SIDE = 32
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] [DEC] a dog red car on the beach house tree".split()


def write_blip(folder: Path) -> Path:
    """A BLIP of one layer, as transformers saves it; what it says are the words above, for no reason."""
    transformers: Any = import_module("transformers")  # its types know fewer names than it has

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = transformers.BertTokenizerFast.from_pretrained(str(folder), bos_token="[DEC]")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 32, "max_position_embeddings": 64, "projection_dim": 16}
    config = transformers.BlipConfig(
        text_config=tower | marks | text,
        vision_config=tower | {"image_size": SIDE, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    torch.manual_seed(0)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    transformers.BlipProcessor(
        transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer
    ).save_pretrained(folder)
    return folder


def make_coca(folder: Path) -> tuple[Any, Any]:
    """A CoCa of one layer and its transform, made by open_clip from a config in `folder`."""
    import open_clip

    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    picture = {"image_size": SIDE, "patch_size": 8, "width": 64, "layers": 1, "head_width": 32}
    config = {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": picture | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": text | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": text | {"attn_pooler_heads": 2},
    }
    (folder / "coca_tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("coca_tiny")
    return model, transform
