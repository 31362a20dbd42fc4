"""An encoder in torch equals its library's own pipeline on the same random weights, batched, from real JPEG files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.pictures import scene

from sightline.encoders.base import load_encoder
from sightline.errors import TextNotSupported
from sightline.images.read import read
from sightline.types import Vectors

torch = pytest.importorskip("torch", reason="needs the torch extra: pip install 'sightline[torch]'")
from tests import towers  # noqa: E402  needs torch

from sightline.encoders.torch.libraries import library, quietly  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # the libraries warn of themselves
SMALLEST_COSINE = 0.9999
SIZES = ((320, 240), (333, 500), (500, 97), (60, 83), (64, 64), (31, 47), (211, 144))
TEXTS = ("a photo of a dog", "A RED  dog", "", "dog?", "two dogs in the snow " * 20, "café ça")


@dataclass(frozen=True)
class Pipeline:
    """The library's own vectors of pictures and of texts, None where it knows no words."""

    images: Callable[[Sequence[Image.Image]], Any]
    texts: Callable[[Sequence[str]], Any] | None = None


def jpegs() -> list[bytes]:
    files = []
    for number, size in enumerate(SIZES):
        buffer = BytesIO()
        scene(number, size).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def of_timm(name: str) -> Pipeline:
    timm = library("timm")
    architecture, _, path = name.removeprefix("timm:").partition("@")
    model = timm.create_model(architecture, pretrained=False, num_classes=10)
    state = torch.load(path)["state_dict"]
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    model.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return Pipeline(lambda images: model.eval()(torch.stack([transform(image) for image in images])))


def of_open_clip(name: str) -> Pipeline:
    open_clip = library("open_clip")
    architecture, _, path = name.removeprefix("open_clip:").partition("@")
    model, _, transform = open_clip.create_model_and_transforms(architecture)
    model.load_state_dict(torch.load(path))
    tokenizer = open_clip.get_tokenizer(architecture)
    model.eval()
    return Pipeline(
        lambda images: model.encode_image(torch.stack([transform(image) for image in images])),
        lambda texts: model.encode_text(tokenizer(list(texts))),
    )


def of_transformers(name: str) -> Pipeline:
    """What the library's own pages show: processor, then `get_..._features`, or the model itself."""
    transformers = library("transformers")
    folder = name.removeprefix("hf:")
    kind = Path(folder).name
    model = getattr(transformers, MODELS[kind]).from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)

    def pixels(images: Sequence[Image.Image]) -> Any:
        return processor(images=list(images), return_tensors="pt")["pixel_values"]

    if kind == "vit":  # what a classifier would get; the pooler is for another task
        return Pipeline(lambda images: model(pixels(images)).last_hidden_state[:, 0])
    if kind in ("dinov2", "resnet"):
        return Pipeline(lambda images: model(pixels(images)).pooler_output.flatten(1))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if kind in ("siglip", "align") else True

    def tokens(texts: Sequence[str]) -> Any:
        read = tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")
        return {
            key: read[key] for key in ("input_ids", "attention_mask") if key != "attention_mask" or kind != "siglip"
        }

    if kind == "blip":
        return Pipeline(
            lambda images: model.vision_proj(model.vision_model(pixels(images))[0][:, 0]),
            lambda texts: model.text_proj(model.text_encoder(**tokens(texts))[0][:, 0]),
        )
    return Pipeline(
        lambda images: model.get_image_features(pixel_values=pixels(images)).pooler_output,
        lambda texts: model.get_text_features(**tokens(texts)).pooler_output,
    )


def of_sentence_transformers(name: str) -> Pipeline:
    model = library("sentence_transformers").SentenceTransformer(name.removeprefix("st:"), device="cpu")
    return Pipeline(
        lambda images: model.encode(list(images), convert_to_tensor=True),
        lambda texts: model.encode(list(texts), convert_to_tensor=True),
    )


def of_simclr(name: str) -> Pipeline:
    """The checkpoint in torchvision's ResNet, as lightning-bolts evaluates it."""
    torchvision = library("torchvision")
    state = torch.load(name.removeprefix("simclr:"))["state_dict"]
    encoder = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    model = torchvision.models.resnet50(num_classes=4)
    model.load_state_dict(encoder)
    model.fc = torch.nn.Identity()
    steps = torchvision.transforms
    transform = steps.Compose(
        [
            steps.Resize(246),
            steps.CenterCrop(224),
            steps.ToTensor(),
            steps.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return Pipeline(lambda images: model.eval()(torch.stack([transform(image) for image in images])))


MODELS = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "blip": "BlipForImageTextRetrieval",
    "align": "AlignModel",
    "dinov2": "Dinov2Model",
    "vit": "ViTModel",
    "resnet": "ResNetModel",
    "chinese_clip": "ChineseCLIPModel",
}


def transformers_name(folder: Path, kind: str) -> str:
    return f"hf:{towers.transformers_folder(folder, kind)}"


CASES: dict[str, tuple[Callable[[Path], str], Callable[[str], Pipeline]]] = {
    "timm convolutions": (lambda folder: towers.timm_state(folder, "test_resnet"), of_timm),
    "timm efficientnet": (lambda folder: towers.timm_state(folder, "test_efficientnet"), of_timm),
    "timm transformer": (lambda folder: towers.timm_state(folder, "test_vit"), of_timm),
    "timm mobilenet": (lambda folder: towers.timm_state(folder, "mobilenetv3_small_050"), of_timm),
    "open_clip": (towers.open_clip_state, of_open_clip),
    "simclr": (lambda folder: towers.simclr_checkpoint(folder, "resnet50"), of_simclr),
    "sentence-transformers": (lambda folder: f"st:{towers.sentence_folder(folder)}", of_sentence_transformers),
    **{kind: (partial(transformers_name, kind=kind), of_transformers) for kind in MODELS},
}


def unit(rows: Any) -> Vectors:
    values = np.asarray(rows.float().numpy(), np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_those_of_the_library(case: str, tmp_path: Path) -> None:
    make, pipeline_of = CASES[case]
    with quietly():
        name = make(tmp_path)
        encoder, pipeline = load_encoder(name), pipeline_of(name)
    whole = [read(data, image_size=10_000) for data in jpegs()]
    pictures = encoder.encode_images(np.stack([encoder.preprocess(image) for image in whole]))
    with torch.no_grad(), quietly():
        expected = unit(pipeline.images(whole))
        texts = unit(pipeline.texts(TEXTS)) if pipeline.texts else None
    assert np.einsum("nd,nd->n", pictures, expected).min() >= SMALLEST_COSINE
    others = pictures @ expected.T - 2 * np.eye(len(whole))
    assert others.max() < SMALLEST_COSINE  # else the weights see no difference and the test could not fail
    if texts is None:
        with pytest.raises(TextNotSupported):
            encoder.encode_texts(TEXTS)
        return
    assert np.einsum("nd,nd->n", encoder.encode_texts(TEXTS), texts).min() >= SMALLEST_COSINE
    assert (texts @ texts.T - 2 * np.eye(len(TEXTS))).max() < SMALLEST_COSINE
