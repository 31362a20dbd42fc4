"""Models of other libraries with random weights, saved as those libraries save them, small enough for a test."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tests.models import GOLDEN_CLIP

from sightline.encoders.torch.libraries import library

SIDE = 64
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {"image_size": SIDE, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2}
_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", "##a", "##e", "dog", "red", "photo", "?")


def timm_state(folder: Path, architecture: str = "test_resnet") -> str:
    """A classifier's state dict, head and all, and the name that loads it."""
    torch.manual_seed(0)
    model = _spread(library("timm").create_model(architecture, pretrained=False, num_classes=10))
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, folder / "t.pt")
    return f"timm:{architecture}@{folder / 't.pt'}"


def simclr_checkpoint(folder: Path, network: str = "resnet18", layout: str = "lightning-bolts") -> str:
    """A checkpoint with encoder and projection head in the names of a layout."""
    torch.manual_seed(0)
    encoder = _spread(library("timm").create_model(network, pretrained=False, num_classes=4))
    heads = {"lightning-bolts": ("encoder.", "projection.model.0."), "sthalles": ("backbone.", "backbone.fc.2.")}
    prefix, head = heads[layout]
    state = {f"{prefix}{name}": value for name, value in encoder.state_dict().items()}
    state[f"{head}weight"] = torch.ones(8, 4)
    path = folder / f"{layout}.ckpt"
    torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": {"arch": network}}, path)
    return f"simclr:{path}"


def open_clip_state(folder: Path) -> str:
    """A fine-tuned state dict over an architecture that open_clip knows by name."""
    open_clip = library("open_clip")
    (folder / "tiny-towers.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": _VISION, "text_cfg": _TEXT}))
    open_clip.add_model_config(folder / "tiny-towers.json")
    torch.manual_seed(0)
    torch.save(_spread(open_clip.create_model("tiny-towers")).state_dict(), folder / "open_clip.pt")
    return f"open_clip:tiny-towers@{folder / 'open_clip.pt'}"


def transformers_folder(folder: Path, kind: str) -> Path:
    """A folder as transformers saves it, with tokenizer and preprocessor."""
    transformers = library("transformers")
    torch.manual_seed(0)
    path = folder / kind
    model, processor = _KINDS[kind](transformers)
    _spread(model).save_pretrained(path)
    processor.save_pretrained(path)
    if hasattr(model.config, "text_config"):
        _tokenizer(transformers, kind).save_pretrained(path)
    return path


def sentence_folder(folder: Path) -> Path:
    """A CLIP as sentence-transformers saves one."""
    sentence_transformers = library("sentence_transformers")
    transformers = library("transformers")
    clip = transformers_folder(folder, "clip")
    processor = transformers.CLIPProcessor(
        transformers.AutoImageProcessor.from_pretrained(clip), transformers.AutoTokenizer.from_pretrained(clip)
    )
    processor.save_pretrained(clip)
    module = sentence_transformers.sentence_transformer.modules.Transformer(str(clip))
    path = folder / "sentence"
    sentence_transformers.SentenceTransformer(modules=[module], device="cpu").save(str(path))
    return path


def _clip(transformers: Any) -> tuple[Any, Any]:
    text = {**_TOWER, "vocab_size": 600, "max_position_embeddings": 16, **_ends()}
    config = transformers.CLIPConfig(text_config=text, vision_config=_vision(), projection_dim=16)
    size = {"height": SIDE, "width": SIDE}
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    return transformers.CLIPModel(config), processor


def _siglip(transformers: Any) -> tuple[Any, Any]:
    text = {**_TOWER, "vocab_size": 600, "max_position_embeddings": 16, **_ends()}
    config = transformers.SiglipConfig(text_config=text, vision_config=_vision())
    return transformers.SiglipModel(config), transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})


def _blip(transformers: Any) -> tuple[Any, Any]:
    text = {**_TOWER, "vocab_size": len(_WORDS), "max_position_embeddings": 32, "encoder_hidden_size": 32}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    config = transformers.BlipConfig(text_config=text, vision_config=_vision(), image_text_hidden_size=16)
    processor = transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    return transformers.BlipForImageTextRetrieval(config), processor


def _align(transformers: Any) -> tuple[Any, Any]:
    text = {**_TOWER, "vocab_size": len(_WORDS), "max_position_embeddings": 32}
    vision = {"image_size": 49, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 80}
    config = transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=80)
    processor = transformers.EfficientNetImageProcessor(  # as kakaobrain/align-base has it, smaller
        size={"height": 58, "width": 58},
        crop_size={"height": 49, "width": 49},
        do_center_crop=True,
        resample=2,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
    )
    return transformers.AlignModel(config), processor


def _dinov2(transformers: Any) -> tuple[Any, Any]:
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    size = {"height": 56, "width": 56}
    processor = transformers.BitImageProcessor(size={"shortest_edge": 64}, crop_size=size, resample=3)
    return transformers.Dinov2Model(config), processor


def _vit(transformers: Any) -> tuple[Any, Any]:
    config = transformers.ViTConfig(**_vision())
    size = {"height": SIDE, "width": SIDE}
    return transformers.ViTModel(config, add_pooling_layer=False), transformers.ViTImageProcessor(size=size)


def _resnet(transformers: Any) -> tuple[Any, Any]:
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    size = {"height": 56, "width": 56}
    return transformers.ResNetModel(config), transformers.BitImageProcessor(size={"shortest_edge": 64}, crop_size=size)


def _chinese_clip(transformers: Any) -> tuple[Any, Any]:
    text = {**_TOWER, "vocab_size": len(_WORDS), "max_position_embeddings": 32}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=_vision(), projection_dim=16)
    size = {"height": SIDE, "width": SIDE}
    return transformers.ChineseCLIPModel(config), transformers.ChineseCLIPImageProcessor(
        size=size, crop_size=size, do_center_crop=False
    )


_KINDS: Mapping[str, Callable[[Any], tuple[Any, Any]]] = {
    "clip": _clip,
    "siglip": _siglip,
    "blip": _blip,
    "align": _align,
    "dinov2": _dinov2,
    "vit": _vit,
    "resnet": _resnet,
    "chinese_clip": _chinese_clip,
}


def _vision() -> dict[str, int]:
    return {**_TOWER, "image_size": SIDE, "patch_size": 16}


def _ends() -> dict[str, int]:
    tokenizer = _golden()
    ends = {"bos_token_id": _START, "eos_token_id": _END, "pad_token_id": "!"}
    return {name: tokenizer.token_to_id(token) for name, token in ends.items()}


def _golden() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(GOLDEN_CLIP / "textual" / "tokenizer.json"))


def _tokenizer(transformers: Any, kind: str) -> Any:
    if kind in ("blip", "align", "chinese_clip"):
        vocabulary = {word: number for number, word in enumerate(_WORDS)}
        return transformers.BertTokenizer(vocab=vocabulary, model_max_length=32)
    fast = transformers.PreTrainedTokenizerFast
    return fast(tokenizer_object=_golden(), bos_token=_START, eos_token=_END, pad_token="!", model_max_length=16)


def _spread(model: Any) -> Any:
    """Random weights as they come give every input nearly the same vector; larger ones do not."""
    torch.manual_seed(1)
    is_of_timm = type(model).__module__.startswith("timm.")  # its own initial weights let pictures through
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name and parameter.ndim in (2, 3):
                parameter.normal_(std=1.0)
            elif parameter.ndim in (2, 4) and not is_of_timm:
                parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(*((0.5, 1.5) if is_of_timm else (1.0, 1.5)))
                module.bias.uniform_(-0.05, 0.05)
    return model.eval()
