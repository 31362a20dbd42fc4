"""Ours equals open_clip's own pipeline on the same random weights, from files and texts to vectors."""

import json
import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.models import GOLDEN_CLIP
from tests.pictures import scene

from sightline.encoders.onnx import OnnxEncoder
from sightline.encoders.tokens import Tokens, tokenizer_config
from sightline.errors import ModelDamaged

pytest.importorskip("torch", reason="needs the torch extra: pip install 'sightline[torch]'")
pytest.importorskip("onnx", reason="needs the torch extra: pip install 'sightline[torch]'")
torch = pytest.importorskip("torch")
from tests.parity import exporting  # noqa: E402  needs torch
from tests.parity.exporting import Shape, export, make_model, open_clip, write_tokenizer  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # torch's exporter and open_clip warn of themselves
]
SMALLEST_COSINE = 0.9999
CONTEXT = 77
TEXTS = (
    "a photo of a dog",
    "A PHOTO of a   dog\n",
    "two children’s bicycles – “red” and ‘blue’, 3 for $5!",
    "salt &amp;amp; pepper, 100% d'été; ﬁsh ＆ ｃｈｉｐｓ",
    "cafe\u0301 at night 🌙 naïve façade",
    "雪の中の犬 собака на снегу الكلب",
    "photo_of_a.cat-1234567890",
    "",
    "?!",
    "I'll say it's what we've got; they'd be gone <b>now</b>",
    "a man who walks along the beach with his dog " * 12,
)
SIZES = ((640, 480), (333, 500), (500, 224), (60, 400), (224, 224), (97, 65), (1, 1), (3000, 40))
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
PIXELS: dict[str, Any] = {"mode": "RGB", "mean": MEAN, "std": STD, "interpolation": "bicubic", "fill_color": 0}
CAUSAL = {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
SIGLIP = CAUSAL | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "context_length": 64}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], Shape]] = {
    "clip-vit": (
        {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "head_width": 16, "layers": 2},
            "text_cfg": CAUSAL,
        },
        PIXELS | {"size": [64, 64], "resize_mode": "shortest"},
        Shape(),
    ),
    "clip-resnet": (
        {
            "embed_dim": 48,
            "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
            "text_cfg": CAUSAL,
        },
        PIXELS | {"size": 96, "resize_mode": "shortest"},
        Shape(is_dynamic=False),
    ),
    "siglip": (
        {
            "embed_dim": 64,
            "custom_text": True,
            "init_logit_bias": -10.0,
            "vision_cfg": {
                "image_size": 160,
                "timm_model_name": "test_vit",
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": SIGLIP | {"tokenizer_kwargs": {"clean": "canonicalize"}},
        },
        PIXELS | {"size": [160, 160], "resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3},
        Shape(takes_bytes=True, integers=torch.int64),
    ),
    "longest": (
        {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "head_width": 16, "layers": 1},
            "text_cfg": CAUSAL,
        },
        PIXELS | {"size": [64, 64], "resize_mode": "longest", "interpolation": "bilinear", "fill_color": 128},
        Shape(takes_mask=True),
    ),
}


class Case:
    """One model: open_clip's module and our encoder of its export."""

    def __init__(self, name: str, folder: Path) -> None:
        config, pixels, shape = MODELS[name]
        self.pixels, self.config = pixels, config
        self.model: Any = make_model(config)
        export(self.model, config, pixels, folder, shape)
        self.length = config["text_cfg"]["context_length"]
        merges = exporting.installed_merges()
        write_tokenizer(merges, folder, context_length=self.length, pad_token="!")
        self.ours = OnnxEncoder(folder)
        clean = config["text_cfg"].get("tokenizer_kwargs", {}).get("clean", "lower")
        self.tokenizer = open_clip.SimpleTokenizer(context_length=self.length, clean=clean)

    def their_image(self, image: Image.Image) -> NDArray[np.float32]:
        how = open_clip.transform.PreprocessCfg(**self.pixels)
        pixels = open_clip.transform.image_transform_v2(how, is_train=False)(image)
        with torch.no_grad():
            vector: NDArray[np.float32] = self.model.encode_image(pixels[None], normalize=True)[0].numpy()
        return vector

    def their_texts(self) -> NDArray[np.float32]:
        with torch.no_grad():
            vectors: NDArray[np.float32] = self.model.encode_text(self.tokenizer(list(TEXTS)), normalize=True).numpy()
        return vectors


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(str(request.param), tmp_path_factory.mktemp("model") / str(request.param))


