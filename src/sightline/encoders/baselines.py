"""Two encoders that need no model: coarse pixels, and colours alone, the baselines for looks."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.errors import TextNotSupported
from sightline.types import Pixels, Vectors

_FLAT = 1e-3  # a mean-removed vector shorter than this, of values 0 to 1, is a picture of one colour
_SIDE = 64  # pixels: a colour that fills a thousandth of the picture still counts
_LIGHTNESS = np.array([5, 23, 41, 59, 77, 95], np.float32)
_TINT = np.array([-80, -40, -18, -6, 6, 18, 40, 80], np.float32)  # finer near grey, where most colours of photos lie
_BINS = (len(_LIGHTNESS), len(_TINT), len(_TINT))
_SRGB_TO_XYZ = np.array(  # IEC 61966-2-1, each row divided by the white point D65
    [
        [0.4124 / 0.95047, 0.3576 / 0.95047, 0.1805 / 0.95047],
        [0.2126, 0.7152, 0.0722],
        [0.0193 / 1.08883, 0.1192 / 1.08883, 0.9505 / 1.08883],
    ],
    np.float32,
)
_VALUES = np.arange(256) / 255  # of a channel
_LINEAR = np.where(_VALUES <= 0.04045, _VALUES / 12.92, ((_VALUES + 0.055) / 1.055) ** 2.4).astype(np.float32)


class PixelsEncoder:
    """A coarse grid of colours, its mean removed, at norm 1: near means alike in layout and tint, not in meaning.

    Pictures of a single grey have no layout: they share one vector, at a right angle to every other.
    """

    def __init__(self, side: int = 16) -> None:
        self.name = "pixels"
        self.fingerprint = f"pixels-{side}-1"
        self.dim = 3 * side * side
        self.image_size = side
        self.batch_size = 32

    def preprocess(self, image: Image.Image) -> Pixels:
        """One RGB picture -> (3, side, side), squashed to a square."""
        small = image.convert("RGB").resize((self.image_size, self.image_size), Image.Resampling.BOX)
        return np.asarray(small).transpose(2, 0, 1)  # (side, side, 3) -> (3, side, side)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """(n, 3, side, side) -> (n, dim), rows of norm 1."""
        rows = pixels.reshape(len(pixels), self.dim).astype(np.float32) / 255  # (n, 3, side, side) -> (n, dim)
        rows -= rows.mean(axis=1, keepdims=True)
        rows[np.linalg.norm(rows, axis=1) < _FLAT] = 1.0
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Raises `TextNotSupported`."""
        raise _no_words(self.name)


class ColourEncoder:
    """A histogram over the CIE L*a*b* colours, each pixel shared between the eight nearest bins.

    A vector holds the square roots of the shares, so that the cosine of two vectors is the Bhattacharyya coefficient
    of their histograms (Bhattacharyya 1943): 1 for the same colours in the same amounts, wherever they are in the
    picture, 0 for no colour in common.
    """

    def __init__(self) -> None:
        self.name = "colour"
        self.fingerprint = "colour-lab-1"
        self.dim = int(np.prod(_BINS))
        self.image_size = _SIDE
        self.batch_size = 32

    def preprocess(self, image: Image.Image) -> Pixels:
        """One RGB picture -> (3, 64, 64), squashed to a square, which leaves the shares as they are."""
        small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
        return np.asarray(small).transpose(2, 0, 1)  # (side, side, 3) -> (3, side, side)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """(n, 3, side, side) -> (n, dim), rows of norm 1."""
        rows = np.zeros((len(pixels), self.dim), np.float32)
        for row, picture in enumerate(pixels):
            rows[row] = np.sqrt(_histogram(_lab(picture)))
        return rows

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Raises `TextNotSupported`."""
        raise _no_words(self.name)


def _no_words(name: str) -> TextNotSupported:
    return TextNotSupported(
        f"model {name!r} has no text encoder: search by a picture instead, "
        "or index with another model, such as --model mini, to search by words"
    )


def _lab(picture: Pixels) -> NDArray[np.float32]:
    """(3, height, width) of sRGB -> (3, height * width) of L*, a*, b* (CIE 15:2004)."""
    xyz = _SRGB_TO_XYZ @ _LINEAR[picture.reshape(3, -1)]  # (3, 3) @ (3, pixels) -> (3, pixels)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)]).astype(np.float32)


def _histogram(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, pixels) -> (dim,), the share of each bin; they add up to 1."""
    lower, shares = [], []  # the bin below each value, and how far it lies on the way to the next, 0 to 1
    for values, centres in zip(lab, (_LIGHTNESS, _TINT, _TINT), strict=True):
        position = np.interp(values, centres, np.arange(len(centres)))
        lower.append(np.minimum(position.astype(np.intp), len(centres) - 2))
        shares.append(position - lower[-1])
    total = np.zeros(int(np.prod(_BINS)))
    for corner in product((0, 1), repeat=3):
        bins = np.ravel_multi_index(tuple(one + step for one, step in zip(lower, corner, strict=True)), _BINS)
        weights = [share if step else 1 - share for share, step in zip(shares, corner, strict=True)]
        total += np.bincount(bins, weights[0] * weights[1] * weights[2], len(total))
    return np.asarray(total / total.sum(), np.float32)
