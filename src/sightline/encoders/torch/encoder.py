"""A model of another library as an encoder that runs in torch."""

import threading
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightline.encoders.preprocess import VERSION, normalised, pixels
from sightline.encoders.torch.towers import Towers
from sightline.errors import EncoderError, TextNotSupported, UsageError
from sightline.types import Pixels, Vectors

_BATCH_CPU = 8
_BATCH_GPU = 64
_TEXTS = 64  # texts in one run at most, which bounds the memory
_CHARACTERS = 8_000  # more than any of these models reads; a megabyte without a space takes seconds to tokenise
_SAMPLES = 256  # values of each weight that go into the fingerprint


class TorchEncoder:
    """A model of another library as an encoder; all methods are safe in many threads."""

    def __init__(self, towers: Towers, provider: str | None = None) -> None:
        self.towers, self._device = towers, _device(provider)
        towers.model.eval().requires_grad_(False).float().to(self._device)
        self._reading = threading.Lock()  # a fast tokenizer in two threads raises "Already borrowed"
        config = towers.preprocessing
        self.name = towers.name
        self.fingerprint = _fingerprint(towers, ())
        self.picture_fingerprint = _fingerprint(towers, towers.picture_weights)
        self.image_size = config.reach
        self.batch_size = _BATCH_GPU if self._device == "cuda" else _BATCH_CPU
        self.logit_scale, self.logit_bias = towers.logit_scale, towers.logit_bias
        self.dim = towers.dim()

    def preprocess(self, image: Image.Image) -> Pixels:
        """One upright RGB picture -> (3, height, width)."""
        return pixels(image, self.towers.preprocessing)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """(n, 3, height, width) of uint8 -> (n, dim), rows of norm 1."""
        config = self.towers.preprocessing
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, config.height, config.width):
            raise UsageError(
                f"pixels are {pixels.dtype}{list(pixels.shape)}, expected uint8 (n, 3, {config.height}, "
                f"{config.width}): stack what preprocess gives"
            )
        if not len(pixels):
            return np.empty((0, self.dim), np.float32)
        batch = torch.from_numpy(normalised(pixels, config, np.float32)).to(self._device)
        with torch.inference_mode():
            return _unit(self.towers.image(batch))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> (n, dim), rows of norm 1. What a text has beyond the model's length is ignored."""
        text = self.towers.text
        if text is None:
            raise TextNotSupported(
                f"model {self.name!r} has no text encoder: search by a picture instead, "
                "or index with a two-tower model, such as --model mini, to search by words"
            )
        # a file name may bring half a character, which no tokenizer takes
        sound = [one[:_CHARACTERS].encode("utf-16", "surrogatepass").decode("utf-16", "replace") for one in texts]
        rows = [np.empty((0, self.dim), np.float32)]
        for at in range(0, len(sound), _TEXTS):
            with self._reading:
                tokens = text.tokens(sound[at : at + _TEXTS])
            with torch.inference_mode():
                rows.append(_unit(text.module(*(values.to(self._device) for values in tokens))))
        return np.concatenate(rows)


def _device(provider: str | None) -> str:
    """Where torch computes: on CUDA if it is there, unless another place was asked for."""
    if provider not in (None, "cpu", "cuda"):
        raise UsageError(f"the provider is {provider!r}, expected cpu or cuda: models in torch know no other")
    if provider == "cuda" and not torch.cuda.is_available():
        raise EncoderError(f"torch {torch.__version__} finds no GPU, expected one for 'cuda': leave the provider out")
    return provider or ("cuda" if torch.cuda.is_available() else "cpu")


def _unit(vectors: Tensor) -> Vectors:
    rows = vectors.float().cpu().numpy()
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.all()):
        raise EncoderError(
            "the model gave a vector without a direction (not a number, or zero), expected finite values: "
            "check that its weights were trained and loaded whole"
        )
    return np.asarray(rows / norms, np.float32)


def _fingerprint(towers: Towers, names: tuple[str, ...]) -> str:
    """A short hash of architecture, preprocessing and a sample of each weight: training moves nearly every value."""
    digest = sha256(f"preprocessing {VERSION} {towers.architecture} {towers.preprocessing} {names}".encode())
    state = {name.removeprefix(towers.moved_prefix): weight for name, weight in towers.model.state_dict().items()}
    for name, weight in sorted(state.items()):
        if not names or name.startswith(names):
            flat = weight.detach().reshape(-1)
            sample = flat[:: max(1, len(flat) // _SAMPLES)].float().cpu().numpy()
            digest.update(f"\n{name} {tuple(weight.shape)} ".encode() + sample.tobytes())
    return digest.hexdigest()[:16]
