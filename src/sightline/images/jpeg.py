"""JPEG files whose last bytes are missing: taken when nearly all of their rows can be decoded."""

import re
from io import BytesIO

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

ENOUGH = 0.95
"""The share of rows that must be there."""

_END = b"\xff\xd9"
_LAST_BITS = re.compile(rb"\xff\xda\0\x08\x01(.).[\x01-\x3f].[\0\x10]", re.DOTALL)
"""A scan of one component's AC coefficients down to their last bit (ITU T.81, B.2.3 and G.1.1)."""


def without_end(data: bytes, target: tuple[int, int]) -> tuple[JpegImageFile, float] | None:
    """The picture of a file that ends early, loaded, and the share of its rows that are there; None if too few are.

    Rows are there if they come out the same whatever follows the end: nothing, or bytes at random.
    """
    if not _has_all_scans(data):
        return None
    noise = np.random.default_rng(0).integers(0, 255, 1 << 14, np.uint8).tobytes()  # no 255, which begins a marker
    whole_bytes = data.rstrip(b"\xff")  # else the half of a marker would make one with the noise
    pictures = []
    for rest in (_END, noise + _END):
        file = JpegImageFile(BytesIO(whole_bytes + rest))
        file.draft(None, target)
        file.load()
        pictures.append(file)
    first, second = (np.asarray(picture) for picture in pictures)
    same = (first == second).reshape(len(first), -1).all(axis=1)  # (height, width, channels) -> (height,)
    share = 1.0 if same.all() else int(same.argmin()) / len(same)
    return (pictures[0], share) if share >= ENOUGH else None


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a progressive file with the last bits have begun, for each of its components."""
    start = re.search(rb"\xff\xc2\0.\x08", data, re.DOTALL)
    if start is None:
        return True
    components = data[start.end() + 4]
    return len(set(_LAST_BITS.findall(data, start.end()))) == components
