"""Real architectures of open_clip and transformers with random weights, small enough to train in a test."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sightline.encoders.torch import open_clip as loader
from sightline.encoders.torch.libraries import library
from sightline.encoders.torch.towers import END, START

CONTEXT = 16
VISION = {"image_size": 64, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2}
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SIGLIP = {
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "tokenizer_kwargs": {"clean": "canonicalize"},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-vit": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "tiny-coca": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {**VISION, "attentional_pool": True, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
    },
    "tiny-siglip": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {**TEXT, **SIGLIP},
    },
}


def open_clip_folder(folder: Path, name: str = "tiny-vit") -> Path:
    """A folder as open_clip saves it, of random weights that tell pictures and texts apart."""
    open_clip = library("open_clip")
    torch.manual_seed(0)
    config = {key: value for key, value in CONFIGS[name].items() if key != "custom_text"}
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CLIP
    model = (open_clip.CustomTextCLIP if name == "tiny-siglip" else kind)(**config)
    folder.mkdir(parents=True)
    torch.save(spread(model).state_dict(), folder / "open_clip_pytorch_model.bin")
    document = {"model_cfg": CONFIGS[name], "preprocess_cfg": {"resize_mode": "shortest"}}
    (folder / loader.CONFIG).write_text(json.dumps(document))
    return folder


def transformers_folder(folder: Path, kind: str = "clip") -> Path:
    """A folder as transformers saves it, with tokenizer and preprocessor."""
    import transformers

    from sightline.encoders.torch.towers import byte_pair_tokenizer

    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    letters = [chr(code) for code in range(256, 512)]
    tokenizer = byte_pair_tokenizer([*_byte_letters()], [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>")])
    ids = {name: tokenizer.token_to_id(token) for name, token in (("bos_token_id", START), ("eos_token_id", END))}
    text = {**tower, "vocab_size": len(letters) * 2 + 6, "max_position_embeddings": CONTEXT, **ids, "pad_token_id": 0}
    vision = {**tower, "image_size": 64, "patch_size": 16}
    if kind == "clip":
        config: Any = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        model: Any = transformers.CLIPModel(config)
        processor: Any = transformers.CLIPImageProcessor(
            size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
        )
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
        processor = transformers.SiglipImageProcessor(size={"height": 64, "width": 64})
    spread(model)
    model.save_pretrained(folder)
    kind_of_tokenizer: Any = transformers.PreTrainedTokenizerFast
    fast = kind_of_tokenizer(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token="!", model_max_length=CONTEXT
    )
    fast.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def spread(model: nn.Module) -> nn.Module:
    """Random weights as they come give every input nearly the same vector; larger ones do not."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position" in name or "token_embedding" in name:
                parameter.normal_(std=1.0)
            elif parameter.ndim == 4 or "attn.out_proj.weight" in name:
                parameter.mul_(4)
    return model.eval()


def _byte_letters() -> list[str]:
    open_clip = library("open_clip")
    return list(open_clip.tokenizer.bytes_to_unicode().values())