def files() -> list[bytes]:
    buffers = [BytesIO() for _ in SIZES]
    for number, (size, buffer) in enumerate(zip(SIZES, buffers, strict=True)):
        _grain(scene(number, (max(size[0], 11), max(size[1], 11))), number).resize(size).save(
            buffer, "JPEG", quality=90
        )
    return [buffer.getvalue() for buffer in buffers]


def _grain(image: Image.Image, seed: int) -> Image.Image:
    """With noise, so that how a picture is resampled shows in its vector."""
    noise = np.random.default_rng(seed).normal(0, 25, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def test_pictures_equal_those_of_open_clip(case: Case) -> None:
    for data in files():
        image = Image.open(BytesIO(data))
        ours = case.ours.encode_images(case.ours.preprocess(image)[None])[0]
        assert ours @ case.their_image(image) >= SMALLEST_COSINE, image.size


def test_texts_equal_those_of_open_clip(case: Case) -> None:
    ours, theirs = case.ours.encode_texts(TEXTS), case.their_texts()
    assert np.einsum("nd,nd->n", ours, theirs).min() >= SMALLEST_COSINE


def test_a_batch_equals_single_pictures(case: Case) -> None:
    pixels = np.stack([case.ours.preprocess(Image.open(BytesIO(data))) for data in files()])
    singly = np.concatenate([case.ours.encode_images(one[None]) for one in pixels])
    assert np.einsum("nd,nd->n", case.ours.encode_images(pixels), singly).min() >= SMALLEST_COSINE


def test_only_a_tower_that_does_not_see_the_padding_runs_at_real_length(case: Case) -> None:
    """A bidirectional tower gives another vector without padding, a fixed graph cannot run without it."""
    expected = {"clip-vit": True, "clip-resnet": False, "siglip": False, "longest": True}
    assert case.ours._texts is not None
    assert case.ours._texts.latency_session().runs_short is expected[case.ours.name]


@pytest.mark.parametrize("text_cfg", [{"context_length": CONTEXT}, {"context_length": 16, "tokenizer_kwargs": {}}])
def test_ids_equal_those_of_the_clip_tokenizer(text_cfg: Mapping[str, Any], tmp_path: Path) -> None:
    length = text_cfg["context_length"]
    write_tokenizer(exporting.installed_merges(), tmp_path, context_length=length)
    ours = Tokens(tokenizer_config(text_cfg, {}, tmp_path / "textual" / "tokenizer.json")).ids(TEXTS)
    theirs = open_clip.SimpleTokenizer(context_length=length)(list(TEXTS))
    for text, mine, row in zip(TEXTS, ours, theirs.tolist(), strict=True):
        assert mine + [0] * (length - len(mine)) == row, text


@pytest.mark.parametrize("clean", ["canonicalize", "whitespace", "lower"])
def test_ids_equal_those_of_a_hugging_face_tokenizer(clean: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs transformers beside the torch extra")
    write_tokenizer(exporting.installed_merges(), tmp_path, context_length=64)
    folder = tmp_path / "textual"
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}), "utf-8"
    )
    theirs = open_clip.tokenizer.HFTokenizer(str(folder), context_length=64, clean=clean)(list(TEXTS))
    text_cfg = {"context_length": 64, "hf_tokenizer_name": "any", "tokenizer_kwargs": {"clean": clean}}
    tokens = Tokens(tokenizer_config(text_cfg, settings, folder / "tokenizer.json"))
    for text, mine, row in zip(TEXTS, tokens.ids(TEXTS), theirs.tolist(), strict=True):
        assert mine + [tokens.pad_id] * (64 - len(mine)) == row, text


def test_weights_outside_the_graph_are_found_and_missed(tmp_path: Path) -> None:
    import onnx

    folder = Path(shutil.copytree(GOLDEN_CLIP, tmp_path / "model"))
    before = OnnxEncoder(folder)
    graph = folder / "textual" / "model.onnx"
    onnx.save(onnx.load(graph), graph, save_as_external_data=True, location="weights", size_threshold=1024)
    after = OnnxEncoder(folder)
    assert (folder / "textual" / "weights").stat().st_size > 10_000
    assert after.fingerprint != before.fingerprint
    np.testing.assert_allclose(after.encode_texts(TEXTS), OnnxEncoder(GOLDEN_CLIP).encode_texts(TEXTS), atol=1e-5)
    (folder / "textual" / "weights").unlink()
    with pytest.raises(ModelDamaged, match=r"textual.*model\.onnx cannot be loaded"):
        OnnxEncoder(folder).encode_texts(TEXTS)
