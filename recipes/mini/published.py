"""The state of a tower from published weights, with batch norms folded and the vocabulary cut."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import functional

from sightline.train.mini import BOTTLENECKS, ImageTower, MiniTowers
from sightline.train.model import device_of
from sightline.train.pictures import Pictures

BATCH_NORM_EPS = 1e-5
Array = NDArray[np.float32]


def mobilenet_state(path: Path) -> dict[str, Tensor]:
    """The convolutions of an image tower from an .npz of MobileNetV2 1.0 in Gluon's names; heads are not in it."""
    arrays: Mapping[str, Array] = np.load(path)
    body = "mobilenetv20_features_"
    state = _folded(arrays, "first", body, number=0)
    for n in range(len(BOTTLENECKS)):
        for number, name in enumerate(("expand", "depthwise", "project")):
            state |= _folded(arrays, f"blocks.{n}.{name}", f"{body}linearbottleneck{n}_", number=number)
    return state | _folded(arrays, "last", body, number=1)


def _folded(arrays: Mapping[str, Array], name: str, prefix: str, *, number: int) -> dict[str, Tensor]:
    norm = f"{prefix}batchnorm{number}_"
    gain = arrays[norm + "gamma"] / np.sqrt(arrays[norm + "running_var"] + BATCH_NORM_EPS)
    weight = arrays[f"{prefix}conv{number}_weight"] * gain[:, None, None, None]
    bias = arrays[norm + "beta"] - arrays[norm + "running_mean"] * gain
    return {f"{name}.weight": torch.from_numpy(weight), f"{name}.bias": torch.from_numpy(bias)}


def bert_state(path: Path, kept: Sequence[int], *, context_length: int) -> dict[str, Tensor]:
    """The layers of a text tower from a BERT safetensors file, with the rows of the vocabulary that are `kept`.

    Token type 0 is added to the positions, since every token of a query is of that type.
    """
    arrays: Mapping[str, Array] = load_file(path)
    norm = "embeddings.LayerNorm."
    positions = arrays["embeddings.position_embeddings.weight"][:context_length]
    state = {
        "words.weight": arrays["embeddings.word_embeddings.weight"][list(kept)],
        "positions.weight": positions + arrays["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": arrays[norm + "weight"],
        "norm.bias": arrays[norm + "bias"],
    }
    layers = 1 + max(int(name.split(".")[2]) for name in arrays if name.startswith("encoder.layer."))
    for n in range(layers):
        state |= _bert_layer(arrays, f"encoder.layer.{n}.", f"layers.{n}.")
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def _bert_layer(arrays: Mapping[str, Array], theirs: str, ours: str) -> dict[str, Array]:
    names = {
        "attended": "attention.output.dense",
        "attended_norm": "attention.output.LayerNorm",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "narrow_norm": "output.LayerNorm",
    }
    state = {
        f"{ours}{a}.{kind}": arrays[f"{theirs}{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        parts = [arrays[f"{theirs}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"{ours}attend.{kind}"] = np.concatenate(parts)
    return state


@torch.no_grad()
def fit_image_head(model: MiniTowers, pictures: Pictures, texts: Sequence[Tensor], *, ridge: float = 0.3) -> None:
    """Sets the image tower's linear head to the ridge regression from its features to the mean text of each picture.

    The pair of towers then finds a third of the right pictures before the first step (recall@10 35 % of 1,000).
    """
    features = _features(model.image.eval(), pictures)
    sentences = torch.stack([rows.mean(dim=0) for rows in texts])
    targets = functional.normalize(sentences, dim=-1)
    centre, target_centre = features.mean(dim=0), targets.mean(dim=0)
    centred = features - centre
    square = centred.T @ centred  # (features, n) @ (n, features)
    square += torch.eye(len(square)) * square.diagonal().mean() * ridge
    weight = torch.linalg.solve(square, centred.T @ (targets - target_centre))  # (features, dim)
    model.image.projection.weight.copy_(weight.T)
    model.image.projection.bias.copy_(target_centre - centre @ weight)


def _features(tower: ImageTower, pictures: Pictures) -> Tensor:
    """N maps -> (n, 1280): the average of the last map."""
    device = device_of(tower)
    batches = (pictures.batch(start, start + 64).to(device) for start in range(0, len(pictures), 64))
    return torch.cat([tower.features(batch).mean(dim=(2, 3)).cpu() for batch in batches])
