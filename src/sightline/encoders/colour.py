"""An encoder of colours alone: the baseline for looks, which needs no model."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.errors import TextNotSupported
from sightline.types import Pixels, Vectors

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
        raise TextNotSupported(
            "model 'colour' has no text encoder: search by a picture instead, "
            "or index with another model, such as --model mini, to search by words"
        )


def _histogram(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, pixels) -> (dim,), the share of each bin; they add up to 1."""
    places = [_place(values, centres) for values, centres in zip(lab, (_LIGHTNESS, _TINT, _TINT), strict=True)]
    total = np.zeros(int(np.prod(_BINS)))
    for corner in product((0, 1), repeat=3):
        bins = tuple(lower + step for (lower, _), step in zip(places, corner, strict=True))
        shares = [share if step else 1 - share for (_, share), step in zip(places, corner, strict=True)]
        total += np.bincount(np.ravel_multi_index(bins, _BINS), shares[0] * shares[1] * shares[2], len(total))
    return np.asarray(total / total.sum(), np.float32)


def _place(values: NDArray[np.float32], centres: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The bin below each value, and how far it lies on the way to the next, 0 to 1."""
    position = np.interp(values, centres, np.arange(len(centres)))
    lower = np.minimum(position.astype(np.intp), len(centres) - 2)
    return lower, position - lower


def _lab(picture: Pixels) -> NDArray[np.float32]:
    """(3, height, width) of sRGB -> (3, height * width) of L*, a*, b* (CIE 15:2004)."""
    xyz = _SRGB_TO_XYZ @ _LINEAR[picture.reshape(3, -1)]  # (3, 3) @ (3, pixels) -> (3, pixels)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)]).astype(np.float32)


def _linear() -> NDArray[np.float32]:
    """The light of each of the 256 values of a channel, 0 to 1."""
    values = np.arange(256) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _linear()
