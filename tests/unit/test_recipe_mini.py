"""The recipe of the bundled model: published parts of random weights go through it whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs the torch extra")
pytest.importorskip("onnx", reason="export needs the train extra")
safetensors = pytest.importorskip("safetensors.numpy", reason="the recipe reads safetensors")

from recipes.mini.make import make  # noqa: E402
from recipes.mini.vocabulary import prune  # noqa: E402
from tests import tiny  # noqa: E402

from sightline.encoders.onnx import OnnxEncoder  # noqa: E402
from sightline.train.mini import BOTTLENECKS, FEATURES, Shape  # noqa: E402

pytestmark = pytest.mark.torch
RNG = np.random.default_rng(0)


def random(*shape: int, scale: float | None = None) -> NDArray[np.float32]:
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return RNG.normal(0, scale or (2 / fan_in) ** 0.5, shape).astype(np.float32)


def mobilenet(path: Path) -> None:
    """MobileNetV2 in Gluon's names."""
    arrays: dict[str, Any] = {}

    def layer(prefix: str, number: int, channels: int, inputs: int, size: int) -> None:
        arrays[f"{prefix}conv{number}_weight"] = random(channels, inputs, size, size)
        norms = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}
        for name, value in norms.items():
            arrays[f"{prefix}batchnorm{number}_{name}"] = np.full(channels, value, np.float32)

    body = "mobilenetv20_features_"
    layer(body, 0, 32, 3, 3)
    for n, (channels_in, channels_out, _) in enumerate(BOTTLENECKS):
        wide = channels_in * (6 if n else 1)
        for number, sizes in enumerate([(wide, channels_in, 1), (wide, 1, 3), (channels_out, wide, 1)]):
            layer(f"{body}linearbottleneck{n}_", number, *sizes)
    layer(body, 1, FEATURES, BOTTLENECKS[-1][1], 1)
    np.savez(path, **arrays)


def bert(path: Path) -> None:
    """An encoder of BERT's names and of the sizes of MiniLM, but for its vocabulary."""
    shape = Shape()
    width, wide = shape.hidden, shape.intermediate
    state = {
        "embeddings.word_embeddings.weight": random(len(tiny.WORDS), width),
        "embeddings.position_embeddings.weight": random(80, width, scale=0.1),
        "embeddings.token_type_embeddings.weight": random(2, width, scale=0.1),
    }
    norms = ["embeddings.LayerNorm"]
    for n in range(shape.layers):
        layer = f"encoder.layer.{n}."
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
        linears = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        linears |= {"attention.output.dense": (width, width), "intermediate.dense": (wide, width)}
        for name, sizes in {**linears, "output.dense": (width, wide)}.items():
            state |= {f"{layer}{name}.weight": random(*sizes), f"{layer}{name}.bias": random(sizes[0], scale=0.1)}
    for name in norms:
        state |= {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}
    safetensors.save_file(state, path)


def squeezenet(path: Path) -> None:
    """SqueezeNet 1.1 in Gluon's names, with four classes."""
    sizes = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
    layers, inputs = [(64, 3, 3)], 64
    for narrow, wide in sizes:
        layers += [(narrow, inputs, 1), (wide, narrow, 1), (wide, narrow, 3)]
        inputs = 2 * wide
    arrays: dict[str, Any] = {}
    for n, (channels, before, size) in enumerate([*layers, (4, inputs, 1)]):
        arrays[f"squeezenet0_conv{n}_weight"] = random(channels, before, size, size)
        arrays[f"squeezenet0_conv{n}_bias"] = random(channels, scale=0.1)
    np.savez(path, **arrays)


def test_the_recipe_makes_a_model_that_searches(tmp_path: Path) -> None:
    tiny.coloured_pictures(tmp_path, 12)
    mobilenet(tmp_path / "mobilenet.npz")
    bert(tmp_path / "bert.safetensors")
    squeezenet(tmp_path / "squeezenet.npz")
    tiny.tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\nyellow\n")
    (tmp_path / "mini.toml").write_text(
        'output = "made"\nprecision = "float32"\n'
        '[[data]]\ntable = "captions.tsv"\nimages = "."\nsplit = "train"\nviews = 2\n'
        '[[measure]]\nname = "dev"\ntable = "captions.tsv"\nimages = "."\nsplit = "dev"\n'
        '[parts]\nimage_weights = "mobilenet.npz"\ntext_weights = "bert.safetensors"\n'
        'tokenizer = "tokenizer.json"\nimage_size = 64\nvocabulary_size = 12\nvocabulary_texts = ["names.txt"]\n'
        'classifier = "squeezenet.npz"\nclass_names = "names.txt"\nclassifier_weight = 0.3\nsoft_share = 0.2\n'
        '[teacher]\nanchor_texts = ["names.txt"]\nanchor_weight = 1.0\nanchors_per_step = 2\n'
        "[optimiser]\nsteps = 3\nbatch_size = 6\nwarm_up_steps = 1\nwindow_slack = 1\n"
    )
    outcome = make(tmp_path / "mini.toml", tmp_path, steps=2)
    encoder = OnnxEncoder(outcome.folder)
    assert encoder.dim == Shape().dim
    assert np.isfinite(encoder.encode_texts(["a red photo"])).all()
    config = json.loads((outcome.folder / "config.json").read_text())
    assert config["sightline"]["shape"]["vocabulary_size"] == 12
    assert tiny.restore(outcome.folder).shape.image_size == 64


def test_a_cut_vocabulary_keeps_used_words_and_spells_them_as_before() -> None:
    full = tiny.tokenizer()
    cut, kept = prune(full, ["a red photo"], size=8)
    assert len(kept) == 8
    assert cut.encode("a red photo").tokens == full.encode("a red photo").tokens
    assert [kept[n] for n in cut.encode("a red photo").ids] == full.encode("a red photo").ids
